"""Every page's derivation, proven: its backward is the derivative of its forward, exactly (see `symbolic`)."""

import importlib.util
import inspect

import numpy as np
import pytest
import sympy
from faults import FAULTS

from tinygrad_llm import Function
from tinygrad_llm.autograd import operation
from tinygrad_llm.errors import UserError
from tinygrad_llm.gradcheck import GradientError
from tinygrad_llm.symbolic import Proof, Symbols, Undecided, exact, prove, symbols, vanishes
from tinygrad_llm.verification import operations


def case(*inputs, **options) -> tuple:
    return inputs, options


def real(name: str, *shape: int) -> Symbols:
    """Symbols whose values are of both signs, and none of them equal to another's."""
    return symbols(name, *shape)


def positive(name: str, *shape: int) -> Symbols:
    """Symbols with values from 1 on."""
    return symbols(name, *shape, at=1 + np.random.default_rng(len(name)).permutation(np.prod(shape, dtype=int)) / 7)


def blocks(*shape: int) -> np.ndarray:
    """Quantized blocks of small whole numbers, whose scale and offset are a half."""
    array = np.random.default_rng(0).integers(0, 100, size=shape, dtype=np.uint8)
    array[..., 0:4] = np.frombuffer(np.float16([0.5, 0.5]).tobytes(), np.uint8)
    return array


x, y = real("x", 2, 3), real("y", 2, 3)
ROW, COLUMN = real("r", 3), real("c", 2, 1)
TWICE = symbols("t", 2)[[0, 0, 1, 0]]  # t_0, t_0, t_1, t_0: where elements are equal, all along
SOME = np.array([[True, False, True], [False, True, True]])
CAUSAL = np.tri(3, dtype=bool)


def qkv(heads: int, heads_kv: int, queries: int, keys: int) -> tuple:
    return real("q", 1, heads, queries, 1), real("k", 1, heads_kv, keys, 1), real("v", 1, heads_kv, keys, 1)


CASES = {
    # element-wise
    "add": [case(x, y), case(ROW, COLUMN), case(x, 0.5)],
    "sub": [case(x, y), case(ROW, COLUMN), case(2, x)],
    "mul": [case(x, y), case(ROW, COLUMN), case(x, 0.5)],
    "div": [case(x, y), case(ROW, COLUMN), case(2, x)],
    "neg": [case(x)],
    "pow": [case(positive("x", 2, 1), real("y", 3)), case(x, 3), case(x, -2), case(positive("x", 3), 0.5), case(x, 0)],
    "exp": [case(x)],
    "log": [case(positive("x", 3))],
    "sqrt": [case(positive("x", 3))],
    "tanh": [case(x)],
    "sigmoid": [case(x)],
    "logsigmoid": [case(x)],
    "silu": [case(x)],
    "gelu": [case(x), case(x, approximate="tanh")],
    "swiglu": [case(x, y)],
    "relu": [case(x)],
    "abs": [case(x)],
    "clamp": [case(x, min=-0.7, max=0.8), case(x, min=0.1), case(x, max=0)],
    "maximum": [case(x, y), case(ROW, COLUMN), case(TWICE, TWICE[::-1]), case(x, 0.1)],
    "minimum": [case(x, y), case(ROW, COLUMN), case(TWICE, TWICE[::-1]), case(x, 0.1)],
    "where": [case(SOME, x, y), case(SOME, ROW, COLUMN), case(SOME, x, 0.5)],
    "masked_fill": [case(x, SOME, 0.5), case(x, SOME, -np.inf), case(x, SOME[0], 0.0)],
    "dropout": [case(x, SOME, 0.25), case(x, SOME & False, 1.0)],
    # reductions and products
    "sum": [case(x), case(x, dim=1), case(x, dim=(0, -1), keepdim=True)],
    "mean": [case(x), case(x, dim=1), case(x, dim=(0, -1), keepdim=True)],
    "var": [case(x), case(x, dim=0, correction=0), case(x, dim=1, keepdim=True)],
    "amax": [case(x), case(x, dim=1), case(x, dim=(0, 1), keepdim=True), case(TWICE), case(-TWICE)],
    "logsumexp": [case(x, dim=1), case(x, dim=(0, 1)), case(x, dim=0, keepdim=True)],
    "cumsum": [case(x, dim=1), case(x, dim=0)],
    "matmul": [
        case(x, real("y", 3, 2)),
        case(ROW, real("y", 3)),
        case(real("x", 2, 1, 2, 3), real("y", 2, 3, 1)),
        case(ROW, real("y", 2, 3, 2)),
        case(real("x", 2, 2, 3), ROW),
    ],
    # shapes
    "reshape": [case(x, 3, -1), case(x, (6,))],
    "permute": [case(x, 1, 0), case(real("x", 1, 2, 3), (2, 0, 1))],
    "expand": [case(ROW, 2, -1), case(COLUMN, 2, 3)],
    "getitem": [case(x, (slice(None), 1)), case(x, np.array([1, 1, 0])), case(x, SOME), case(x, (..., None, -1))],
    "gather": [case(x, 1, np.array([[2, 2], [0, 1]])), case(x, 0, np.array([[1, 1, 0], [1, 1, 1]]))],
    "concatenate": [case(x, ROW[None]), case(x, COLUMN, x * 2, dim=1)],
    "tril": [case(x), case(x, diagonal=-1), case(x, diagonal=1)],
    "triu": [case(x), case(x, diagonal=-1), case(x, diagonal=1)],
    # layers
    "linear": [case(x, real("w", 2, 3), real("b", 2)), case(real("x", 2, 2, 2), real("w", 1, 2)), case(ROW, x)],
    "quantized_linear": [
        case(real("x", 1, 32), blocks(2, 34), real("b", 2), type="Q8_0"),
        case(real("x", 32), blocks(1, 18), type="Q4_0"),
        case(real("x", 64), blocks(1, 40), type="Q4_1"),
    ],
    "lora_linear": [
        case(x, real("w", 2, 3), real("b", 2), real("m", 1, 3), real("n", 2, 1), 0.5, SOME, 0.25),
        case(x, real("w", 2, 3), None, real("m", 2, 3), real("n", 2, 2)),
        case(real("x", 32), blocks(1, 34), None, positive("m", 1, 32), real("n", 1, 1), type="Q8_0"),
    ],
    "embedding": [case(x, np.array([[1, 1], [0, 1]])), case(real("x", 3, 2), np.array([2, 0, 2]), padding_idx=1)],
    "layernorm": [case(x, real("w", 3), real("b", 3)), case(real("x", 1, 1, 3), None, None, eps=1e-3)],
    "rmsnorm": [case(x, real("w", 3)), case(real("x", 1, 1, 3), eps=1e-3)],
    "softmax": [case(x), case(x, dim=0)],
    "log_softmax": [case(x), case(x, dim=0)],
    "rotary": [
        case(real("x", 2, 1, 4), real("c", 4), real("s", 4)),
        case(real("x", 2, 1, 4), real("c", 2, 1, 4), real("s", 4), interleaved=True),
    ],
    "mlp": [
        case(real("x", 2), real("w", 2, 2), real("b", 2), real("u", 2, 2), real("d", 2)),
        case(real("x", 2), real("w", 1, 2), None, real("u", 2, 1), None, approximate="tanh"),
    ],
    "attention": [
        case(*qkv(1, 1, 2, 3)),
        case(*qkv(2, 1, 2, 2), is_causal=True, scale=0.3),
        case(*qkv(1, 1, 2, 2), real("m", 2, 2)),
        case(*qkv(1, 1, 2, 2), np.array([[True, False], [False, False]])),
        case(*qkv(1, 1, 2, 2), None, np.array([[[[True, False], [True, True]]]]), 0.25),
        case(real("q", 1, 1, 2, 2), real("k", 1, 1, 2, 2), real("v", 1, 1, 2, 2), is_causal=True),
    ],
    "attention_segments": [case(*qkv(1, 1, 3, 3), np.array([[0, 0, 1], [0, 1, 3]]))],
    "attention_qkvpacked": [
        case(real("x", 1, 2, 6), 2),
        case(real("x", 1, 2, 3), 1, np.array([[[[True, False], [True, True]]]]), 0.25),
    ],
    # losses
    "cross_entropy": [
        case(x, np.array([1, -100]), weight=real("w", 3)),
        case(x, np.array([2, 2]), label_smoothing=0.1, reduction="none"),
        case(x, positive("p", 2, 3), label_smoothing=0.1),
    ],
    "nll_loss": [case(x, np.array([1, -100]), weight=real("w", 3)), case(x, np.array([2, 2]), reduction="sum")],
    "linear_cross_entropy": [
        case(real("h", 2, 1), real("w", 3, 1), np.array([1, 0])),
        case(real("h", 2, 2), real("w", 2, 2), np.array([1, -100]), label_smoothing=0.1),
        case(real("h", 2, 1), real("w", 2, 1), np.array([1, 0]), reduction="none"),
    ],
    "mse_loss": [case(x, y), case(x, ROW, reduction="none"), case(x, y, reduction="sum")],
    "kl_div": [
        case(x, positive("t", 2, 3), reduction="batchmean"),
        case(x, y, log_target=True),
        case(x, positive("t", 2, 3), reduction="none"),
    ],
    "binary_cross_entropy_with_logits": [
        case(x, y),
        case(x, y, weight=real("w", 3), pos_weight=real("c", 3), reduction="sum"),
    ],
}

UNPROVEN = {"cast": "its backward chooses a dtype; on exact numbers, which have none, it is the identity"}

NOT_PROVEN = """
What no proof shows, since it is a choice and no derivative: the gradient at a kink (relu at 0; what two different
elements share that happen to be equal), the row of `padding_idx`, which receives nothing, and rows of -inf alone.
"""


def test_every_operation_is_proven_or_has_a_reason():
    assert CASES.keys() | UNPROVEN.keys() == operations().keys()
    assert not CASES.keys() & UNPROVEN.keys()


@pytest.mark.parametrize("name", CASES)
def test_the_backward_is_the_derivative(name):
    """Of every input that is made of symbols, but for those that the page has no gradient for."""
    without = {"cross_entropy": ("weight", "targets"), "nll_loss": ("weight",)}
    for inputs, options in CASES[name]:
        proof = prove(operations()[name], *inputs, **options)
        assert proof.inputs == tuple(i for i, x in enumerate(inputs) if isinstance(x, Symbols) and not (
            name == "cross_entropy" and i == 1))


@pytest.mark.parametrize("name", CASES)
def test_a_seeded_fault_is_refuted(name, tmp_path):
    old, new = FAULTS["numpy", name]
    page = operations()[name]
    source, backward = inspect.getsource(inspect.getmodule(page.backward)), inspect.getsource(page.backward)
    file = tmp_path / f"{name}.py"
    file.write_text(source.replace(backward, backward.replace(old, new)))
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    faulty = operation(getattr(module, f"{name}_forward"), getattr(module, f"{name}_backward"))
    with pytest.raises(GradientError) as caught:
        for inputs, options in CASES[name]:
            prove(faulty, *inputs, **options)
    assert not isinstance(caught.value, Undecided)
