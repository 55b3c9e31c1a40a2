"""Training on device="cuda", on the stand-in for CuPy: the CPU's losses, nobody waits, the same bits when resumed."""

import numpy as np
import pytest

import tinygrad_llm.training.ahead as ahead
from tinygrad_llm import UserError, devices, random
from tinygrad_llm.data.batches import Batches
from tinygrad_llm.kernels.cuda import precision
from tinygrad_llm.kernels.cuda.emulator import standin
from tinygrad_llm.training import Trainer, checkpoint
from tinygrad_llm.training.metrics import read_metrics

pytestmark = pytest.mark.usefixtures("without_pictures")

VARIANTS = {
    "plain": {},
    "dropout and micro-batches": {"model": {"dropout": 0.2}, "gradient_accumulation_steps": 2},
    "biases, own head, GPT-2's GELU": {"model": {"bias": True, "tie_weights": False, "activation": "gelu_tanh"}},
}


@pytest.fixture(autouse=True)
def cuda():
    with devices.emulated():
        yield


def losses(run):
    return [(line["step"], line["split"], line["loss"]) for line in read_metrics(run)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_ten_steps_have_the_losses_of_the_cpu(tmp_path, config, train, variant):
    settings = {"max_iters": 10, "eval_interval": 5, **VARIANTS[variant]}
    for device in ("cpu", "cuda"):
        trainer = train(config(**settings, device=device), tmp_path / device)
        assert trainer.model.device == trainer.optimizer.parameters[0].device == device
    here, there = losses(tmp_path / "cpu"), losses(tmp_path / "cuda")
    assert [line[:2] for line in there] == [line[:2] for line in here]
    np.testing.assert_allclose([line[2] for line in there], [line[2] for line in here], rtol=2e-5)
    assert there[-1][2] < there[1][2]
    for sample in (tmp_path / "cpu" / "samples").iterdir():
        assert (tmp_path / "cuda" / "samples" / sample.name).read_text() == sample.read_text()


def test_a_step_waits_for_nothing_until_its_loss_is_logged(tmp_path, config):
    trainer = Trainer(config({"dropout": 0.2}, device="cuda", log_interval=3, gradient_accumulation_steps=2), tmp_path)
    trainer.display, trainer.metrics = Silent(), Silent()
    waits = []
    for _ in range(6):
        with standin.synchronizations() as notes:
            trainer.update()
        waits.append(len(notes))
    assert waits == [0, 0, 2, 0, 0, 2]  # the loss, and the gradient's norm


class Silent:
    def update(self, *values):
        pass

    def log(self, *values, **others):
        pass

    def status(self, text):
        pass


def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, config, train):
    settings = {"model": {"dropout": 0.2}, "device": "cuda", "lr_decay_iters": 8, "checkpoint_interval": 4}
    train(config(**settings, max_iters=8), tmp_path / "whole")
    train(config(**settings, max_iters=4), tmp_path / "parts")
    random.manual_seed(99)  # whatever happens in between
    train(config(**settings, max_iters=8), tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    for name in ("model.safetensors", "optimizer.safetensors"):
        file = f"checkpoints/step-000008/{name}"
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_run_goes_on_on_another_device(tmp_path, config, train):
    settings = {"model": {"dropout": 0.2}, "lr_decay_iters": 8, "checkpoint_interval": 4}
    train(config(**settings, max_iters=8), tmp_path / "whole")
    train(config(**settings, max_iters=4), tmp_path / "parts")
    train(config(**settings, max_iters=8, device="cuda"), tmp_path / "parts")
    states = [checkpoint.read_arrays(tmp_path / run / "checkpoints/step-000008/model.safetensors")
              for run in ("whole", "parts")]  # fmt: skip
    for name, array in states[0].items():
        np.testing.assert_allclose(states[1][name], array, atol=1e-5)


def test_a_loss_that_is_no_number_is_seen_when_it_is_read(tmp_path, config):
    trainer = Trainer(config(device="cuda", log_interval=3), tmp_path)
    trainer.display, trainer.metrics = Silent(), Silent()
    trainer.optimizer.data[...] = np.nan
    trainer.update()
    trainer.update()
    with pytest.raises(FloatingPointError, match="the loss became nan at step 3"):
        trainer.update()
    with pytest.raises(FloatingPointError, match="largest weight became nan at step 3"):
        trainer.save()


def test_batches_ahead_are_those_in_turn_and_their_state_is_that_of_what_was_taken():
    def make():
        return Batches(np.arange(100), 4, 3, "shuffled", seed=7)

    plain, taken = make(), ahead.Ahead(make())
    for _ in range(20):
        assert taken.state_dict() == plain.state_dict()
        for ours, theirs in zip(next(taken), next(plain), strict=True):
            assert devices.on_device(ours)
            np.testing.assert_array_equal(ours.get(), theirs)
    resumed = ahead.Ahead(make())
    next(resumed)
    resumed.load_state_dict(taken.state_dict())
    np.testing.assert_array_equal(next(resumed)[0].get(), next(plain)[0])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"device": "cuda:7"}, "no device 'cuda:7': there are 1"),
        ({"precision": "tf32"}, "precision tf32 is a GPU's"),
        ({"device": "cuda", "precision": "int8"}, "precision must be one of float32, tf32"),
    ],
)
def test_settings_that_do_not_work_are_one_line_and_leave_nothing(tmp_path, config, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        Trainer(config(**changes), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_profile_of_a_gpu_is_refused(tmp_path, config):
    with pytest.raises(UserError, match="the profile is of the CPU"):
        Trainer(config(device="cuda"), tmp_path / "run").train(profiled_steps=2)
    assert not (tmp_path / "run").exists()


def test_products_are_as_precise_as_is_asked(tmp_path, config, monkeypatch):
    used = []
    gemm = standin.cuda.cublas.gemmEx
    monkeypatch.setattr(standin.cuda.cublas, "gemmEx", lambda *inputs: (used.append(inputs[-2]), gemm(*inputs)))
    for name, number in precision.COMPUTE_TYPES.items():
        used.clear()
        trainer = Trainer(config(device="cuda", precision=name), tmp_path)
        trainer.optimize([next(trainer.batches)])
        assert set(used) == {number}
    precision.use("float32")


def test_an_older_gpu_has_no_tensor_cores_for_tf32(monkeypatch):
    monkeypatch.setattr(standin.cuda.Device, "compute_capability", "75")
    with pytest.raises(UserError, match=r"compute capability 7\.5 and no tensor cores for tf32: use .* float16"):
        precision.use("tf32")
    precision.use("float32")
