"""Every page's derivation, proven: its backward is the derivative of its forward, exactly (see `symbolic`).

Proven is the page's own code, for the shapes, indices, masks and options of CASES. Where it compares (relu, abs, clamp,
maximum, amax, the largest logit of a softmax), the symbols' values decide, and the proof is for all numbers in the same
order: element by element there are values on both sides. At ties the sum of what equal elements receive is proven, with
the same symbol in several places. No proof shows what is a choice and no derivative: how equal elements share, relu's
gradient at 0, that the row of `padding_idx` receives none, and a row of attention or logsumexp that is -inf throughout.
"""

import numpy as np

from tinygrad_llm import verification
from tinygrad_llm.gradcheck import GradientError
from tinygrad_llm.symbolic import Symbols, prove, symbols
from tinygrad_llm.verification import Comparison, operations


def pairs(names=(), kernel_sets=()) -> list[tuple[str, str, str]]:
    """As `verification.pairs`, of the pages that are proven; they compute with exact numbers."""
    names = {name for name, *_ in verification.pairs(names, ("numpy",))}
    return [(name, "numpy", "exact") for name in CASES if name in names and "numpy" in (kernel_sets or ["numpy"])]


def compare(name: str, kernel_set: str = "numpy", dtype: str = "exact") -> Comparison:
    """Prove each of an operation's cases."""
    comparison = Comparison(name, kernel_set, dtype, "derivation", cases=len(CASES[name]))
    for number, (inputs, options) in enumerate(CASES[name]):
        expected = {i for i, x in enumerate(inputs) if isinstance(x, Symbols) and (name, i) not in WITHOUT_GRADIENT}
        try:
            proven = set(prove(operations()[name], *inputs, **options).inputs)
        except GradientError as error:
            comparison.failures.append(f"case {number}: {error}")
        else:
            if proven != expected:
                comparison.failures.append(f"case {number}: gradients of inputs {proven}, not {expected}, are proven")
    return comparison


def case(*inputs, **options) -> tuple:
    return inputs, options


def real(name: str, *shape: int) -> Symbols:
    """Symbols whose values are of both signs, and none of them equal to another's."""
    return symbols(name, *shape)


def positive(name: str, *shape: int) -> Symbols:
    """Symbols with values from 1.5 on."""
    return symbols(name, *shape, at=1.5 + np.random.default_rng(len(name)).permutation(np.prod(shape, dtype=int)) / 7)


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
        case(real("x", 2, 2), real("y", 2, 2)),
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
    "nll_loss": [
        case(x, np.array([1, -100]), weight=real("w", 3)),
        case(x, np.array([2, 2]), weight=np.ones(3, dtype=object).view(Symbols), reduction="sum"),
    ],
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

WITHOUT_GRADIENT = {("cross_entropy", 1): "targets that are distributions are data"}
