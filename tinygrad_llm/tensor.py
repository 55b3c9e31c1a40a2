"""Tensor: an array, its gradient, and the operation that made it.

What a Tensor is stands here; what can be done with it, `methods` adds: operators, and methods under torch's names.
"""

import operator

import numpy as np

from tinygrad_llm.devices import device_of, on_device
from tinygrad_llm.recording import assign, repeated


def floating(dtype: np.dtype) -> bool:
    """Whether its numbers are floating, and so have gradients. NumPy itself does not count bfloat16."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


class Tensor:
    """An array that remembers where it came from, so that `backward()` can say how a loss depends on it.

    `data` is the array, of any dtype, NumPy's or one on a device (see `tinygrad_llm.devices`). Python numbers become
    int64, bool or, as in torch, float32.
    `grad` is None or the array of the loss's gradient, of the same shape and dtype, to which every backward adds.
    `node` is the operation that made this tensor, None for a leaf. Only floating tensors can require a gradient.
    """

    __array_ufunc__ = None  # so that `array * tensor` is the tensor's to compute
    __hash__ = object.__hash__  # `==` compares elements, so identity makes the hash
    __slots__ = ("__weakref__", "data", "grad", "grad_buffer", "node", "requires_grad")

    def __init__(self, data, dtype=None, requires_grad: bool = False):
        if isinstance(data, Tensor):
            data = data.data
        elif isinstance(data, np.generic):
            data = np.asarray(data)
        elif not hasattr(data, "dtype"):
            data = np.asarray(data)
            if data.dtype == np.float64:
                data = data.astype(np.float32)
        self.data = data if dtype is None else data.astype(dtype, copy=False)
        self.grad: np.ndarray | None = None
        self.grad_buffer: np.ndarray | None = None  # where the gradient shall stand, if an optimizer says so
        self.node = None
        self.requires_grad = False
        if requires_grad:
            self.requires_grad_()

    # What it is

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def device(self) -> str:
        """Where the array is: "cpu", "cuda", "cuda:1" and so on."""
        return device_of(self.data)

    @property
    def ndim(self) -> int:
        return self.data.ndim

    def dim(self) -> int:
        return self.data.ndim

    def size(self, dim: int | None = None):
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        return self.data.size

    def numpy(self) -> np.ndarray:
        """The array. Raises TypeError for one on a device, as torch does."""
        if on_device(self.data):
            raise TypeError(f"a tensor on {self.device} is no NumPy array: copy it first, with .to('cpu')")
        return self.data

    def item(self) -> float:
        return self.data.item()

    def tolist(self) -> list:
        return self.data.tolist()

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self):
        return (self[i] for i in range(len(self)))  # len() refuses what has no axes

    def __index__(self) -> int:
        return operator.index(self.data)

    def __contains__(self, x) -> bool:
        return bool((self == x).data.any())

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.numpy(), dtype, copy=copy)

    def __repr__(self) -> str:
        array = np.array2string(self.data, separator=", ", prefix="Tensor(")
        made = f", made by {self.node.name}" if self.node else ", requires_grad=True" if self.requires_grad else ""
        where = f", device={self.device}" if on_device(self.data) else ""
        return f"Tensor({array}, dtype={self.dtype}{where}{made})"

    def __bool__(self) -> bool:
        return bool(self.data)

    def __float__(self) -> float:
        return float(self.data)

    def __int__(self) -> int:
        return int(self.data)

    # Its gradient

    def requires_grad_(self, requires_grad: bool = True) -> "Tensor":
        """Ask for a gradient, or stop asking. Raises RuntimeError for a tensor of integers or booleans."""
        if requires_grad and not floating(self.dtype):
            raise RuntimeError(f"only floating tensors have gradients, and this one is {self.dtype}")
        self.requires_grad = requires_grad
        return self

    def accumulate_grad(self, gradient: np.ndarray, give: bool = False) -> None:
        """Add `gradient`, an array of this tensor's shape and dtype, to `grad`, which it may become if `give`."""
        if gradient is self.grad_buffer:  # a backward has written it there, or added it
            self.grad = gradient
        elif self.grad is not None:
            repeated(np.add, self.grad, gradient, self.grad)
        elif self.grad_buffer is not None:
            repeated(assign, self.grad_buffer, gradient)
            self.grad = self.grad_buffer
        else:
            self.grad = gradient if give else gradient.copy()  # others of this walk may share the array

    def detach(self) -> "Tensor":
        """The same array, apart from the tape."""
        return Tensor(self.data)
