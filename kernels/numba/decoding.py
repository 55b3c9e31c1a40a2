"""Decoding through a model's blocks, one token of each sequence a step: `tinygrad_llm.nn.decoding` says when.

The models' modules are the definition. What they do with a token in a dozen operations a block is here five leaves, and
those of all blocks are one program, since on so few numbers an operation takes less time than Python takes to call it:
norm and projections, attention, projection and sum, norm and the feed-forward part's first half, its second half and
sum. Norms are so short that every thread computes them for itself.
"""

import math

import numpy as np

from tinygrad_llm.kernels.numba.common import exp, helper
from tinygrad_llm.kernels.numba.gelu import activate
from tinygrad_llm.kernels.numba.matvec import dot
from tinygrad_llm.kernels.numba.program import Program
from tinygrad_llm.kernels.numba.quants import dot_row
from tinygrad_llm.kernels.numba.simd import fma, load_first, spread, store_first
from tinygrad_llm.kernels.numba.threads import leaf, scratch
from tinygrad_llm.kernels.numba.vectors import lanes
from tinygrad_llm.memory import empty


class Steps:
    """Steps through `blocks`, which are `nn.decoding.Arrays`, for a batch of sequences of `size` numbers a token.

    The keys and values of each of the cache's `layers` (B, H_kv, capacity, D) receive the new tokens'.
    """

    def __init__(self, blocks, layers, batch: int, size: int, rotated: bool):
        dtype, (_, groups, capacity, head) = layers[0].keys.dtype, layers[0].keys.shape
        heads = blocks[0].n_head
        inner, outer, width = heads * head, groups * head, blocks[0].width
        memory = scratch(max(batch * size, 2 * head + capacity), dtype)
        self.x, y = empty((batch * size,), dtype), empty((batch * size,), dtype)
        self.angles = empty((2, batch * head if rotated else 0), dtype)
        self.place = np.zeros(1 + batch, np.int64)  # the number of tokens before, and each sequence's padding
        qkv, attended, h = (empty((batch * n,), dtype) for n in (inner + 2 * outer, inner, width))
        sizes = batch, heads, groups, capacity, head, dtype.type(1 / math.sqrt(head))
        self.program = Program()
        add = self.program.add
        for block, layer in zip(blocks, layers, strict=True):
            matrices = *block.norm_1, *block.q, *block.k, *block.v
            add(_project, self.x, *matrices, qkv, batch, inner, outer, size, memory)
            kept = layer.keys.reshape(-1), layer.values.reshape(-1)
            add(_attend, qkv, *self.angles, *kept, self.place, attended, *sizes, memory)
            add(_add_projection, attended, *block.out, self.x, y, batch, size, inner)
            add(_feed, y, *block.norm_2, *block.gate, *block.up, block.gelu_tanh, h, batch, width, size, memory)
            add(_add_projection, h, *block.down, y, self.x, batch, size, width)

    def __call__(self, x, angles, length: int, padding) -> np.ndarray:
        """What the blocks make of x (B, C), which follows `length` tokens; the first padding (B,) of them count for
        nothing. angles (2, D or B D) are the cosines and sines of the rotations, if there are any."""
        self.x[...], self.place[0], self.place[1:] = x.reshape(-1), length, padding
        if angles.size:
            self.angles.reshape(2, -1, angles.shape[1])[...] = angles[:, None]
        self.program.run()
        return self.x.reshape(x.shape).copy()


@helper
def normalize(x, weight, bias, eps, center, y, rows, size):
    """y = the layer norm of x's rows, or with `center` false their root-mean-square norm."""
    for start in range(0, rows * size, size):
        mean = square = x.dtype.type(0)
        if center:
            for c in range(size):
                mean += x[start + c]
            mean /= x.dtype.type(size)
        for c in range(size):
            square += (x[start + c] - mean) * (x[start + c] - mean)
        scale = np.sqrt(x.dtype.type(1) / (square / x.dtype.type(size) + eps))  # as in `layernorm`
        for c in range(size):
            y[start + c] = (x[start + c] - mean) * scale * weight[c] + (bias[c] if bias.size else x.dtype.type(0))


@helper
def columns_of(part, parts, begin, count, total):
    """This thread's share of `total` columns, as far as it lies in the `count` columns from `begin` on."""
    first, last = total * part // parts - begin, total * (part + 1) // parts - begin
    return range(min(max(first, 0), count), min(max(last, 0), count))


@helper
def project(mine, x, weight, block, bias, y, begin, row, rows, size):
    """y[i, begin + o] = x[i] W[o] + b[o] for the columns o that are mine; y has `row` columns."""
    for o in mine:
        for i in range(rows):
            y[i * row + begin + o] = dot_row(x, i * size, weight, o, block, size) + (bias[o] if bias.size else 0)


@leaf
def _project(
    part, parts, x, weight, bias, eps, center, q, q_block, q_bias, k, k_block, k_bias, v, v_block, v_bias, y,
    rows, inner, outer, size, scratch,
):  # fmt: skip
    h, all = scratch[part], inner + 2 * outer
    normalize(x, weight, bias, eps, center, h, rows, size)
    if not k.size:  # one matrix for all
        project(columns_of(part, parts, 0, all, all), h, q, q_block, q_bias, y, 0, all, rows, size)
    else:
        project(columns_of(part, parts, 0, inner, all), h, q, q_block, q_bias, y, 0, all, rows, size)
        project(columns_of(part, parts, inner, outer, all), h, k, k_block, k_bias, y, inner, all, rows, size)
        last = inner + outer
        project(columns_of(part, parts, last, outer, all), h, v, v_block, v_bias, y, last, all, rows, size)


@helper
def turn(x, start, cos, sin, angle, y, y_start, size):
    """A head of x, rotated if there are angles."""
    half = size // 2
    for i in range(size):
        if cos.size:
            other = -x[start + i + half] if i < half else x[start + i - half]
            y[y_start + i] = x[start + i] * cos[angle + i] + other * sin[angle + i]
        else:
            y[y_start + i] = x[start + i]


@leaf
def _attend(
    part, parts, qkv, cos, sin, keys, values, place, y, rows, heads, groups, capacity, size, scale, scratch
):
    """A head of queries at a time. Every thread turns the new key for itself, so that none waits for another."""
    x, wide, all = scratch[part], lanes(scratch), (heads + 2 * groups) * size
    key, scores = size, 2 * size  # where they begin in the scratch memory, behind the query
    length = place[0]
    for i in range(rows * heads * part // parts, rows * heads * (part + 1) // parts):
        b, h = i // heads, i % heads
        g = h * groups // heads
        angle = b * size
        new_key, new_value = b * all + (heads + g) * size, b * all + (heads + groups + g) * size
        turn(qkv, b * all + h * size, cos, sin, angle, x, 0, size)
        turn(qkv, new_key, cos, sin, angle, x, key, size)
        past, first = (b * groups + g) * capacity * size, place[1 + b]
        if h * groups % heads == 0:  # the first head of those that share it
            for d in range(size):
                keys[past + length * size + d], values[past + length * size + d] = x[key + d], qkv[new_value + d]
        highest = scale * dot(x, 0, x, key, size)
        x[scores + length] = highest
        for s in range(first, length):
            score = scale * dot(x, 0, keys, past + s * size, size)
            x[scores + s] = score
            highest = score if not score <= highest else highest
        sums = x.dtype.type(0)
        for s in range(first, length + 1):
            x[scores + s] = exp(x[scores + s] - highest)
            sums += x[scores + s]
        inverse = x.dtype.type(1) / sums
        for d in range(0, size, wide):
            a = load_first(qkv, new_value + d, size - d) * x[scores + length]
            for s in range(first, length):
                a = fma(load_first(values, past + s * size + d, size - d), spread(x, x[scores + s]), a)
            store_first(y, i * size + d, a * inverse, size - d)


@leaf
def _add_projection(part, parts, x, weight, block, bias, before, y, rows, columns, size):
    for o in range(columns * part // parts, columns * (part + 1) // parts):
        for i in range(rows):
            s = dot_row(x, i * size, weight, o, block, size) + (bias[o] if bias.size else 0)
            y[i * columns + o] = before[i * columns + o] + s


@leaf
def _feed(
    part, parts, x, weight, bias, eps, center, gate, gate_block, gate_bias, up, up_block, up_bias, tanh, y,
    rows, columns, size, scratch,
):  # fmt: skip
    h, one = scratch[part], x.dtype.type(1)
    normalize(x, weight, bias, eps, center, h, rows, size)
    first, last = columns * part // parts, columns * (part + 1) // parts
    project(range(first, last), h, gate, gate_block, gate_bias, y, 0, columns, rows, size)
    if not up.size:
        for i in range(rows):
            mine = y[i * columns + first : i * columns + last]
            activate(mine, mine, tanh)
    else:
        for o in range(first, last):
            for i in range(rows):
                g = y[i * columns + o]
                u = dot_row(h, i * size, up, o, up_block, size) + (up_bias[o] if up_bias.size else 0)
                y[i * columns + o] = g / (one + exp(-g)) * u
