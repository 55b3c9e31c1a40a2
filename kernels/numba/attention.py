"""Attention that holds one row of scores at a time: `tinygrad_llm.ops.attention` has the definition and the derivation.

The (T, S) scores and probabilities are the largest arrays of a small GPT, and with a causal mask half of them is
nothing. Here a thread takes one head, and of it one query after another: its scores are a row that stays in the cache,
only as long as what the query may see, so that the masked half is never computed. Kept for the backward is y and, for
each query, lse = log sum_j e^{s_j}, from which the backward makes the row again, p = e^{s - lse}, as in FlashAttention
(Dao et al. 2022, https://arxiv.org/abs/2205.14135). The sum in ds needs no row either: sum_j dp_j p_j = dy · y.

Every product here is a sum of rows, scores too: s = sum_d q_d K_d with K the keys transposed, (D, S). Such sums run
along whole vector registers, and eight rows are added at a time, so that the result is read and written once for
eight multiply-adds. For the same reason the backward gathers the rows of eight queries before it adds to dk and dv.

Masks and dropout take the page's own functions.
"""

import math

import numpy as np
from numba import prange

from tinygrad_llm.kernels.numba.common import exp, helper, largest, leaf
from tinygrad_llm.ops import attention as page

QUERIES = 8  # that the backward gathers


def attention_forward(q, k, v, attn_mask=None, keep=None, dropout_p=0.0, is_causal=False, scale=None):
    if attn_mask is not None or keep is not None:
        y, *saved = page.forward(q, k, v, attn_mask, keep, dropout_p, is_causal, scale)
        return y, page.backward, saved
    scale = q.dtype.type(1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    q, k, v = (np.ascontiguousarray(x) for x in (q, k, v))
    y, lse = np.empty(q.shape, q.dtype), np.empty(q.shape[:-1], q.dtype)
    _forward(q, k, v, scale, is_causal, y, lse)
    return y, _backward, (q, k, v, y, lse, scale, is_causal)


def attention_backward(dy, backward, saved, needs):
    return backward(dy, *saved, needs)


def _backward(dy, q, k, v, y, lse, scale, is_causal, needs):
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    _backward_heads(np.ascontiguousarray(dy), q, k, v, y, lse, scale, is_causal, dq, dk, dv)
    return dq, dk, dv


@leaf
def _forward(q, k, v, scale, is_causal, y, lse):
    (batch, heads, queries, _), (kv_heads, keys) = q.shape, k.shape[1:3]
    for head in prange(batch * heads):
        b, h = head // heads, head % heads
        q_head, y_head, v_head = q[b, h], y[b, h], v[b, h * kv_heads // heads]
        k_transposed = k[b, h * kv_heads // heads].T.copy()  # (D, S)
        scores = np.empty(keys, q.dtype)
        for t in range(queries):
            p = scores[: min(t + 1, keys) if is_causal else keys]
            weighted_sum(scale, q_head[t], k_transposed, p)
            highest, total = largest(p), q.dtype.type(0)
            for j in range(p.size):
                p[j] = exp(p[j] - highest)
                total += p[j]
            weighted_sum(1 / total, p, v_head, y_head[t])
            lse[b, h, t] = highest + np.log(total)


@leaf
def _backward_heads(dy, q, k, v, y, lse, scale, is_causal, dq, dk, dv):
    (batch, heads, queries, width), (kv_heads, keys) = q.shape, k.shape[1:3]
    for kv_head in prange(batch * kv_heads):
        b, g = kv_head // kv_heads, kv_head % kv_heads
        k_head, dk_head, dv_head = k[b, g], dk[b, g], dv[b, g]
        k_transposed, v_transposed = k_head.T.copy(), v[b, g].T.copy()  # (D, S)
        p, ds = np.empty((QUERIES, keys), q.dtype), np.empty((QUERIES, keys), q.dtype)
        for h in range(g * heads // kv_heads, (g + 1) * heads // kv_heads):
            q_head, y_head, dy_head, dq_head = q[b, h], y[b, h], dy[b, h], dq[b, h]
            for start in range(0, queries, QUERIES):
                stop = min(start + QUERIES, queries)
                longest = min(stop, keys) if is_causal else keys
                for t in range(start, stop):
                    seen = min(t + 1, keys) if is_causal else keys
                    p_row, ds_row = p[t - start, :seen], ds[t - start, :seen]
                    weighted_sum(scale, q_head[t], k_transposed, p_row)
                    weighted_sum(scale, dy_head[t], v_transposed, ds_row)
                    dot = q.dtype.type(0)
                    for d in range(width):
                        dot += dy_head[t, d] * y_head[t, d]
                    dot *= scale
                    for j in range(seen):
                        p_row[j] = exp(p_row[j] - lse[b, h, t])
                        ds_row[j] = p_row[j] * (ds_row[j] - dot)
                    p[t - start, seen:longest] = 0
                    ds[t - start, seen:longest] = 0
                    weighted_sum(q.dtype.type(1), ds_row, k_head, dq_head[t])
                for j in range(longest):
                    add_weighted_sum(p[: stop - start, j], dy_head[start:stop], dv_head[j])
                    add_weighted_sum(ds[: stop - start, j], q_head[start:stop], dk_head[j])


@helper
def weighted_sum(scale, factors, rows, out):
    """out = scale sum_k factors[k] rows[k], of each row as much as out is long."""
    out[:] = 0
    add_weighted_sum(factors, rows, out)
    for i in range(out.size):
        out[i] *= scale


@helper
def add_weighted_sum(factors, rows, out):
    """out += sum_k factors[k] rows[k]."""
    size, eights = out.size, factors.size // 8 * 8
    for k in range(0, eights, 8):
        r0, r1, r2, r3 = rows[k, :size], rows[k + 1, :size], rows[k + 2, :size], rows[k + 3, :size]
        r4, r5, r6, r7 = rows[k + 4, :size], rows[k + 5, :size], rows[k + 6, :size], rows[k + 7, :size]
        f0, f1, f2, f3 = factors[k], factors[k + 1], factors[k + 2], factors[k + 3]
        f4, f5, f6, f7 = factors[k + 4], factors[k + 5], factors[k + 6], factors[k + 7]
        for i in range(size):
            first = f0 * r0[i] + f1 * r1[i] + f2 * r2[i] + f3 * r3[i]
            out[i] += first + f4 * r4[i] + f5 * r5[i] + f6 * r6[i] + f7 * r7[i]
    for k in range(eights, factors.size):
        row, factor = rows[k, :size], factors[k]
        for i in range(size):
            out[i] += factor * row[i]
