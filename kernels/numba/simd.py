"""Vectors as values inside leaves: `load(x, i) * scale + load(y, i)` computes as many numbers as a vector holds.

Numba hopes that LLVM will turn loops over numbers into such operations, which it does not where a row ends in the
middle of a vector or where a maximum must let NaN through. Here they are said.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from tinygrad_llm.kernels.numba.common import LN2_HIGH, LN2_LOW, LOG2_E, TAYLOR
from tinygrad_llm.kernels.numba.vectors import LANE, NUMBERS, Memory, lanes, prefetch_at, splat


class Vector(types.Type):
    """The type of a vector of numbers of this dtype."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(f"Vector({dtype})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, ir.VectorType(NUMBERS[vector.dtype], lanes(vector)))


def define(operation, instruction: str) -> None:
    """Let a Python operator work on two vectors, or on a vector and a number."""

    @infer_global(operation)
    class Typing(AbstractTemplate):
        def generic(self, arguments, keywords):
            vectors = [x for x in arguments if isinstance(x, Vector)]
            if len(arguments) == 2 and vectors:
                return signature(vectors[0], *(x if isinstance(x, Vector) else vectors[0].dtype for x in arguments))

    def lower(context, builder, sig, arguments):
        vector = context.get_value_type(sig.return_type)
        pairs = zip(sig.args, arguments, strict=True)
        wide = [x if isinstance(kind, Vector) else splat(builder, x, vector) for kind, x in pairs]
        return getattr(builder, instruction)(*wide)

    for pair in ((Vector, Vector), (Vector, types.Float), (types.Float, Vector)):
        lower_builtin(operation, *pair)(lower)


for _operation, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    define(_operation, _instruction)


def llvm(builder, name: str, result, *arguments, fastmath=()):
    """Call a function that LLVM itself provides."""
    kind = ir.FunctionType(result, [x.type for x in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments, fastmath=fastmath)


def suffix(vector) -> str:
    """What LLVM appends to the names of functions of such vectors."""
    return f"v{lanes(vector)}f{vector.dtype.bitwidth}"


def first(builder, count, of: int):
    """A mask of so many lanes, true in the first `count`."""
    mask = ir.VectorType(LANE, of)
    places, bound = ir.Constant(mask, list(range(of))), splat(builder, builder.trunc(count, LANE), mask)
    return builder.icmp_signed("<", places, bound)


@intrinsic
def load(typing_context, x, start):
    """x[start : start + lanes]"""

    def generate(context, builder, signature, arguments):
        memory = Memory(context, builder, x, *arguments)
        return memory.load(memory.start, lanes(x))

    return Vector(x.dtype)(x, types.int64), generate


@intrinsic
def load_first(typing_context, x, start, count):
    """The first `count` numbers of x[start:], then zeros; what lies behind them is not touched."""

    def generate(context, builder, signature, arguments):
        memory = Memory(context, builder, x, *arguments[:2])
        vector = context.get_value_type(signature.return_type)
        zeros = ir.Constant(vector, [vector.element(0.0)] * vector.count)
        mask = first(builder, arguments[2], vector.count)
        pointer = builder.bitcast(memory.start, vector.as_pointer())
        name = f"llvm.masked.load.{suffix(signature.return_type)}.p0"
        return llvm(builder, name, vector, pointer, LANE(memory.size), mask, zeros)

    return Vector(x.dtype)(x, types.int64, types.int64), generate


@intrinsic
def store(typing_context, x, start, vector):
    """x[start : start + lanes] = vector"""

    def generate(context, builder, signature, arguments):
        memory = Memory(context, builder, x, *arguments[:2])
        memory.store(arguments[2], memory.start)
        return context.get_dummy_value()

    return types.void(x, types.int64, vector), generate


@intrinsic
def store_first(typing_context, x, start, vector, count):
    """x[start : start + count] = the first numbers of the vector."""

    def generate(context, builder, signature, arguments):
        memory, value = Memory(context, builder, x, *arguments[:2]), arguments[2]
        mask = first(builder, arguments[3], value.type.count)
        pointer = builder.bitcast(memory.start, value.type.as_pointer())
        name = f"llvm.masked.store.{suffix(vector)}.p0"
        llvm(builder, name, ir.VoidType(), value, pointer, LANE(memory.size), mask)
        return context.get_dummy_value()

    return types.void(x, types.int64, vector, types.int64), generate


@intrinsic
def spread(typing_context, like, number):
    """A vector, of the numbers of an array like `like`, with this one in every lane."""

    def generate(context, builder, signature, arguments):
        return splat(builder, arguments[1], context.get_value_type(signature.return_type))

    return Vector(like.dtype)(like, like.dtype), generate


@intrinsic
def keep_first(typing_context, vector, count, other):
    """The vector's first `count` numbers, and `other` in the lanes behind them."""

    def generate(context, builder, signature, arguments):
        value, count, other = arguments
        mask = first(builder, count, value.type.count)
        return builder.select(mask, value, splat(builder, other, value.type))

    return vector(vector, types.int64, vector.dtype), generate


@intrinsic
def keep_where(typing_context, vector, keep, start, count):
    """The vector's numbers where keep[start : start + count] is true, and 0 elsewhere."""

    def generate(context, builder, signature, arguments):
        value, keep_array, start, count = arguments
        data = context.make_array(keep)(context, builder, keep_array).data
        bytes_ = ir.VectorType(ir.IntType(8), value.type.count)
        zeros = ir.Constant(bytes_, [0] * bytes_.count)
        pointer = builder.bitcast(builder.gep(data, [start]), bytes_.as_pointer())
        mask = first(builder, count, bytes_.count)
        kept = llvm(builder, f"llvm.masked.load.v{bytes_.count}i8.p0", bytes_, pointer, LANE(1), mask, zeros)
        nothing = ir.Constant(value.type, [value.type.element(0.0)] * bytes_.count)
        return builder.select(builder.icmp_signed("!=", kept, zeros), value, nothing)

    return vector(vector, keep, types.int64, types.int64), generate


@intrinsic
def maximum(typing_context, a, b):
    """The larger number in each lane, NaN if either is."""

    def generate(context, builder, signature, arguments):
        return llvm(builder, f"llvm.maximum.{suffix(a)}", arguments[0].type, *arguments, fastmath=("nsz",))

    return a(a, b), generate


@intrinsic
def largest(typing_context, a):
    """The largest of a vector's numbers, NaN if any is."""

    def generate(context, builder, signature, arguments):
        return llvm(builder, f"llvm.vector.reduce.fmaximum.{suffix(a)}", arguments[0].type.element, *arguments)

    return a.dtype(a), generate


@intrinsic
def total(typing_context, a):
    """The sum of a vector's numbers."""

    def generate(context, builder, signature, arguments):
        number = arguments[0].type.element
        name = f"llvm.vector.reduce.fadd.{suffix(a)}"
        return llvm(builder, name, number, number(0.0), *arguments, fastmath=("reassoc",))

    return a.dtype(a), generate


@intrinsic
def exp(typing_context, a):
    """e^x in each lane: `common.exp`, which explains it, for vectors."""

    def generate(context, builder, signature, arguments):
        (x,) = arguments
        vector, kind = x.type, suffix(a)
        if a.dtype == types.float64:
            return llvm(builder, f"llvm.exp.{kind}", vector, x)

        def constant(value):
            return ir.Constant(vector, [vector.element(float(value))] * vector.count)

        def fma(p, q, r):
            return llvm(builder, f"llvm.fmuladd.{kind}", vector, p, q, r)

        x = builder.select(builder.fcmp_unordered("<", x, constant(89)), x, constant(89))
        x = builder.select(builder.fcmp_unordered(">", x, constant(-88)), x, constant(-88))
        n = llvm(builder, f"llvm.roundeven.{kind}", vector, builder.fmul(x, constant(LOG2_E)))
        r = fma(n, constant(-LN2_LOW), fma(n, constant(-LN2_HIGH), x))
        series = constant(TAYLOR[7])
        for k in range(6, -1, -1):
            series = fma(series, r, constant(TAYLOR[k]))
        whole = ir.VectorType(LANE, vector.count)
        exponent = builder.add(builder.fptosi(n, whole), ir.Constant(whole, [127] * vector.count))
        power = builder.shl(exponent, ir.Constant(whole, [23] * vector.count))
        return builder.fmul(series, builder.bitcast(power, vector))

    return a(a), generate


@intrinsic
def prefetch(typing_context, x, start):
    """Ask for x[start] to be in the cache soon; wherever that is, even beyond the array, is no error."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(x)(context, builder, arguments[0]).data
        prefetch_at(builder, builder.gep(data, [arguments[1]]))
        return context.get_dummy_value()

    return types.void(x, types.int64), generate


@intrinsic
def fma(typing_context, a, b, c):
    """a b + c in each lane, rounded once where the machine does both in one instruction, else twice."""

    def generate(context, builder, signature, arguments):
        return llvm(builder, f"llvm.fmuladd.{suffix(a)}", arguments[0].type, *arguments)

    return a(a, a, a), generate
