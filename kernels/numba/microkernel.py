"""The microkernel: a tile of C += A B held in vector registers, which Numba cannot say and LLVM's own language can.

Along k, for each k, it loads two vectors of B and, for each row, one number of A that it spreads over a vector, for
2 ROWS @@
"""

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

AVX512 = llvm.get_host_cpu_features().get("avx512f", False)
BITS = 512 if AVX512 else 256  # of a vector
ROWS = 12 if AVX512 else 6  # 2 ROWS accumulators, and three more, are the registers that there are


def microkernel(rows: int):
    """An intrinsic: C[i, :] (+)= sum_k A[i, k] B[k, :] for `rows` rows and the columns of two vectors.

    Arguments: a, its offset and the strides of its rows and columns; b, its offset and the stride of its rows, whose
    numbers are side by side; the number of k, at least 1; c, its offset and the stride of its rows; whether to add.
    Offsets and strides count numbers.
    """

    @intrinsic
    def kernel(typing_context, a, a_start, a_row, a_column, b, b_start, b_row, depth, c, c_start, c_row, add):
        number = ir.FloatType() if c.dtype == types.float32 else ir.DoubleType()
        lanes = width(c.dtype)
        vector, index = ir.VectorType(number, lanes), ir.IntType(64)

        def generate(context, builder, signature, arguments):
            def constant(value):
                return ir.Constant(index, value)

            def pointer(position, start):
                array = context.make_array(signature.args[position])(context, builder, arguments[position])
                return builder.gep(builder.bitcast(array.data, number.as_pointer()), [start])

            def load(address):
                loaded = builder.load(builder.bitcast(address, vector.as_pointer()))
                loaded.align = number_size
                return loaded

            number_size = BITS // 8 // lanes
            _, a_start, a_row, a_column, _, b_start, b_row, depth, _, c_start, c_row, add = arguments
            a, b, c = pointer(0, a_start), pointer(4, b_start), pointer(8, c_start)
            name = f"llvm.fma.v{lanes}f{8 * number_size}"
            fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
            a_rows = [builder.mul(a_row, constant(i)) for i in range(rows)]
            c_rows = [builder.gep(c, [builder.mul(c_row, constant(i))]) for i in range(rows)]
            tile = [(i, half) for i in range(rows) for half in (0, 1)]

            # for k in range(depth): tile[i, :] += a[i, k] * b[k, :]
            before, loop = builder.block, builder.append_basic_block("k")
            after = builder.append_basic_block("after")
            builder.branch(loop)
            builder.position_at_end(loop)
            k, a_k, b_k = builder.phi(index), builder.phi(a.type), builder.phi(b.type)
            sums = {at: builder.phi(vector) for at in tile}
            zeros = ir.Constant(vector, [ir.Constant(number, 0.0)] * lanes)
            for phi, value in [(k, constant(0)), (a_k, a), (b_k, b), *((s, zeros) for s in sums.values())]:
                phi.add_incoming(value, before)
            columns = [load(builder.gep(b_k, [constant(half * lanes)])) for half in (0, 1)]
            added = {}
            for i in range(rows):
                spread = splat(builder, builder.load(builder.gep(a_k, [a_rows[i]])), vector)
                for half in (0, 1):
                    added[i, half] = builder.call(fma, [spread, columns[half], sums[i, half]])
            steps = [
                (k, builder.add(k, constant(1))),
                (a_k, builder.gep(a_k, [a_column])),
                (b_k, builder.gep(b_k, [b_row])),
                *((sums[at], added[at]) for at in tile),
            ]
            for phi, value in steps:
                phi.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", steps[0][1], depth), loop, after)

            # c[i, :] = tile[i, :], or += with `add`
            builder.position_at_end(after)
            for i, half in tile:
                address = builder.gep(c_rows[i], [constant(half * lanes)])
                with builder.if_else(builder.icmp_signed("!=", add, constant(0))) as (yes, no):
                    with yes:
                        total = builder.fadd(load(address), added[i, half])
                        from_yes = builder.block
                    with no:
                        from_no = builder.block
                result = builder.phi(vector)
                result.add_incoming(total, from_yes)
                result.add_incoming(added[i, half], from_no)
                builder.store(result, builder.bitcast(address, vector.as_pointer())).align = number_size
            return context.get_dummy_value()

        numbers = (types.int64,) * 3
        return types.void(a, *numbers, b, *numbers, c, *numbers), generate

    return kernel


def splat(builder, value, vector):
    """A vector with the value in every lane."""
    lane = ir.IntType(32)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(lane, 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(lane, vector.count), [0] * vector.count))


def width(dtype) -> int:
    """How many numbers a vector holds."""
    return BITS // dtype.bitwidth


many_rows, one_row = microkernel(ROWS), microkernel(1)
