"""Arrays, tensors and modules on a device: the stand-in for CuPy, on which the same lines run as on a GPU."""

import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from tinygrad_llm import Tensor, devices, functional, kernels, nn, ops
from tinygrad_llm.devices import array_module, device_of, emulated, to_device
from tinygrad_llm.errors import UserError
from tinygrad_llm.quantization import quantize


@pytest.fixture(autouse=True)
def on_the_emulator():
    with emulated():
        yield


def test_arrays_go_to_a_device_and_come_back():
    x = np.arange(6.0)
    y = to_device(x, "cuda")
    assert (device_of(x), device_of(y), array_module(y)) == ("cpu", "cuda", devices.cupy())
    assert to_device(y, "cuda:0") is y and to_device(x, "cpu") is x
    x[0] = 7
    np.testing.assert_array_equal(to_device(y, "cpu"), np.arange(6.0))


def test_a_tensor_moves_and_its_gradient_comes_back():
    x = Tensor(np.arange(3.0), requires_grad=True)
    y = (x.to("cuda") * 2).exp()
    assert (x.device, y.device) == ("cpu", "cuda")
    y.to("cpu").sum().backward()
    np.testing.assert_allclose(x.grad, 2 * np.exp(2 * np.arange(3.0)))


def test_a_tensor_moves_and_changes_its_dtype_at_once():
    x = Tensor(np.ones(3))
    y = x.to("cuda", np.float16)
    assert (y.device, y.dtype) == ("cuda", np.float16)
    assert y.to("cuda") is y and y.to(np.float16, "cuda:0") is y
    assert x.to("cuda", "bfloat16").dtype.name == "bfloat16"
    leaf = x.to("bfloat16").requires_grad_()
    (leaf * leaf).sum().backward()
    assert leaf.grad.dtype.name == "bfloat16" and leaf.grad.tolist() == [2, 2, 2]


def test_a_tensor_on_a_device_is_no_numpy_array():
    x = Tensor(np.ones(2)).to("cuda")
    for convert in (Tensor.numpy, np.asarray):
        with pytest.raises(TypeError, match=r"on cuda is no NumPy array: copy it first, with \.to\('cpu'\)"):
            convert(x)
    assert x.to("cpu").numpy().tolist() == x.tolist() == [1, 1]
    assert "device=cuda" in repr(x)


def test_a_backward_needs_a_gradient_on_the_same_device():
    x = Tensor(np.ones(2), requires_grad=True)
    with pytest.raises(RuntimeError, match="gradient is on cpu, the tensor on cuda"):
        x.to("cuda").backward(np.ones(2))


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "float33", "cpu:1", ""])
def test_what_is_neither_a_device_nor_a_dtype_is_said(name):
    with pytest.raises(UserError, match=f"'{name}' is neither a dtype nor a device"):
        Tensor(np.ones(2)).to(name)
    with pytest.raises(UserError, match="no device"):
        to_device(np.ones(2), name)


def test_a_gpu_that_is_not_there_is_said():
    with pytest.raises(UserError, match="no device 'cuda:1': there are 1 GPUs"):
        Tensor(np.ones(2)).to("cuda:1")


def test_inputs_on_two_devices_are_said():
    x = Tensor(np.ones((2, 3)))
    with pytest.raises(UserError, match="linear: its inputs must be on one device, and are on cpu and cuda"):
        functional.linear(x.to("cuda"), x)


class Gate(nn.Module):
    def __init__(self):
        self.norm, self.layers = nn.LayerNorm(32), [nn.Linear(32, 64), nn.GELU("tanh"), nn.Linear(64, 32)]
        self.table = nn.QuantizedEmbedding(quantize(np.random.default_rng(0).normal(size=(7, 32)), "Q8_0"))

    def forward(self, ids):
        x = self.norm(self.table(ids))
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_module_moves_with_its_quantized_weights():
    module, ids = Gate(), np.array([[1, 2, 2], [0, 6, 1]])
    y = module(ids)
    y.sum().backward()
    expected = {name: p.grad for name, p in module.named_parameters()}
    parameters = module.parameters()
    assert module.to("cuda") is module and module.device == "cuda"
    assert all(p.device == "cuda" and p.grad is None for p in parameters)
    z = module(ids)
    z.sum().backward()
    assert z.device == "cuda"
    np.testing.assert_allclose(z.data.get(), y.data, atol=1e-5)
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(parameter.grad.get(), expected[name], atol=1e-4, err_msg=name)
    np.testing.assert_allclose(module.to("cpu")(ids).data, y.data, atol=1e-5)
    module.to("cuda", np.float16)
    assert {(p.device, p.dtype.name) for p in parameters} == {("cuda", "float16")}


def test_a_state_is_loaded_where_the_parameters_are():
    one, other = nn.Linear(3, 2), nn.Linear(3, 2).to("cuda")
    other.load_state_dict(one.state_dict())
    np.testing.assert_array_equal(other.weight.data.get(), one.weight.data)
    one.load_state_dict(other.to("cuda").state_dict() | {"bias": np.ones(2)})
    np.testing.assert_array_equal(one.weight.data, other.weight.data.get())


def test_every_rung_of_attention_is_the_same_on_a_device():
    x = Tensor(np.random.default_rng(1).normal(size=(2, 5, 8)).astype(np.float32))
    for rung in (nn.SelfAttention(8, 8), nn.CausalAttention(8, 8), nn.StackedHeads(8, 2), nn.SplitHeads(8, 2),
                 nn.MultiHeadAttention(8, 2)):  # fmt: skip
        y = rung(x)
        np.testing.assert_allclose(rung.to("cuda")(x.to("cuda")).data.get(), y.data, atol=1e-5)


# Which functions compute


def test_each_set_takes_the_arrays_of_its_device(tmp_path):
    host, device = np.ones(2, np.float32), to_device(np.ones(2, np.float32), "cuda")
    with kernels.use("numba", "cuda"):
        assert kernels.active() == kernels.active(host) == ("numba", "numpy")
        assert kernels.active(device) == ("cuda", "numpy")
        assert kernels.active(device.astype(np.float64)) == ("numpy",)


DECLINES = """
from tinygrad_llm.kernels import Unsupported

def takes(array):
    return True

def exp_forward(x):
    raise Unsupported(f"{x.size} numbers")

def exp_backward(dy):
    raise AssertionError("the backward of another forward")
"""


def test_where_a_kernel_declines_its_page_computes_and_that_is_said_once(tmp_path):
    (tmp_path / "exp.py").write_text(DECLINES)
    x = Tensor(np.zeros(3), requires_grad=True).to("cuda")
    with kernels.use(str(tmp_path / "exp.py")):
        with pytest.warns(UserWarning, match="exp: the kernel does not take 3 numbers; NumPy's page computes it"):
            y = ops.exp(x)
        with warnings.catch_warnings(action="error"):
            ops.exp(x)
    y.sum().backward()
    assert y.tolist() == [1, 1, 1]


# What a GPU lacks

WITHOUT_CUPY = """
import sys
sys.modules["cupy"] = None
from tinygrad_llm.devices import cupy
cupy()
"""


def test_without_cupy_the_extra_is_named():
    result = subprocess.run([sys.executable, "-c", WITHOUT_CUPY], capture_output=True, text=True)
    assert "it is not installed: pip install 'tinygrad-llm[cuda]'; TINYGRAD_LLM_CUDA=emulator" in result.stderr


class DriverError(RuntimeError):
    pass


def absent():
    raise DriverError("cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version")


@pytest.mark.parametrize(
    "device, message",
    [
        (absent, "no GPU can be used: cudaErrorInsufficientDriver.*; install NVIDIA's driver, or use device cpu"),
        (lambda: SimpleNamespace(compute_capability="61"), "compute capability 6.1, and the kernels need 7.5 or newer"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_one_line(monkeypatch, device, message):
    cuda = SimpleNamespace(Device=device, runtime=SimpleNamespace(CUDARuntimeError=DriverError))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    devices._real.cache_clear()
    with pytest.raises(UserError, match=message) as caught:
        devices._real()
    assert "\n" not in str(caught.value)


def test_a_program_can_be_told_to_emulate(monkeypatch):
    command = "from tinygrad_llm import Tensor; print(Tensor([1.0, 2.0]).to('cuda').exp().sum().device)"
    environment = {"TINYGRAD_LLM_CUDA": "emulator", "PATH": "/usr/bin:/bin"}
    result = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, env=environment)
    assert result.stdout == "cuda\n", result.stderr
