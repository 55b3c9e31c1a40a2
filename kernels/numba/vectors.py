"""What Numba cannot say and LLVM's own language can: loops over whole vectors of numbers, held in registers.

`multiply_tile` is the heart of `product` and `attention`. It holds a tile of C, ROWS rows of two vectors, while it runs
along k: for each k it loads two vectors of B and, for each row, one number of A that it spreads over a vector, for
2 ROWS multiply-adds. So a number from memory is used ROWS times, or as often as two vectors are long, and hardly a
register is left over: a core cannot multiply faster. `copy` and `transpose` bring matrices into the order in which it
reads them: a *strip* is ROWS rows of A, a *panel* two vectors' columns of B, and both are stored k after k, each k in
whole vectors. LLVM's `fmuladd` is one instruction where the machine has such, and elsewhere two: its `fma` would there
call the C library for each number.

All take one-dimensional arrays, where in them to start, and strides, all in numbers; nothing checks the bounds.
"""

from collections.abc import Callable

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

AVX512 = "+avx512f" in (numba.config.CPU_FEATURES or "")
BITS = 512 if AVX512 else 256  # of a vector; where a machine's are shorter, LLVM takes two
ROWS = 12 if AVX512 else 6  # 2 ROWS accumulators, and three more, are the registers that there are

INDEX, LANE = ir.IntType(64), ir.IntType(32)
NUMBERS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


def size(function: Callable) -> Callable:
    """Let leaves call a function of an array's type, too: there it is a constant."""

    @overload(function)
    def inside_a_leaf(array):
        value = function(array)
        return lambda array: value

    return function


@size
def lanes(array) -> int:
    """How many of the array's numbers a vector holds."""
    return BITS // array.dtype.bitwidth


@size
def strip_width(array) -> int:
    """How many rows of A a tile has."""
    return ROWS


@size
def panel_width(array) -> int:
    """How many columns of B a tile has."""
    return 2 * lanes(array)


@size
def strip_step(array) -> int:
    """How many numbers a strip has for each k: its rows, in whole vectors."""
    return -(-ROWS // lanes(array)) * lanes(array)


class Memory:
    """Vectors of an array's numbers, loaded from and stored at places in it."""

    def __init__(self, context, builder, array_type, array, start):
        self.builder, self.number = builder, NUMBERS[array_type.dtype]
        self.size = array_type.dtype.bitwidth // 8
        data = context.make_array(array_type)(context, builder, array).data
        self.start = builder.gep(builder.bitcast(data, self.number.as_pointer()), [start])

    def at(self, stride, times: int):
        """The address `times` strides from the start."""
        return self.builder.gep(self.start, [self.builder.mul(stride, INDEX(times))])

    def load(self, address, count: int):
        vector = self.builder.load(self.builder.bitcast(address, ir.VectorType(self.number, count).as_pointer()))
        vector.align = self.size
        return vector

    def store(self, vector, address) -> None:
        self.builder.store(vector, self.builder.bitcast(address, vector.type.as_pointer())).align = self.size


@intrinsic
def multiply_tile(
    typing_context, a, a_start, a_row, a_column, b, b_start, b_row, depth, s, s_start, s_row, c, c_start, c_row
):
    """C[i, :] = S[i, :] + sum_k A[i, k] B[k, :] for ROWS rows i, two vectors of columns, and k < depth; S may be C."""
    count = lanes(c)

    def generate(context, builder, signature, arguments):
        a, b, s, c = (
            Memory(context, builder, signature.args[i], arguments[i], arguments[i + 1]) for i in (0, 4, 8, 11)
        )
        a_row, a_column, b_row, depth, s_row, c_row = (arguments[i] for i in (2, 3, 6, 7, 10, 13))
        vector = ir.VectorType(c.number, count)
        fma_type, fma_name = ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{count}f{8 * c.size}"
        fma = cgutils.get_or_insert_function(builder.module, fma_type, fma_name)
        offsets = [builder.mul(a_row, INDEX(i)) for i in range(ROWS)]
        tile = [(i, half) for i in range(ROWS) for half in (0, 1)]

        # for k in range(depth): sums[i, :] += a[i, k] * b[k, :]
        before, loop, after = builder.block, builder.append_basic_block("k"), builder.append_basic_block("after")
        builder.branch(loop)
        builder.position_at_end(loop)
        k, a_k, b_k = builder.phi(INDEX), builder.phi(a.start.type), builder.phi(b.start.type)
        sums = {place: builder.phi(vector) for place in tile}
        zeros = ir.Constant(vector, [c.number(0.0)] * count)
        for phi, value in [(k, INDEX(0)), (a_k, a.start), (b_k, b.start), *((s, zeros) for s in sums.values())]:
            phi.add_incoming(value, before)
        columns = [b.load(builder.gep(b_k, [INDEX(half * count)]), count) for half in (0, 1)]
        added = {}
        for i, half in tile:
            if half == 0:
                spread = splat(builder, builder.load(builder.gep(a_k, [offsets[i]])), vector)
            added[i, half] = builder.call(fma, [spread, columns[half], sums[i, half]])
        next_k = builder.add(k, INDEX(1))
        steps = [(k, next_k), (a_k, builder.gep(a_k, [a_column])), (b_k, builder.gep(b_k, [b_row]))]
        for phi, value in [*steps, *((sums[place], added[place]) for place in tile)]:
            phi.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("<", next_k, depth), loop, after)

        # c[i, :] = s[i, :] + sums[i, :]
        builder.position_at_end(after)
        for i, half in tile:
            before_it = s.load(builder.gep(s.at(s_row, i), [INDEX(half * count)]), count)
            c.store(builder.fadd(before_it, added[i, half]), builder.gep(c.at(c_row, i), [INDEX(half * count)]))
        return context.get_dummy_value()

    two, three = (types.int64,) * 2, (types.int64,) * 3
    return types.void(a, *three, b, *three, s, *two, c, *two), generate


def splat(builder, value, vector):
    """A vector with the value in every lane."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, LANE(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(LANE, vector.count), [0] * vector.count))


def copy(width: Callable):
    """An intrinsic: y[j] = x[j], for as many j as `width` says; y is written in whole vectors."""

    @intrinsic
    def kernel(typing_context, x, x_start, y, y_start):
        def generate(context, builder, signature, arguments):
            source = Memory(context, builder, x, arguments[0], arguments[1])
            target = Memory(context, builder, y, arguments[2], arguments[3])
            for first in range(0, width(x), lanes(x)):
                place = INDEX(first)
                vector = source.load(builder.gep(source.start, [place]), min(lanes(x), width(x) - first))
                target.store(lengthen(builder, vector, lanes(x)), builder.gep(target.start, [place]))
            return context.get_dummy_value()

        return types.void(x, types.int64, y, types.int64), generate

    return kernel


def transpose(width: Callable):
    """An intrinsic: Y[k, j] = X[j, k], for a vector of k and as many j as `width` says; Y is written in whole vectors.

    A vector at a time, by halves: exchange every other number between rows j and j + 1, every other pair between j and
    j + 2, and so on. After log2(lanes) rounds each vector holds what was a column. x_row and y_row are strides.
    """

    @intrinsic
    def kernel(typing_context, x, x_start, x_row, y, y_start, y_row):
        count = lanes(x)

        def generate(context, builder, signature, arguments):
            source = Memory(context, builder, x, arguments[0], arguments[1])
            target = Memory(context, builder, y, arguments[3], arguments[4])
            for first in range(0, width(x), count):
                kept = range(first, min(first + count, width(x)))
                rows = [source.load(source.at(arguments[2], j), count) for j in kept]
                rows += [ir.Constant(rows[0].type, ir.Undefined)] * (count - len(rows))
                step = 1
                while step < count:
                    for j in (j for j in range(count) if not j & step):
                        rows[j], rows[j + step] = exchange(builder, rows[j], rows[j + step], step)
                    step *= 2
                for k, row in enumerate(rows):
                    target.store(row, builder.gep(target.at(arguments[5], k), [INDEX(first)]))
            return context.get_dummy_value()

        return types.void(x, types.int64, types.int64, y, types.int64, types.int64), generate

    return kernel


def lengthen(builder, vector, count: int):
    """The vector with anything behind its numbers, up to `count`."""
    places = [min(p, vector.type.count) for p in range(count)]
    nothing = ir.Constant(vector.type, ir.Undefined)
    return builder.shuffle_vector(vector, nothing, ir.Constant(ir.VectorType(LANE, count), places))


def exchange(builder, upper, lower, step: int):
    """The two vectors with every other run of `step` numbers exchanged: the second of upper's, the first of lower's."""
    count = upper.type.count
    first = [p + count - step if p & step else p for p in range(count)]
    second = [p + count if p & step else p + step for p in range(count)]
    mask = ir.VectorType(LANE, count)
    return tuple(builder.shuffle_vector(upper, lower, ir.Constant(mask, places)) for places in (first, second))
