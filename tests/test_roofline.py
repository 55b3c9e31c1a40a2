"""The work of operations, counted by hand; how fast this machine is, no test can say."""

import numpy as np
import pytest

from tinygrad_llm import Tensor, kernels, ops, watch
from tinygrad_llm.roofline import Machine, Work, WorkCounter, machine


@pytest.fixture(autouse=True, params=["numpy", "numba"])
def kernel_set(request):
    """What an operation must do does not depend on who does it."""
    with kernels.use(request.param):
        yield


def numbers(*shape: int, requires_grad: bool = True) -> Tensor:
    return Tensor(np.random.default_rng(0).normal(size=shape).astype(np.float32), requires_grad=requires_grad)


def work(operation, *inputs) -> list[Work]:
    """What the operation must do forward and, if an input wants a gradient, backward."""
    counter, found = WorkCounter(), []
    with watch(lambda phase, name, before, after, seconds: found.append(counter(phase, name, before, after))):
        y = operation(*inputs)
        if y.requires_grad:
            y.backward(np.ones_like(y.data))
    return found


X, W, B, Y = 2 * 3, 5 * 3, 5, 2 * 5  # of a linear layer: numbers, of four bytes


def test_linear():
    inputs = numbers(2, 3), numbers(5, 3), numbers(5)
    forward, backward = work(ops.linear, *inputs)
    assert forward == (2 * 2 * 3 * 5, 4 * (X + W + B + Y))
    assert backward == (2 * forward.flops, 4 * (Y + X + W + B + X + W + B))


def test_a_gradient_that_nobody_wants_is_no_work():
    forward, backward = work(ops.linear, numbers(2, 3, requires_grad=False), numbers(5, 3))
    assert backward == (forward.flops, 4 * (Y + X + W + W))
    assert len(work(ops.linear, numbers(2, 3, requires_grad=False), numbers(5, 3, requires_grad=False))) == 1


def test_matmul_of_many_matrices():
    forward, backward = work(ops.matmul, numbers(7, 2, 3), numbers(7, 3, 5))
    assert forward == (7 * 2 * 2 * 3 * 5, 4 * 7 * (2 * 3 + 3 * 5 + 2 * 5))
    assert backward == (2 * forward.flops, 4 * 7 * (2 * 5 + 2 * (2 * 3 + 3 * 5)))


@pytest.mark.parametrize(
    ("queries", "keys", "causal", "pairs"),
    [(4, 4, False, 16), (4, 4, True, 1 + 2 + 3 + 4), (4, 2, True, 1 + 2 + 2 + 2)],
)
def test_attention_computes_what_the_mask_allows(queries, keys, causal, pairs):
    q, k, v = numbers(2, 3, queries, 8), numbers(2, 3, keys, 8), numbers(2, 3, keys, 8)
    forward, backward = work(ops.attention, q, k, v, None, None, 0.0, causal)
    size = 4 * 2 * 3 * 8
    assert forward == (2 * 2 * (2 * 3) * pairs * 8, size * (2 * queries + 2 * keys))
    assert backward == (2 * forward.flops, size * (queries + 2 * (queries + 2 * keys)))


def test_attention_of_packed_heads_computes_the_same():
    qkv, y = np.ones((2, 5, 3 * 8), "f"), np.ones((2, 5, 8), "f")
    q = np.ones((2, 4, 5, 2), "f")  # four heads of those eight numbers
    packed = WorkCounter()("forward", "attention_qkvpacked", (qkv, 4), (y,))
    assert packed.flops == WorkCounter()("forward", "attention", (q, q, q, None, None, 0.0, True), (q,)).flops
    assert packed.bytes == qkv.nbytes + y.nbytes


def test_an_mlp_is_its_two_products():
    counter, x, fc, proj, y = WorkCounter(), *(np.ones(s, "f") for s in ((2, 3), (12, 3), (5, 12), (2, 5)))
    flops = 2 * 2 * 12 * (3 + 5)
    assert counter("forward", "mlp", (x, fc, None, proj, None), (y,)) == (flops, 4 * (6 + 36 + 60 + 10))
    backward = counter("backward", "mlp", (y,), (x.copy(), fc.copy(), None, proj.copy(), None))
    assert backward == (2 * flops, 4 * (10 + 2 * (6 + 36 + 60)))


def test_linear_cross_entropy_never_moves_the_logits():
    targets = np.array([1, 0, 4, 4])
    forward, backward = work(ops.linear_cross_entropy, numbers(4, 3), numbers(5, 3), targets)
    h, weight = 4 * 4 * 3, 4 * 5 * 3
    assert forward == (2 * 4 * 3 * 5, h + weight + targets.nbytes + 4)
    assert backward == (2 * forward.flops, 4 + 2 * (h + weight) + targets.nbytes)


def test_element_by_element():
    """Read x, write y; read dy and x again, write dx."""
    assert work(ops.gelu, numbers(7, 3)) == [(0, 2 * 84), (0, 3 * 84)]
    x = numbers(7, 3)
    assert work(ops.mul, x, x)[0] == (0, 2 * 84)  # one array, though twice


def test_an_addition_passes_its_gradient_on():
    assert work(ops.add, numbers(7, 3), numbers(7, 3)) == [(0, 3 * 84), (0, 0)]
    assert work(ops.add, numbers(7, 3), numbers(3)) == [(0, 2 * 84 + 12), (0, 84 + 12)]


def test_a_view_moves_nothing():
    assert work(ops.reshape, numbers(7, 3), 21) == [(0, 0), (0, 0)]
    assert work(ops.getitem, numbers(7, 3), slice(2, 4)) == [(0, 0), (0, 24 + 84)]


def test_embedding_reads_the_rows_it_returns():
    ids = np.array([1, 1, 0])
    assert work(ops.embedding, numbers(1000, 2), ids) == [(0, 24 + 24 + 24), (0, 24 + 24 + 4 * 2000)]


def test_backwards_in_another_order_find_their_own_forwards():
    counter, x, small, large = WorkCounter(), *(np.ones(shape, "f") for shape in ((2, 3), (5, 3), (7, 3)))
    results = {len(weight): x @ weight.T for weight in (small, large)}
    for weight in (small, large):
        counter("forward", "linear", (x, weight), (results[len(weight)],))
    for weight in (small, large):
        backward = counter("backward", "linear", (results[len(weight)],), (np.ones_like(x), np.ones_like(weight)))
        assert backward.flops == 2 * 2 * 2 * 3 * len(weight)


def test_an_optimizer_reads_everything_and_writes_all_but_the_gradient():
    param, grad, m, v = np.ones((4, 10), np.float32)
    assert WorkCounter()("update", "AdamW", (param, grad, m, v), ()) == (0, 40 * (4 + 3))
    assert WorkCounter()("update", "clip_grad_norm", (grad, grad), ()) == (0, 40)


def test_the_limit_is_the_longer_of_the_two_times():
    computer = Machine(threads=2, flops=100.0, bandwidth=10.0)
    assert computer.limit(Work(flops=300, bytes=20)) == 3
    assert computer.limit(Work(flops=300, bytes=40)) == 4


def test_this_machine_is_measured_once():
    assert machine() is machine()
    assert machine().threads >= 1 and machine().flops > 1e8 and machine().bandwidth > 1e8


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_layer_with_an_adapter_has_no_gradient_to_compute(frozen):
    """Its base's products are counted once forward and, but for dx, only where somebody wants them."""
    x, base, a, b = numbers(2, 3), numbers(5, 3, requires_grad=not frozen), numbers(4, 3), numbers(5, 4)
    forward, backward = work(ops.lora_linear, x, base, None, a, b)
    products, adapter = 2 * 2 * 3 * 5, 2 * 2 * (4 * 3 + 5 * 4)
    assert forward.flops == products + adapter
    assert backward.flops == (1 if frozen else 2) * products + 2 * adapter
    first, last = work(ops.lora_linear, numbers(2, 3, requires_grad=False), base, None, a, b)
    assert (first, last.flops) == (forward, backward.flops - products - 2 * 2 * 4 * 3)


def test_texts_apart_compute_no_scores_between_them():
    q = numbers(2, 3, 9, 8)
    bounds = np.array([[0, 0, 4], [0, 4, 9], [1, 0, 9]])
    forward, backward = work(ops.attention_segments, q, q, q, bounds)
    assert forward.flops == 2 * 2 * 3 * 8 * (10 + 15 + 45)
    assert backward.flops == 2 * forward.flops
