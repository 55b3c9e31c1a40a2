"""What a Tensor can do: each operator and method is an operation, under torch.Tensor's name.

A method's page in `ops` says what it does; the tensor is its first input.
"""

import operator

import numpy as np

from tinygrad_llm import autograd, ops
from tinygrad_llm.devices import device_of, device_or_dtype, to_device
from tinygrad_llm.ops.promotion import promote
from tinygrad_llm.tensor import Tensor

METHODS = """abs amax argmax clamp cumsum exp expand flatten gather log log_softmax logsumexp masked_fill matmul max
    maximum mean min minimum permute pow relu reshape sigmoid softmax split sqrt squeeze std sum t tanh transpose tril
    triu unsqueeze var view""".split()
OPERATORS = {"add": ops.add, "sub": ops.sub, "mul": ops.mul, "truediv": ops.div, "matmul": ops.matmul, "pow": ops.pow}
COMPARISONS = (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge)


class Copy(autograd.Function):
    """The same numbers on another device; the gradient goes back to where they came from."""

    @staticmethod
    def forward(ctx, x, device):
        ctx.source = device_of(x)
        return to_device(x, device)

    @staticmethod
    def backward(ctx, dy):
        return to_device(dy, ctx.source)


def to(self: Tensor, *targets) -> Tensor:
    """The same numbers on another device ("cpu", "cuda", "cuda:1"), in another dtype, or both, as in
    x.to("cuda", np.float16): this very tensor if nothing changes. Raises UserError for neither a device nor a dtype.
    """
    for device, dtype in map(device_or_dtype, targets):
        if device and device != self.device:
            self = Copy.apply(self, device)
        if dtype and dtype != self.dtype:
            self = ops.cast(self, dtype)
    return self


def clone(self: Tensor) -> Tensor:
    """A copy of the array, still on the tape."""
    return ops.cast(self, self.dtype)


def where(self: Tensor, condition, y) -> Tensor:
    """This tensor's elements where the condition holds, and y's elsewhere."""
    return ops.where(condition, self, y)


def swapped(operation):
    """The operator for a tensor on the right."""
    return lambda self, other: operation(other, self)


def comparison(compare):
    """A Tensor of booleans, which has no gradient."""
    return lambda self, other: Tensor(compare(*promote(self.data, other.data if isinstance(other, Tensor) else other)))


for name in METHODS:
    setattr(Tensor, name, getattr(ops, name))
for name, operation in OPERATORS.items():
    setattr(Tensor, f"__{name}__", operation)
    setattr(Tensor, f"__r{name}__", swapped(operation))
for compare in COMPARISONS:
    setattr(Tensor, f"__{compare.__name__}__", comparison(compare))
Tensor.__neg__, Tensor.__abs__, Tensor.__getitem__ = ops.neg, ops.abs, ops.getitem
Tensor.T = property(lambda self: ops.permute(self, *reversed(range(self.ndim))))
Tensor.mT = property(lambda self: ops.transpose(self, -2, -1))
Tensor.backward, Tensor.to, Tensor.clone, Tensor.where = autograd.backward, to, clone, where
for name, dtype in {"float": np.float32, "double": np.float64, "long": np.int64}.items():
    setattr(Tensor, name, lambda self, dtype=dtype: to(self, dtype))
