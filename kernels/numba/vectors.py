"""What Numba cannot say and LLVM's own language can: loops over whole vectors of numbers, held in registers.

`multiply_tile` is the heart of `product` and `attention`. It holds a tile of C, some rows of a few vectors, while it
runs along k: for each k it loads a row of B and, for each row of C, one number of A that it spreads over a vector. For
R rows of V vectors that is R V multiply-adds and R + V loads, and besides the tile's registers V + 1 more, which are
nearly all that there are. A core could do as many loads as multiply-adds, did it not have to bring what it loads from
farther caches at the same time: the fewer loads the better, so the nearer R is to V. But a tile that is wider than the
matrix would be partly idle: at the right rim it has fewer vectors. `product` has R = 8 and V = 3; `attention`, whose
matrices are often as narrow as a head, of 64 numbers or so, has R = 6 and V = 4. C itself is asked for at the
beginning, and has arrived at the end.

`copy` and `transpose` bring matrices into the order in which it reads them: a *strip* is R rows of A, a *panel* V
vectors' columns of B, and both are stored k after k. LLVM's `fmuladd` is one instruction where the machine has such,
and elsewhere two: its `fma` would there call the C library for each number.

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

INDEX, LANE = ir.IntType(64), ir.IntType(32)
NUMBERS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


def by_type(function: Callable) -> Callable:
    """Let leaves call a function of an array's type, too: there it is a constant."""

    @overload(function)
    def inside_a_leaf(array):
        value = function(array)
        return lambda array: value

    return function


@by_type
def lanes(array) -> int:
    """How many of the array's numbers a vector holds."""
    return BITS // array.dtype.bitwidth


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


def multiply_tile(rows: int, vectors: int):
    """An intrinsic: C[i, j] = S[i, j] + sum_k A[i, k] B[k, j], for so many rows i, j < columns and k < depth.

    It computes whole vectors, of which it holds so many at most. S may be C.
    """

    @intrinsic
    def kernel(
        typing_context, a, a_start, a_row, a_column, b, b_start, b_row, depth, s, s_start, s_row, c, c_start, c_row,
        columns,
    ):  # fmt: skip
        def generate(context, builder, signature, arguments):
            matrices = [
                Memory(context, builder, signature.args[i], arguments[i], arguments[i + 1]) for i in (0, 4, 8, 11)
            ]
            *strides, columns = (arguments[i] for i in (2, 3, 6, 7, 10, 13, 14))
            end = builder.append_basic_block("end")
            for count in range(1, vectors):
                few = builder.icmp_signed("<=", columns, INDEX(count * lanes(c)))
                with builder.if_then(few):
                    _multiply_tile(builder, rows, count, lanes(c), *matrices, *strides)
                    builder.branch(end)
            _multiply_tile(builder, rows, vectors, lanes(c), *matrices, *strides)
            builder.branch(end)
            builder.position_at_end(end)
            return context.get_dummy_value()

        two, three = (types.int64,) * 2, (types.int64,) * 3
        return types.void(a, *three, b, *three, s, *two, c, *two, types.int64), generate

    return kernel


def _multiply_tile(builder, rows, vectors, count, a, b, s, c, a_row, a_column, b_row, depth, s_row, c_row) -> None:
    """The instructions for a tile of so many vectors of `count` numbers."""
    vector = ir.VectorType(c.number, count)
    fma_type, fma_name = ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{count}f{8 * c.size}"
    fma = cgutils.get_or_insert_function(builder.module, fma_type, fma_name)
    tile = [(i, j) for i in range(rows) for j in range(vectors)]
    results = {(i, j): builder.gep(c.at(c_row, i), [INDEX(j * count)]) for i, j in tile}
    for address in results.values():
        prefetch_at(builder, address)
    offsets = [builder.mul(a_row, INDEX(i)) for i in range(rows)]

    # for k in range(depth): sums[i, :] += a[i, k] * b[k, :]
    before, loop, after = builder.block, builder.append_basic_block("k"), builder.append_basic_block("after")
    builder.branch(loop)
    builder.position_at_end(loop)
    k, a_k, b_k = builder.phi(INDEX), builder.phi(a.start.type), builder.phi(b.start.type)
    sums = {place: builder.phi(vector) for place in tile}
    zeros = ir.Constant(vector, [c.number(0.0)] * count)
    for phi, value in [(k, INDEX(0)), (a_k, a.start), (b_k, b.start), *((s, zeros) for s in sums.values())]:
        phi.add_incoming(value, before)
    row = [b.load(builder.gep(b_k, [INDEX(j * count)]), count) for j in range(vectors)]
    added = {}
    for i in range(rows):
        spread = splat(builder, builder.load(builder.gep(a_k, [offsets[i]])), vector)
        for j in range(vectors):
            added[i, j] = builder.call(fma, [spread, row[j], sums[i, j]])
    next_k = builder.add(k, INDEX(1))
    steps = [(k, next_k), (a_k, builder.gep(a_k, [a_column])), (b_k, builder.gep(b_k, [b_row]))]
    for phi, value in [*steps, *((sums[place], added[place]) for place in tile)]:
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", next_k, depth), loop, after)

    # c[i, :] = s[i, :] + sums[i, :]
    builder.position_at_end(after)
    for i, j in tile:
        before_it = s.load(builder.gep(s.at(s_row, i), [INDEX(j * count)]), count)
        c.store(builder.fadd(before_it, added[i, j]), results[i, j])


def prefetch_at(builder, address) -> None:
    """Ask for what is at the address to be in the cache soon."""
    pointer = builder.bitcast(address, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, LANE, LANE, LANE])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(prefetch, [pointer, LANE(0), LANE(3), LANE(1)])


def splat(builder, value, vector):
    """A vector with the value in every lane."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, LANE(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(LANE, vector.count), [0] * vector.count))


def copy(width: Callable):
    """An intrinsic: y[j] = x[j], for as many j as `width` says."""

    @intrinsic
    def kernel(typing_context, x, x_start, y, y_start):
        def generate(context, builder, signature, arguments):
            source = Memory(context, builder, x, arguments[0], arguments[1])
            target = Memory(context, builder, y, arguments[2], arguments[3])
            for first in range(0, width(x), lanes(x)):
                place = INDEX(first)
                vector = source.load(builder.gep(source.start, [place]), min(lanes(x), width(x) - first))
                target.store(vector, builder.gep(target.start, [place]))
            return context.get_dummy_value()

        return types.void(x, types.int64, y, types.int64), generate

    return kernel


def transpose(width: Callable):
    """An intrinsic: Y[k, j] = X[j, k], for a vector of k and as many j as `width` says.

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
                    place = builder.gep(target.at(arguments[5], k), [INDEX(first)])
                    target.store(shorten(builder, row, len(kept)), place)
            return context.get_dummy_value()

        return types.void(x, types.int64, types.int64, y, types.int64, types.int64), generate

    return kernel


def shorten(builder, vector, count: int):
    """The vector's first `count` numbers."""
    nothing = ir.Constant(vector.type, ir.Undefined)
    return builder.shuffle_vector(vector, nothing, ir.Constant(ir.VectorType(LANE, count), list(range(count))))


def exchange(builder, upper, lower, step: int):
    """The two vectors with every other run of `step` numbers exchanged: the second of upper's, the first of lower's."""
    count = upper.type.count
    first = [p + count - step if p & step else p for p in range(count)]
    second = [p + count if p & step else p + step for p in range(count)]
    mask = ir.VectorType(LANE, count)
    return tuple(builder.shuffle_vector(upper, lower, ir.Constant(mask, places)) for places in (first, second))
