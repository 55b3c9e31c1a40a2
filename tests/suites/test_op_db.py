"""PyTorch's own operator and module tests: all that we offer agrees, and all that we do not has its reason.

The counts are those of PyTorch's version in constraints.txt; another one, or another of our operations, changes them.
"""

import importlib
import inspect
import sys
from collections import Counter

import pytest

from tinygrad_llm import kernels, ledger, ops, reference
from tinygrad_llm.errors import UserError
from tinygrad_llm.suites import module_db, op_db
from tinygrad_llm.suites.samples import Reason
from tinygrad_llm.verification import takes_host

pytestmark = [
    pytest.mark.xdist_group("PyTorch's tests"),  # they take long to import: once is enough
    pytest.mark.filterwarnings("ignore"),  # PyTorch's advice, and what NumPy thinks of numbers that tests are made of
]

# Of each entry of op_db how many samples agree, and + how many are left out.
SAMPLES = """
    T 2, __getitem__ 16, __radd__ 9, __rmatmul__ 15, __rmul__ 9, __rpow__ 9, __rsub__ 9, abs 1, add 9+2, amax 20,
    argmax 13, cat 8+1, clamp 7, clone 2, cumsum 2+2, div.floor_rounding 0+9, div.no_rounding_mode 9,
    div.trunc_rounding 0+9, double 2+3, eq 10, exp 3, expand 9, flatten 6, float 2+3, gather 4+3, ge 9, gt 9, item
    4, le 9, log 3, log_softmax 7, log_softmax.with_dtype 7, logsumexp 12+3, long 2+3, lt 9, mT 5, masked_fill
    6+2, matmul 15, max.binary 0+9, max.reduction_no_dim 2, max.reduction_with_dim 2+2, maximum 9, mean 20,
    min.binary 0+9, min.reduction_no_dim 2, min.reduction_with_dim 2+2, minimum 9, mul 9, ne 9, neg 1,
    nn.functional.binary_cross_entropy_with_logits 26, nn.functional.cross_entropy 21, nn.functional.dropout 15+4,
    nn.functional.embedding 3, nn.functional.gelu 8, nn.functional.kl_div 16, nn.functional.layer_norm 6,
    nn.functional.linear 18, nn.functional.linear_cross_entropy 8+111, nn.functional.linear_cross_entropy.chunked
    0+133, nn.functional.linear_cross_entropy.chunked_none 0+77, nn.functional.logsigmoid 3,
    nn.functional.mse_loss 6, nn.functional.nll_loss 61, nn.functional.relu 4, nn.functional.rms_norm 6,
    nn.functional.scaled_dot_product_attention 9+16, nn.functional.silu 3, nn.functional.silu.complex 3, permute
    4, pow 9, reshape 7, rsub 9+2, sigmoid 3, softmax 7, softmax.with_dtype 7, split 2, split.list_args 3, sqrt 1,
    squeeze 7+1, squeeze.multiple 5+1, stack 9, std 10+4, std.unbiased 0+2, sub 9+2, sum 20, t 3, tanh 1, to 0+24,
    transpose 7+1, tril 8, triu 8, unsqueeze 9, var 10+4, var.unbiased 0+2, view 7, where 6
"""
REASONS = {
    "write x + alpha * y": 6,
    "a division is not rounded": 18,
    "convert to a dtype first": 1,
    "max and min reduce one tensor; maximum and minimum take two": 18,
    "a number has no axes": 13,
    "an index has as many axes as what it picks from": 1,
    "the mask is no larger than what is filled": 2,
    "NumPy has no memory formats": 33,
    "the correction is a number, and not called unbiased": 12,
    "tensors that are joined have equally many axes": 1,
    "no weights of classes, bias or chunks of one's own": 280,
    "rows (N, C), and a class for each": 41,
    "batches are not broadcast": 8,
    "random numbers of another generator": 12,
}
MODULES = """
    nn.Embedding 2, nn.LayerNorm 4+3, nn.Linear 2+1, nn.RMSNorm 4+2, nn.GELU 3, nn.LogSigmoid 3, nn.LogSoftmax 4,
    nn.ReLU 4, nn.Sigmoid 4, nn.SiLU 3, nn.Softmax 3, nn.Tanh 3, nn.BCEWithLogitsLoss 6, nn.CrossEntropyLoss 105,
    nn.KLDivLoss 10, nn.MSELoss 8, nn.NLLLoss 28
"""
# Where a kernel is less exact than twice PyTorch: attention to scores a hundred apart, its probabilities made from the
# logarithm of a row's sum; and norms of one or two numbers, whose gradient is zero but for rounding.
WORSE = {
    ("numba", "float32"): {"nn.functional.layer_norm", "nn.functional.scaled_dot_product_attention"},
    ("torch", "float32"): {"nn.functional.scaled_dot_product_attention"},
}
RAISED = 82
LENIENT = {
    "numbers may stand for tensors": 27,
    "max and min reduce one tensor; maximum and minimum take two": 4,
    "an array of one element may stand for a number": 1,
    "PyTorch's complex numbers have no place here": 1,
}


def counts(table: str) -> dict[str, tuple[int, int]]:
    """By entry the samples that are compared, and those that are left out."""
    rows = (row.split() for row in table.split(","))
    return {name: (int(n.partition("+")[0]), int(n.partition("+")[2] or 0)) for name, n in rows}


def found(suite, kernel_set: str, dtype: str, worse=frozenset()) -> tuple[dict[str, tuple[int, int]], Counter]:
    """The same of a suite, and why they are left out, after seeing that all but the `worse` agree with PyTorch,
    and that none is worse than the ledger has it."""
    comparisons = [suite.compare(*pair) for pair in suite.pairs((), [kernel_set]) if pair[2] == dtype]
    assert [(c.operation, c.failures) for c in comparisons if c.failures and c.operation not in worse] == []
    assert worse == {c.operation for c in comparisons if c.failures}
    recorded, rows = ledger.read(), [ledger.row(comparison) for comparison in comparisons]
    assert [words for row in rows if (words := ledger.worse(row, recorded.get(row.key)))] == []
    reasons = sum((Counter(c.left_out) for c in comparisons), Counter())
    return {c.operation: (c.cases, sum(c.left_out.values())) for c in comparisons}, reasons


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_operators_agree(dtype):
    numbers, reasons = found(op_db, "numpy", dtype)
    assert numbers == counts(SAMPLES)
    assert reasons == REASONS


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_modules_agree(dtype):
    numbers, reasons = found(module_db, "numpy", dtype)
    lost = {"nn.Tanh": (2, 1)} if dtype == "float32" else {}
    assert numbers == counts(MODULES) | lost
    assert sum(reasons.values()) == 6 + len(lost)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kernel_set", [name for name in kernels.builtin_sets() if takes_host(name)])
@pytest.mark.parametrize(("suite", "table"), [(op_db, SAMPLES), (module_db, MODULES)])
def test_kernels_agree(suite, table, kernel_set, dtype):
    worse = WORSE.get((kernel_set, dtype), set()) if suite is op_db else set()
    numbers, _ = found(suite, kernel_set, dtype, worse)
    assert numbers
    assert numbers.items() <= counts(table).items()


def test_errors_are_raised_where_pytorch_raises_them():
    comparisons = [op_db.compare_errors(name) for name in op_db.entries()]
    assert [(c.operation, failure) for c in comparisons for failure in c.failures] == []
    assert sum(c.cases for c in comparisons) == RAISED
    assert sum((Counter(c.left_out) for c in comparisons), Counter()) == LENIENT


@pytest.mark.parametrize(
    ("name", "page", "old", "new"),
    [
        ("nn.functional.layer_norm", "layernorm", " - xhat * (g * xhat).mean(axis=-1, keepdims=True)", ""),
        ("nn.functional.embedding", "embedding", "np.add.at(dweight, ids, dy)", "dweight[ids] += dy"),
        ("matmul", "matmul", "row.swapaxes(-1, -2) @ dz", "row @ dz"),
        ("amax", "amax", " / largest.sum(axis=dim, keepdims=True)", " * 2"),
    ],
)
def test_a_seeded_fault_is_seen(name, page, old, new, tmp_path):
    """The page with the fault in its backward is used as a user's own kernel."""
    source = inspect.getsource(inspect.getmodule(getattr(ops, page).forward))
    assert source.count(old) == 1
    (tmp_path / f"{page}.py").write_text(source.replace(old, new))
    comparison = op_db.compare(name, str(tmp_path / f"{page}.py"), "float64")
    assert comparison.failures
    assert not any(": y is" in failure for failure in comparison.failures)


def test_what_has_no_reason_fails(monkeypatch):
    monkeypatch.setattr(op_db, "LEFT_OUT", [])
    failures = op_db.compare("add", "numpy", "float64").failures
    assert len(failures) == 2 * 2  # alpha in two samples, on two layouts
    assert all("TypeError" in failure for failure in failures)


def test_a_reason_for_what_is_offered_fails(monkeypatch):
    monkeypatch.setattr(op_db, "LEFT_OUT", [Reason("there is no exponential", "exp")])
    comparison = op_db.compare("exp", "numpy", "float64")
    assert comparison.cases == 0
    assert comparison.failures[0] == "case 0: no error where the reason is: there is no exponential"


def test_every_reason_is_needed():
    needed = [reason.why for reason in op_db.LEFT_OUT]
    assert set(needed) == set(REASONS)


def test_other_names_are_refused():
    with pytest.raises(UserError, match="no entry of ours is called acos; there are"):
        op_db.pairs(["acos"])
    with pytest.raises(UserError, match="numba have no kernel for the host for abs"):
        op_db.pairs(["abs"], ["numba"])


def test_without_its_packages_the_suite_says_what_is_missing(monkeypatch):
    importlib.import_module("tinygrad_llm.reference.samples")
    monkeypatch.delattr(reference, "samples")
    monkeypatch.setitem(sys.modules, "tinygrad_llm.reference.samples", None)
    with pytest.raises(UserError, match=r"PyTorch's own tests need .*: pip install 'tinygrad-llm\[test\]'"):
        op_db.compare("exp", "numpy", "float64")
