"""One mistake for every backward, as (text of the backward, text that replaces it): the comparison must see each.

Of a CUDA kernel, a file of `kernels/cuda` comes first: the kernel's own, one that it includes, or what launches it.
"""

import inspect
from pathlib import Path

from tinygrad_llm import kernels
from tinygrad_llm.verification import operations

FAULTS = {
    # element-wise
    ("numpy", "add"): ("dy = unbroadcast(dz, y)", "dy = dz"),
    ("numpy", "sub"): ("-unbroadcast(dz, y)", "unbroadcast(dz, y)"),
    ("numpy", "mul"): ("dz * x, y", "dz * y, y"),
    ("numpy", "div"): ("-dz * z / y", "-dz / y"),
    ("numpy", "neg"): ("-dy", "dy"),
    ("numpy", "pow"): ("y * x **", "x **"),
    ("numpy", "exp"): ("dy * y", "dy"),
    ("numpy", "log"): ("dy / x", "dy * x"),
    ("numpy", "sqrt"): ("(2 * y)", "y"),
    ("numpy", "tanh"): ("1 - y * y", "1 - y"),
    ("numpy", "sigmoid"): ("dy * y * (1 - y)", "dy * (1 - y)"),
    ("numpy", "logsigmoid"): ("sigmoid_forward(-x)", "sigmoid_forward(x)"),
    ("numpy", "silu"): ("1 + x * (1 - s)", "1 + x"),
    ("numpy", "relu"): ("y > 0", "y >= 0"),
    ("numpy", "abs"): ("np.sign(x)", "x"),
    ("numpy", "clamp"): ("dy * kept", "dy"),
    ("numpy", "maximum"): ("dz / 2", "dz"),
    ("numpy", "minimum"): ("dz * (y < x) + tie", "dz * (y < x)"),
    ("numpy", "where"): ("np.where(condition, 0, dz)", "dz"),
    ("numpy", "masked_fill"): ("np.where(mask, 0, dy)", "dy"),
    ("numpy", "cast"): ("astype(dtype)", 'astype("float16")'),
    # reductions and products
    ("numpy", "sum"): ("dim), shape)", "dim), shape) / dy.size"),
    ("numpy", "mean"): ("dy / n", "dy"),
    ("numpy", "var"): ("2 / freedom", "1 / freedom"),
    ("numpy", "amax"): (" / largest.sum(axis=dim, keepdims=True)", ""),
    ("numpy", "logsumexp"): ("keep_axes(dy, x.shape, dim) * np.exp", "np.exp"),
    ("numpy", "cumsum"): ("np.flip(dy, dim)", "dy"),
    ("numpy", "matmul"): ("row.swapaxes(-1, -2) @ dz", "row @ dz"),
    # shapes
    ("numpy", "reshape"): ("dy.reshape(shape)", 'dy.reshape(shape, order="F")'),
    ("numpy", "permute"): ("(dy, inverse)", "(dy, dims)"),
    ("numpy", "expand"): ("unbroadcast(dy, x)", "dy"),
    ("numpy", "getitem"): ("np.add.at(dx, index, dy)", "dx[index] += dy"),
    ("numpy", "gather"): ("np.add.at(dx, places, dy)", "dx[places] += dy"),
    ("numpy", "concatenate"): ("np.cumsum(sizes)", "np.cumsum(sizes[::-1])"),
    ("numpy", "tril"): ("np.tril(dy, diagonal)", "np.tril(dy)"),
    ("numpy", "triu"): ("np.triu(dy, diagonal)", "dy"),
    # layers
    ("numpy", "linear"): ("rows_dy.sum(axis=0)", "rows_dy.mean(axis=0)"),
    ("numpy", "quantized_linear"): ("dtype) if needs", "dtype)[::-1] if needs"),
    ("numpy", "lora_linear"): ("scale * du", "du"),
    ("numpy", "embedding"): ("np.add.at(dweight, ids, dy)", "dweight[ids] += dy"),
    ("numpy", "layernorm"): (" - xhat * (g * xhat).mean(axis=-1, keepdims=True)", ""),
    ("numpy", "rmsnorm"): ("(g * xhat).mean", "(g * xhat).sum"),
    ("numpy", "softmax"): (" - (dy * y).sum(axis=dim, keepdims=True)", ""),
    ("numpy", "log_softmax"): ("np.exp(y)", "y"),
    ("numpy", "gelu"): (" * (1 + 3 * CUBIC * x * x)", ""),
    ("numpy", "dropout"): ("dy * _scale(p)", "dy"),
    ("numpy", "rotary"): ("dy * cos - turn", "dy * cos + turn"),
    ("numpy", "swiglu"): ("silu_backward(dy * up, *saved)", "dy * up"),
    ("numpy", "mlp"): ("gelu_backward(da, h, approximate)", "da"),
    ("numpy", "attention"): (" - (dp * p).sum(axis=-1, keepdims=True)", ""),
    ("numpy", "attention_segments"): ("dq[text], dk[text]", "dk[text], dq[text]"),
    ("numpy", "attention_qkvpacked"): ("part[...] = gradient", "part[...] = dq"),
    # losses
    ("numpy", "cross_entropy"): ("a.sum(axis=-1, keepdims=True) * ", ""),  # ignored rows
    ("numpy", "nll_loss"): (" / divisor", ""),
    ("numpy", "linear_cross_entropy"): ("dweight += dx.T", "dweight -= dx.T"),
    ("numpy", "mse_loss"): ("2 * difference", "difference"),
    ("numpy", "kl_div"): ("t * (target - x + 1)", "t * (target - x)"),
    ("numpy", "binary_cross_entropy_with_logits"): ("(1 + (c - 1) * target) * ", ""),
    # kernels
    ("numba", "add"): ("return dz, dz", "return dz, 2 * dz"),
    ("numba", "embedding"): ("total[c] += row[c]", "total[c] = row[c]"),
    ("numba", "linear"): ("product(rows_dy.T, rows_x", "product(-rows_dy.T, rows_x"),
    ("numba", "quantized_linear"): ("product(rows_dy, deq", "product(-rows_dy, deq"),
    ("numba", "lora_linear"): ("dut *= scale", "dut *= 1"),
    ("numba", "swiglu"): (" + a * (one - s)", ""),
    ("numba", "rmsnorm"): ("rows, weight, mean", "rows, None, mean"),
    ("numba", "layernorm"): ("weight[c] - mean_g - xhat * mean_g_xhat", "weight[c] - mean_g"),
    ("numba", "attention"): ("(load(x, ds_start + j) - dot)", "load(x, ds_start + j)"),
    ("numba", "attention_segments"): ("attention_backward(dy[text]", "attention_backward(-dy[text]"),
    ("numba", "attention_qkvpacked"): ("ascontiguousarray(dy)", "ascontiguousarray(-dy)"),
    ("numba", "gelu"): (" * (one + three_cubic * a * a)", ""),
    ("numba", "cross_entropy"): ("-= (one - smoothing) * factor", "-= factor"),
    ("numba", "linear_cross_entropy"): ("row_gradients(dloss[rows]", "row_gradients(2 * dloss[rows]"),
    ("numba", "rotary"): ("-sin_2, -sin_1", "sin_2, -sin_1"),
    ("numba", "mlp"): ("rows_dy, proj_weight, h, approximate", "rows_dy, proj_weight, 0 * h, approximate"),
    ("torch", "attention"): ("return dq, per", "return -dq, per"),
    ("torch", "attention_qkvpacked"): ("torch.stack(dqkv)", "torch.stack(dqkv[::-1])"),
    ("torch", "cross_entropy"): ("dlogp, logp, -1", "dlogp, 0 * logp, -1"),
    ("torch", "embedding"): ("padding_idx % rows", "padding_idx % rows + 1"),
    ("torch", "gelu"): ("dy, x, approximate=approximate", 'dy, x, approximate="none"'),
    ("torch", "layernorm"): ("mean, rstd, weight, bias, wanted", "mean, rstd + 1, weight, bias, wanted"),
    ("torch", "linear"): ("dy.sum(0)", "dy.mean(0)"),
    ("torch", "linear_cross_entropy"): ("addmm_(dx.T, h_rows)", "addmm_(dx.T, h_rows, alpha=-1)"),
    ("torch", "log_softmax"): ("dy, y, dim", "dy, 0 * y, dim"),
    ("torch", "mlp"): ("gelu_backward(da", "gelu_backward(2 * da"),
    ("torch", "nll_loss"): ("(dy, *saved)", "(-dy, *saved)"),
    ("torch", "silu"): ("(dy, *saved)", "(dy, -saved[0])"),
    ("torch", "swiglu"): ("dy * up, gate", "dy, gate"),
}

CUDA_FAULTS = {
    "add": ("add.py", "(dz, dz)", "(dz, 2 * dz)"),
    "attention": ("attention.cu", "factor * dp[r]) - dot);", "factor * dp[r]));"),
    "attention_qkvpacked": ("attention.cu", "factor * dp[r]) - dot[r]);", "factor * dp[r]));"),
    "cross_entropy": ("cross_entropy.cu", "-= (1 - smoothing) * dloss", "-= dloss"),
    "dropout": ("dropout.py", "return _dropped(dy", "return _dropped(2 * dy"),
    "embedding": ("embedding.cu", "sum = sum + load(dy", "sum = load(dy"),
    "gelu": ("gelu.cu", "(1 + 3 * CUBIC * x * x)", "1"),
    "layernorm": ("norm.cuh", "(g - mean_g - xhat * mean_g_xhat)", "(g - xhat * mean_g_xhat)"),
    "linear": ("columns.cuh", "sum = sum + shared[i][threadIdx.x]", "sum = shared[i][threadIdx.x]"),
    "linear_cross_entropy": ("cross_entropy.cu", "target, 1, smoothing, classes", "target, 2, smoothing, classes"),
    "mlp": ("mlp.py", "bias_gelu_backward(da, h", "bias_gelu_backward(2 * da, h"),
    "quantized_linear": ("quantized_linear.py", "product(rows_dy, deq", "product(-rows_dy, deq"),
    "rmsnorm": ("norm.cuh", "(g - mean_g - xhat * mean_g_xhat)", "(g - mean_g)"),
    "rotary": ("rotary.cu", "x1 * cos1 + x2 * sin2", "x1 * cos1 - x2 * sin2"),
    "swiglu": ("swiglu.cu", "v * p * (1 - p)", "v * p"),
}


def planted(name: str, kernel_set: str, folder: Path) -> Path:
    """The page or kernel with its mistake, as a file of a user's."""
    old, new = FAULTS[kernel_set, name]
    source, backward = source_of(name, kernel_set)
    file = folder / f"{name}.py"
    file.write_text(source.replace(backward, backward.replace(old, new)))
    return file


def source_of(name: str, kernel_set: str) -> tuple[str, str]:
    """The text of a page and of its backward, or the text of a kernel twice: its backward may be several functions."""
    if kernel_set == "numpy":
        backward = operations()[name].backward
        return inspect.getsource(inspect.getmodule(backward)), inspect.getsource(backward)
    source = inspect.getsource(kernels.KernelSet(kernel_set).find(name))
    return source, source
