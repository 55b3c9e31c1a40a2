"""Every optimizer against torch's over many steps, with every kernel set, and the bookkeeping around them."""

import numpy as np
import pytest

from tinygrad_llm import UserError, kernels, optim
from tinygrad_llm.nn import Parameter
from tinygrad_llm.optim import flat

torch = pytest.importorskip("torch")

SHAPES = [(3, 5), (7,), (1, 1), (4, 2, 3), (97,)]
CASES = {
    "sgd": (optim.SGD, torch.optim.SGD, {"lr": 0.05}),
    "sgd, momentum": (optim.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}),
    "adam": (optim.Adam, torch.optim.Adam, {}),
    "adam, decay": (optim.Adam, torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1}),
    "adamw": (optim.AdamW, torch.optim.AdamW, {}),
    "adamw, betas": (optim.AdamW, torch.optim.AdamW, {"betas": (0.8, 0.99), "eps": 1e-4, "weight_decay": 0.3}),
}


def start(dtype):
    """Parameters and fifty gradients, the same numbers in every dtype."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]
    gradients = [[rng.normal(size=shape).astype(np.float32) for shape in SHAPES] for _ in range(50)]
    return [x.astype(dtype) for x in arrays], [[x.astype(dtype) for x in gradient] for gradient in gradients]


def run_ours(make, options, dtype, max_norm=None):
    arrays, gradients = start(dtype)
    parameters = [Parameter(array) for array in arrays]
    optimizer = make(parameters, **options)
    norms = []
    for step, gradient in enumerate(gradients):
        optimizer.lr = options.get("lr", 1e-3) / (1 + step / 10)
        optimizer.zero_grad()
        for p, g in zip(parameters, gradient, strict=True):
            p.accumulate_grad(g)
        norm, scale = optimizer.clip_grad_norm(max_norm) if max_norm else (0.0, 1.0)
        norms.append(norm)
        optimizer.step(scale)
    return np.concatenate([p.data.ravel() for p in parameters] + [np.array(norms)])


def run_torchs(make, options, dtype, max_norm=None):
    arrays, gradients = start(dtype)
    parameters = [torch.tensor(array, requires_grad=True) for array in arrays]
    optimizer = make(parameters, **options)
    norms = []
    for step, gradient in enumerate(gradients):
        optimizer.param_groups[0]["lr"] = options.get("lr", 1e-3) / (1 + step / 10)
        for p, g in zip(parameters, gradient, strict=True):
            p.grad = torch.tensor(g)
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, max_norm).item() if max_norm else 0.0)
        optimizer.step()
    return np.concatenate([p.detach().numpy().ravel() for p in parameters] + [np.array(norms)])


def assert_torchs(make, make_torch, options, dtype, max_norm=None):
    """float64 to 1e-12; float32 at most twice as far from that as torch's own float32."""
    exact = run_torchs(make_torch, options, "float64", max_norm)
    errors = np.abs(run_ours(make, options, dtype, max_norm) - exact)
    if dtype == "float64":
        assert errors.max() <= 1e-12
    else:
        assert errors.max() <= 2 * np.abs(run_torchs(make_torch, options, dtype, max_norm) - exact).max()


@pytest.mark.parametrize("kernel_set", ["numpy", *kernels.builtin_sets()])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_fifty_steps_are_torchs(case, dtype, kernel_set):
    with kernels.use(kernel_set):
        assert_torchs(*CASES[case], dtype)


@pytest.mark.parametrize("max_norm", [0.1, 5.0, 1e9])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ["sgd, momentum", "adam, decay", "adamw"])
def test_clipping_is_torchs(case, dtype, max_norm):
    assert_torchs(*CASES[case], dtype, max_norm)


def test_groups_decay_apart_and_only_matrices_in_a_language_model():
    arrays, gradients = start("float64")
    ours, theirs = [Parameter(x.copy()) for x in arrays], [torch.tensor(x, requires_grad=True) for x in arrays]
    groups = optim.decay_groups(ours, 0.1)
    reference = torch.optim.AdamW(
        [{"params": [p for p in theirs if p.ndim >= 2], "weight_decay": 0.1},
         {"params": [p for p in theirs if p.ndim < 2], "weight_decay": 0.0}]
    )  # fmt: skip
    optimizer = optim.AdamW(groups)
    assert optimizer.groups == [(slice(0, 40), 0.1), (slice(40, 144), 0.0)]
    for a, b, g in zip(ours, theirs, gradients[0], strict=True):
        a.accumulate_grad(g)
        b.grad = torch.tensor(g)
    optimizer.step()
    reference.step()
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.data, b.detach().numpy(), rtol=1e-12)


def test_parameters_and_gradients_are_views_of_the_flat_buffers():
    before, gradients = start("float32")
    ours = [Parameter(x.copy()) for x in before]
    optimizer = optim.SGD(ours)
    for p, array, g in zip(ours, before, gradients[0], strict=True):
        np.testing.assert_array_equal(p.data, array)
        p.accumulate_grad(g)
        p.accumulate_grad(g)
        assert np.shares_memory(p.data, optimizer.data)
        assert np.shares_memory(p.grad, optimizer.parts[0].grad)
    np.testing.assert_array_equal(optimizer.grad, np.concatenate([2 * g.ravel() for g in gradients[0]]))


@pytest.mark.parametrize("case", CASES)
def test_large_parameters_whose_gradients_have_no_memory_between_steps(case, monkeypatch):
    make, _, options = CASES[case]
    ends = []
    for large in (2**18, 10):
        monkeypatch.setattr(flat, "LARGE", large)
        arrays, gradients = start("float64")
        ours = [Parameter(x.copy()) for x in arrays]
        optimizer = make(ours, **options)
        for gradient in gradients:
            optimizer.zero_grad()
            for p, g in zip(ours[1:], gradient[1:], strict=True):  # the first gets none
                p.accumulate_grad(g)
            norm, scale = optimizer.clip_grad_norm(0.5)
            optimizer.step(scale)
            received = np.concatenate([np.zeros(arrays[0].size), *map(np.ravel, gradient[1:])])
            np.testing.assert_array_equal(optimizer.grad, received)
        assert (len(optimizer.parts) > 1) == (large == 10)
        ends.append((norm, optimizer.data))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-14)
    np.testing.assert_allclose(ends[0][1], ends[1][1], rtol=1e-12)


def test_no_gradient_counts_as_zero_and_a_gradient_set_by_hand_counts():
    a, b, frozen = Parameter(np.ones(2)), Parameter(np.ones(3)), Parameter(np.ones(4), requires_grad=False)
    optimizer = optim.SGD([a, b, frozen], lr=1.0, momentum=0.5)
    a.accumulate_grad(np.ones(2))
    b.grad = np.full(3, 2.0)
    optimizer.step()
    optimizer.zero_grad()
    optimizer.step()  # nothing but momentum
    np.testing.assert_array_equal(a.data, np.full(2, 1 - 1 - 0.5))
    np.testing.assert_array_equal(b.data, np.full(3, 1 - 2 - 1.0))
    np.testing.assert_array_equal(frozen.data, np.ones(4))


@pytest.mark.parametrize("case", CASES)
def test_restored_state_goes_on_to_the_same_bits(case):
    make, _, options = CASES[case]
    arrays, gradients = start("float32")
    ours = [Parameter(x) for x in arrays]
    optimizer = make(ours, **options)

    def steps(optimizer, parameters, gradients):
        for gradient in gradients:
            optimizer.zero_grad()
            for p, g in zip(parameters, gradient, strict=True):
                p.accumulate_grad(g)
            optimizer.step()

    steps(optimizer, ours, gradients[:7])
    copies = [Parameter(p.data.copy()) for p in ours]
    other = make(copies, **options)
    other.load_state_dict({name: array.copy() for name, array in optimizer.state_dict().items()})
    steps(optimizer, ours, gradients[7:12])
    steps(other, copies, gradients[7:12])
    assert optimizer.data.tobytes() == other.data.tobytes()


def test_what_does_not_fit_is_said():
    a, b = Parameter(np.ones(2, np.float32)), Parameter(np.ones(2, np.float64))
    with pytest.raises(UserError, match="one dtype, not float32 and float64"):
        optim.SGD([a, b])
    with pytest.raises(UserError, match="at least one parameter"):
        optim.SGD([])
    with pytest.raises(UserError, match="twice"):
        optim.SGD([a, a])
    with pytest.raises(UserError, match="is not that of this AdamW"):
        optim.AdamW([a]).load_state_dict(optim.AdamW([b, Parameter(np.ones(1))]).state_dict())
