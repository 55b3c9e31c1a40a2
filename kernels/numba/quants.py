"""Blocks of quantized numbers, unpacked by vectors: `tinygrad_llm.ops.quantized_linear` has the layouts.

An intrinsic is given bytes and where in them to start, and an array `x` of the numbers that are wanted, of which only
the type matters.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tinygrad_llm.kernels.numba.common import helper
from tinygrad_llm.kernels.numba.simd import Vector, fma, load, prefetch, spread, store, total
from tinygrad_llm.kernels.numba.vectors import NUMBERS, lanes
from tinygrad_llm.ops.quantized_linear import BLOCK, BYTES

BYTE, HALF = ir.IntType(8), BLOCK // 2
Q8_0, Q4_0, Q4_1 = (BYTES[type] for type in ("Q8_0", "Q4_0", "Q4_1"))  # each type's bytes of a block tell which it is
PLAIN = 0  # no blocks, but numbers
AHEAD = 2048  # bytes that are asked for before they are wanted: unpacking keeps a core too busy to run ahead by itself


def read(context, builder, blocks, array, start, kind):
    """A value of this LLVM type from the bytes."""
    address = builder.gep(context.make_array(blocks)(context, builder, array).data, [start])
    value = builder.load(builder.bitcast(address, kind.as_pointer()))
    value.align = 1
    return value


@intrinsic
def float16(typing_context, x, blocks, start):
    """The float16 at `start`."""

    def generate(context, builder, signature, arguments):
        return builder.fpext(read(context, builder, blocks, *arguments[1:], ir.HalfType()), NUMBERS[x.dtype])

    return x.dtype(x, blocks, types.int64), generate


@intrinsic
def signed(typing_context, x, blocks, start):
    """A vector of bytes, as whole numbers from -128 to 127."""

    def generate(context, builder, signature, arguments):
        value = read(context, builder, blocks, *arguments[1:], ir.VectorType(BYTE, lanes(x)))
        return builder.sitofp(value, context.get_value_type(signature.return_type))

    return Vector(x.dtype)(x, blocks, types.int64), generate


@intrinsic
def plain(typing_context, x, blocks, start):
    """A vector of x's numbers, as they are."""

    def generate(context, builder, signature, arguments):
        return read(context, builder, blocks, *arguments[1:], context.get_value_type(signature.return_type))

    return Vector(x.dtype)(x, blocks, types.int64), generate


def four_bits(shift: int):
    """An intrinsic: a vector of those bits, from 0 to 15, of bytes."""

    @intrinsic
    def numbers(typing_context, x, blocks, start):
        def generate(context, builder, signature, arguments):
            whole = ir.VectorType(ir.IntType(x.dtype.bitwidth), lanes(x))
            value = read(context, builder, blocks, *arguments[1:], ir.VectorType(BYTE, lanes(x)))
            shifted = builder.lshr(builder.zext(value, whole), ir.Constant(whole, [shift] * lanes(x)))
            value = builder.and_(shifted, ir.Constant(whole, [15] * lanes(x)))
            return builder.sitofp(value, context.get_value_type(signature.return_type))

        return Vector(x.dtype)(x, blocks, types.int64), generate

    return numbers


lower, upper = four_bits(0), four_bits(4)


def layout(size: int):
    """(dot, unpack) for blocks of so many bytes: products with numbers, and the numbers themselves."""

    @helper
    def step(x):
        return BLOCK * x.itemsize if size == PLAIN else size

    @helper
    def numbers(x, blocks, start, j):
        """A vector of the numbers from j on of the block at `start`."""
        if size == PLAIN:
            return plain(x, blocks, start + j * x.itemsize)
        d = spread(x, float16(x, blocks, start))
        if size == Q8_0:
            return signed(x, blocks, start + 2 + j) * d
        m = spread(x, float16(x, blocks, start + 2)) if size == Q4_1 else d * -8.0
        q = start + size - HALF + j % HALF
        return fma(lower(x, blocks, q) if j < HALF else upper(x, blocks, q), d, m)

    @helper
    def dot(x, x_start, blocks, start, count):
        """The sum of x[x_start + k] w[k], for the numbers w of `count` blocks side by side."""
        a = b = spread(x, 0.0)
        for i in range(count):
            if size != PLAIN:
                prefetch(blocks, start + i * size + AHEAD)
            for j in range(0, HALF, lanes(x)):
                place, block = x_start + i * BLOCK + j, start + i * step(x)
                a = fma(numbers(x, blocks, block, j), load(x, place), a)
                b = fma(numbers(x, blocks, block, HALF + j), load(x, place + HALF), b)
        return total(a + b)

    @helper
    def unpack(blocks, start, count, w, w_start):
        """w[w_start + k] = the numbers of `count` blocks side by side."""
        for i in range(count):
            for j in range(0, HALF, lanes(w)):
                place, block = w_start + i * BLOCK + j, start + i * step(w)
                low, high = numbers(w, blocks, block, j), numbers(w, blocks, block, HALF + j)
                store(w, place, low)
                store(w, place + HALF, high)

    return dot, unpack


dot_plain, _ = layout(PLAIN)
dot_q8_0, unpack_q8_0 = layout(Q8_0)
dot_q4_0, unpack_q4_0 = layout(Q4_0)
dot_q4_1, unpack_q4_1 = layout(Q4_1)


@helper
def dot_blocks(x, x_start, blocks, start, size, count):
    """The product of numbers and `count` blocks of `size` bytes."""
    if size == PLAIN:
        return dot_plain(x, x_start, blocks, start, count)
    if size == Q8_0:
        return dot_q8_0(x, x_start, blocks, start, count)
    if size == Q4_0:
        return dot_q4_0(x, x_start, blocks, start, count)
    return dot_q4_1(x, x_start, blocks, start, count)


@helper
def unpack(blocks, start, size, count, w, w_start):
    """Write the numbers of `count` blocks of `size` bytes."""
    if size == Q8_0:
        unpack_q8_0(blocks, start, count, w, w_start)
    elif size == Q4_0:
        unpack_q4_0(blocks, start, count, w, w_start)
    else:
        unpack_q4_1(blocks, start, count, w, w_start)


@helper
def dot_row(x, x_start, blocks, row, size, columns):
    """The product of numbers and a row of a matrix that has so many columns."""
    count = columns // BLOCK
    return dot_blocks(x, x_start, blocks, row * count * (BLOCK * x.itemsize if size == PLAIN else size), size, count)
