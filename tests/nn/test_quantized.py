"""Quantized matrices against the gguf package, and the layers on them against PyTorch on the same numbers."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from tinygrad_llm import Tensor, UserError, nn
from tinygrad_llm.quantization import TYPES, Quantized, quantize


def matrix(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(rows).normal(size=(rows, columns)).astype(np.float32)


@pytest.mark.parametrize("type", [*TYPES, "Q5_0", "Q6_K"])
def test_dequantize_is_ggufs(type):
    columns, (rows, kind) = 512, (7, GGMLQuantizationType[type])
    size = quants.quant_shape_to_byte_shape((rows, columns), kind)
    blocks = np.random.default_rng(0).integers(0, 0x3C, size, dtype=np.uint8)  # as float16 finite
    weight = Quantized(blocks, type, (rows, columns))
    np.testing.assert_array_equal(weight.dequantize(), quants.dequantize(blocks, kind))
    assert weight.dequantize(np.float64).dtype == np.float64


@pytest.mark.parametrize(("type", "steps"), [("Q8_0", 127), ("Q4_0", 8), ("Q4_1", 15)])
def test_quantize_rounds_to_half_a_step(type, steps):
    w = matrix(33, 96)
    blocks, rounded = w.reshape(33, 3, 32), quantize(w, type).dequantize().reshape(33, 3, 32)
    spread = np.ptp(blocks, axis=-1) if type == "Q4_1" else np.abs(blocks).max(axis=-1)
    limit = 1.01 if type == "Q4_0" else 0.51  # Q4_0 has 7 steps on the other side of zero, so its end is cut
    assert (np.abs(rounded - blocks) <= limit * spread[..., None] / steps + 2e-3).all()


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("rows", [1, 2, 7, 33])
def test_linear_and_its_gradients_are_pytorchs(type, rows):
    weight, bias, x = quantize(matrix(33, 96), type), matrix(1, 33)[0], matrix(rows, 96)
    layer, ours = nn.QuantizedLinear(weight, bias), Tensor(x, requires_grad=True)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    y = layer(ours)
    (y * y).sum().backward()
    theirs, their_bias = torch.tensor(x, requires_grad=True), torch.tensor(bias, requires_grad=True)
    expected = torch.nn.functional.linear(theirs, torch.tensor(weight.dequantize()), their_bias)
    (expected * expected).sum().backward()
    for a, b in ((y.data, expected.detach()), (ours.grad, theirs.grad), (layer.bias.grad, their_bias.grad)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4 * float(b.abs().max()))


def test_embedding_looks_rows_up():
    weight, ids = quantize(matrix(33, 64), "Q8_0"), np.array([[3, 32, 3], [0, 1, 2]])
    np.testing.assert_array_equal(nn.QuantizedEmbedding(weight)(ids).data, weight.dequantize()[ids])
    with pytest.raises(UserError, match=r"token 33 at \[0\] is outside the vocabulary of 33"):
        nn.QuantizedEmbedding(weight)(np.array([33]))


class Model(nn.Module):
    def __init__(self):
        self.table = nn.Embedding(7, 64)
        self.blocks = [nn.Sequential(), Block()]


class Block(nn.Module):
    def __init__(self):
        self.up = nn.Linear(64, 33)


def test_quantized_weights_take_the_place_of_a_models():
    model = Model()
    bias = model.blocks[1].up.bias
    weights = {name: quantize(p.data, "Q8_0") for name, p in model.named_parameters() if p.ndim == 2}
    nn.use_quantized(model, weights)
    assert isinstance(model.table, nn.QuantizedEmbedding)
    assert isinstance(model.blocks[1].up, nn.QuantizedLinear)
    assert model.blocks[1].up.bias is bias
    assert [name for name, _ in model.named_parameters()] == ["blocks.1.up.bias"]


def test_quantized_weights_that_do_not_fit_change_nothing():
    model = Model()
    weights = {"table.weight": quantize(matrix(7, 64), "Q8_0")}
    for name, weight, message in (
        ("up.weight", weights["table.weight"], "up.weight is the weight of no Linear or Embedding of Model"),
        ("blocks.1.up.weight", weights["table.weight"], r"blocks.1.up.weight has shape \(7, 64\), not \(33, 64\)"),
    ):
        with pytest.raises(UserError, match=message):
            nn.use_quantized(model, weights | {name: weight})
        assert isinstance(model.table, nn.Embedding)


def test_matrices_that_cannot_be_quantized():
    with pytest.raises(UserError, match="Q4_1 has blocks of 32 numbers, and a row of 33 is not made of such"):
        quantize(matrix(3, 33), "Q4_1")
    with pytest.raises(UserError, match="no quantization is called 'Q3'"):
        quantize(matrix(3, 32), "Q3")
    with pytest.raises(UserError, match="Q4_K can be read and not written"):
        quantize(matrix(3, 256), "Q4_K")
    with pytest.raises(UserError, match=r"takes bytes of shape \(3, 36\), not uint8 of shape \(3, 35\)"):
        Quantized(np.zeros((3, 35), np.uint8), "Q4_0", (3, 64))
