"""The operations under torch.nn.functional's names, argument names, defaults and semantics.

Inputs are Tensors; class indices, masks and class weights may be Tensors or arrays, and receive no gradient.
"""

import numpy as np

from tinygrad_llm import ops, random
from tinygrad_llm.devices import asarray, on_device, to_device
from tinygrad_llm.errors import UserError
from tinygrad_llm.ops import cat, logsigmoid, relu, sigmoid, silu, stack, tanh, where
from tinygrad_llm.ops.quantized_linear import dequantize
from tinygrad_llm.quantization import Quantized
from tinygrad_llm.recording import repeated
from tinygrad_llm.tensor import Tensor

__all__ = [
    "attention_qkvpacked",
    "attention_segments",
    "binary_cross_entropy_with_logits",
    "cat",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "kl_div",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "log_softmax",
    "logsigmoid",
    "lora_linear",
    "mse_loss",
    "nll_loss",
    "relu",
    "rms_norm",
    "rotary_embedding",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "stack",
    "tanh",
    "where",
]


def linear(input: Tensor, weight: Tensor | Quantized, bias: Tensor | None = None) -> Tensor:
    """input (..., in) times weight (out, in) transposed, plus bias (out,): (..., out). A quantized weight has no
    gradient."""
    if isinstance(weight, Quantized):
        return ops.quantized_linear(input, weight.blocks, bias, weight.type)
    return ops.linear(input, weight, bias)


def lora_linear(
    input: Tensor,
    weight: Tensor | Quantized,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    scale: float = 1.0,
    dropout_p: float = 0.0,
) -> Tensor:
    """linear(input, weight, bias) + scale linear(linear(dropout(input), a), b): a is (rank, in), b (out, rank)."""
    keep = random.mask(input.shape, dropout_p) if dropout_p else None
    if isinstance(weight, Quantized):
        return ops.lora_linear(input, weight.blocks, bias, a, b, scale, keep, dropout_p, weight.type)
    return ops.lora_linear(input, weight, bias, a, b, scale, keep, dropout_p)


def attention_qkvpacked(qkv: Tensor, n_head: int, dropout_p: float = 0.0) -> Tensor:
    """Causal self-attention of (B, T, 3 C), query, key and value with their heads side by side: (B, T, C)."""
    if qkv.ndim != 3 or qkv.size(-1) % (3 * n_head):
        raise UserError(f"qkv {qkv.shape} does not hold query, key and value of {n_head} heads")
    batch, length, _ = qkv.shape
    keep = random.mask((batch, n_head, length, length), dropout_p) if dropout_p else None
    return ops.attention_qkvpacked(qkv, n_head, keep, dropout_p)


def attention_segments(query: Tensor, key: Tensor, value: Tensor, bounds: np.ndarray, dropout_p: float = 0.0) -> Tensor:
    """Causal self-attention of query (B, H, T, D) to key and value (B, H_kv, T, D), of texts that share rows, each
    apart from the others: bounds (N, 3) has the row, the start and the end of each."""
    batch, heads, length, _ = query.shape
    keep = random.mask((batch, heads, length, length), dropout_p) if dropout_p else None
    return ops.attention_segments(query, key, value, bounds, keep, dropout_p)


def embedding(input, weight: Tensor | Quantized, padding_idx: int | None = None) -> Tensor:
    """The rows of weight (V, C) at the token ids `input` (...): (..., C). The row padding_idx receives no gradient,
    nor does a quantized weight.

    Raises UserError for an id outside [0, V), saying where it stands; but ids on a device are taken as they are.
    """
    ids = _array(input)
    if len(weight.shape) != 2:
        raise UserError(f"weight must be a matrix, a row for each token, not of shape {list(weight.shape)}")
    if ids.dtype.kind not in "iu":
        raise UserError(f"token ids must be integers, not {ids.dtype}")
    if not on_device(ids):
        repeated(_check_ids, ids, weight.size(0))
        ids = to_device(ids, weight.device)
    if isinstance(weight, Quantized):
        return Tensor(dequantize(weight.blocks[ids], weight.type))
    if padding_idx is not None and padding_idx < 0:
        padding_idx += weight.size(0)
    return ops.embedding(weight, ids, padding_idx)


def layer_norm(
    input: Tensor, normalized_shape, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Layer normalization over the last axes, which have the shape `normalized_shape`, as weight and bias have."""
    return _over_last_axes(ops.layernorm, input, normalized_shape, [weight, bias], eps)


def rms_norm(input: Tensor, normalized_shape, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """Root-mean-square normalization over the last axes; eps is the dtype's machine epsilon by default."""
    eps = float(np.finfo(input.dtype).eps) if eps is None else eps
    return _over_last_axes(ops.rmsnorm, input, normalized_shape, [weight], eps)


def softmax(input: Tensor, dim: int = -1, dtype=None) -> Tensor:
    return ops.softmax(input if dtype is None else input.to(dtype), dim)


def log_softmax(input: Tensor, dim: int = -1, dtype=None) -> Tensor:
    return ops.log_softmax(input if dtype is None else input.to(dtype), dim)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x times the normal distribution function of x, or with approximate="tanh" GPT-2's approximation of it."""
    if approximate not in ("none", "tanh"):
        raise UserError(f"approximate must be 'none' or 'tanh', not {approximate!r}")
    return ops.gelu(input, approximate)


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zero each element with probability p and divide the others by 1 - p; nothing when not training."""
    return ops.dropout(input, random.mask(input.shape, p), p) if training and p else input


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask=None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention of query (..., H, T, D) to key and value (..., H, S, D): (..., H, T, D).

    attn_mask: booleans, true where a query may attend, or numbers to add; broadcasts to (..., H, T, S).
    is_causal: query t attends to keys 0 … t. scale: 1 / sqrt(D) by default.
    enable_gqa: key and value may have fewer heads, of which each serves H / H_kv heads of the query.
    """
    fit = query.size(-1) == key.size(-1) and key.shape[:-1] == value.shape[:-1]
    if not fit or (query.ndim, query.shape[:-3]) != (key.ndim, key.shape[:-3]):
        raise UserError(f"query {query.shape}, key {key.shape} and value {value.shape} do not fit together")
    if is_causal and attn_mask is not None:
        raise UserError("is_causal and attn_mask exclude each other: put the causal mask into attn_mask")
    if key.ndim > 2 and query.size(-3) != key.size(-3) and not (enable_gqa and query.size(-3) % key.size(-3) == 0):
        raise UserError(
            f"{query.size(-3)} heads of query and {key.size(-3)} of key: with enable_gqa=True "
            "the first may be a multiple of the second"
        )
    if query.ndim != 4:  # the operation has a batch and heads; give it axes of size one, or merge the leading ones
        four = [x.reshape(-1, *((1,) * (3 - x.ndim) + x.shape)[-3:]) for x in (query, key, value)]
        if attn_mask is not None and np.ndim(attn_mask) > 2:
            attn_mask = attn_mask.reshape(-1, *attn_mask.shape[-3:])
        y = scaled_dot_product_attention(*four, attn_mask, dropout_p, is_causal, scale, enable_gqa)
        return y.reshape(*query.shape[:-1], value.size(-1))
    if attn_mask is not None and not (isinstance(attn_mask, Tensor) and attn_mask.requires_grad):
        attn_mask = to_device(_array(attn_mask), query.device)
    keep = random.mask((*query.shape[:-1], key.size(-2)), dropout_p) if dropout_p else None
    return ops.attention(query, key, value, attn_mask, keep, dropout_p, is_causal, scale)


def rotary_embedding(input: Tensor, cos, sin, interleaved: bool = False) -> Tensor:
    """input (..., T, D) with its pairs of channels turned by angles whose cosines and sines are cos and sin (T, D)."""
    cos, sin = (to_device(_array(x), input.device) for x in (cos, sin))
    return ops.rotary(input, cos, sin, interleaved=interleaved)


def cross_entropy(
    input: Tensor,
    target,
    weight=None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of logits (C,), (N, C) or (N, C, d1, …) for classes (), (N,) or (N, d1, …) or probabilities."""
    rows, target, shape = _class_rows(input, target, ignore_index)
    loss = ops.cross_entropy(
        rows,
        target,
        weight=_constant(weight, input),
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )
    return loss.reshape(shape) if reduction == "none" else loss


def nll_loss(input: Tensor, target, weight=None, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """Negative log-likelihood of log-probabilities (C,), (N, C) or (N, C, d1, …) for classes (), (N,) or (N, d1, …)."""
    rows, target, shape = _class_rows(input, target, ignore_index)
    weight = _constant(weight, input)
    loss = ops.nll_loss(rows, target, weight=weight, ignore_index=ignore_index, reduction=reduction)
    return loss.reshape(shape) if reduction == "none" else loss


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target,
    *,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """cross_entropy(linear(input, linear_weight), target) for input (N, C), linear_weight (V, C) and classes (N,),
    without ever holding all the logits."""
    target = _array(target)
    if input.ndim != 2 or linear_weight.ndim != 2 or target.shape != input.shape[:1]:
        raise UserError(
            f"input {input.shape}, linear_weight {linear_weight.shape} and targets {target.shape} "
            "must be (N, C), (V, C) and (N,)"
        )
    target = _classes(target, linear_weight.size(0), ignore_index, input.device)
    return ops.linear_cross_entropy(
        input,
        linear_weight,
        target,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


def mse_loss(input: Tensor, target, reduction: str = "mean") -> Tensor:
    return ops.mse_loss(input, target, reduction=reduction)


def kl_div(input: Tensor, target, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """Divergence of log-probabilities `input` from `target`; reduction="batchmean" is the divergence itself."""
    return ops.kl_div(input, target, reduction=reduction, log_target=log_target)


def binary_cross_entropy_with_logits(
    input: Tensor, target, weight=None, reduction: str = "mean", pos_weight=None
) -> Tensor:
    return ops.binary_cross_entropy_with_logits(
        input,
        target,
        weight=_constant(weight, input),
        pos_weight=_constant(pos_weight, input),
        reduction=reduction,
    )


def _array(x) -> np.ndarray:
    return x.data if isinstance(x, Tensor) else asarray(x)


def _constant(x, like: Tensor) -> np.ndarray | None:
    """An array of the tensor's dtype and on its device, for what has no gradient."""
    return None if x is None else to_device(_array(x).astype(like.dtype), like.device)


def _over_last_axes(norm, input: Tensor, normalized_shape, parameters: list, eps: float) -> Tensor:
    shape = tuple(np.atleast_1d(normalized_shape).tolist())
    if not shape or input.shape[-len(shape) :] != shape:
        raise UserError(f"normalized_shape {list(shape)} is not the end of the input's shape {list(input.shape)}")
    for parameter in parameters:
        if parameter is not None and parameter.shape != shape:
            raise UserError(f"weight and bias must be of normalized_shape {list(shape)}, not {list(parameter.shape)}")
    if len(shape) == 1:
        return norm(input, *parameters, eps=eps)
    flat = [None if p is None else p.reshape(-1) for p in parameters]
    return norm(input.reshape(*input.shape[: -len(shape)], -1), *flat, eps=eps).reshape(input.shape)


def _class_rows(input: Tensor, target, ignore_index: int) -> tuple[Tensor, np.ndarray, tuple[int, ...]]:
    """torch's input with classes along axis 1, or 0 if it is the only one, as rows; their targets; their shape."""
    if isinstance(target, Tensor) and target.requires_grad:
        raise UserError("targets are constants here: detach() those that require a gradient")
    target, axis = _array(target), min(1, input.ndim - 1)
    classes = input.size(axis)
    shape = input.shape[:axis] + input.shape[axis + 1 :]
    last = [i for i in range(input.ndim) if i != axis] + [axis]
    rows = (input if last == sorted(last) else input.permute(*last)).reshape(-1, classes)
    if target.dtype.kind == "f":
        if target.shape != input.shape:
            raise UserError(f"probabilities of shape {target.shape} for an input of shape {input.shape}")
        return rows, target.transpose(last).reshape(-1, classes), shape
    if target.shape != shape:
        raise UserError(f"targets of shape {target.shape} for an input of shape {input.shape}: expected {shape}")
    return rows, _classes(target.reshape(-1), classes, ignore_index, input.device), shape


def _classes(target: np.ndarray, classes: int, ignore_index: int, device: str) -> np.ndarray:
    """Class targets, on this device; those that are on one already are not checked, for nobody shall wait for it."""
    if target.dtype.kind not in "iu":
        raise UserError(f"class targets must be integers, not {target.dtype}")
    if on_device(target):
        return target
    repeated(_check_classes, target, classes, ignore_index)
    return to_device(target, device)


def _check_ids(ids: np.ndarray, count: int) -> None:
    if ids.size and not 0 <= ids.min() <= ids.max() < count:
        position = tuple(int(i) for i in np.argwhere((ids < 0) | (ids >= count))[0])
        raise UserError(f"token {ids[position]} at {list(position)} is outside the vocabulary of {count}")


def _check_classes(target: np.ndarray, classes: int, ignore_index: int) -> None:
    if not target.size or 0 <= target.min() <= target.max() < classes:
        return
    outside = ((target < 0) | (target >= classes)) & (target != ignore_index)
    if outside.any():
        position = int(np.argmax(outside))
        raise UserError(f"target {target[position]} at position {position} is outside the {classes} classes")
