"""Attention that holds one row of scores at a time: `tinygrad_llm.ops.attention` has the definition and the derivation.

The (T, S) scores and probabilities are the largest arrays of a small GPT, and with a causal mask half of them is
nothing. Here a thread takes one head, and of it one query after another: its scores are a row that stays in the cache,
only as long as what the query may see, so that the masked half is never computed. Kept for the backward is y and, for
each query, lse = log sum_j e^{s_j}, from which the backward makes the row again, p = e^{s - lse}, as in FlashAttention
(Dao et al. 2022, https://arxiv.org/abs/2205.14135). The sum in ds needs no row either: sum_j dp_j p_j = dy · y.

Every product here is a sum of rows, scores too: s = sum_d q_d K_d with K the keys transposed, (D, S). Such sums run
along whole vector registers, and eight rows are added at a time, so that the result is read and written once for
eight multiply-adds. For the same reason the backward gathers the rows of eight queries before it adds to dk and dv.

Masks, dropout, and sizes that broadcast or do not fit take the page's own functions.
"""

import math

import numpy as np
from numba import prange

from tinygrad_llm.kernels.numba.common import exp, helper, largest, leaf
from tinygrad_llm.ops import attention as page

QUERIES = 8  # that the backward gathers


def attention_forward(q, k, v, attn_mask=None, keep=None, dropout_p=0.0, is_causal=False, scale=None):
    same_sizes = q.ndim == 4 and k.shape == v.shape and q.shape[::3] == k.shape[::3] and q.shape[1] % k.shape[1] == 0
    if attn_mask is not None or keep is not None or not same_sizes:
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
    dq, dk, dv = np.empty_like(q), np.zeros_like(k), np.zeros_like(v)
    _backward_heads(np.ascontiguousarray(dy), q, k, v, y, lse, scale, is_causal, dq, dk, dv)
    return dq, dk, dv


@leaf
def _forward(q, k, v, scale, is_causal, y, lse):
    heads, shared = q.shape[1], q.shape[1] // k.shape[1]
    for i in prange(q.shape[0] * heads):
        b, h = i // heads, i % heads
        attend(q[b, h], k[b, h // shared], v[b, h // shared], scale, is_causal, y[b, h], lse[b, h])


@leaf
def _backward_heads(dy, q, k, v, y, lse, scale, is_causal, dq, dk, dv):
    heads, shared = k.shape[1], q.shape[1] // k.shape[1]
    for i in prange(k.shape[0] * heads):
        b, g = i // heads, i % heads
        for h in range(g * shared, (g + 1) * shared):  # one thread, since their gradients meet in dk[b, g]
            head = dy[b, h], q[b, h], k[b, g], v[b, g], y[b, h], lse[b, h]
            attend_backward(*head, scale, is_causal, dq[b, h], dk[b, g], dv[b, g])


@helper
def attend(q, k, v, scale, is_causal, y, lse):
    (queries, keys), one, k_columns = (len(q), len(k)), q.dtype.type(1), k.T.copy()  # (D, S)
    scores = np.empty(keys, q.dtype)
    for t in range(queries):
        p, total = scores[: min(t + 1, keys) if is_causal else keys], q.dtype.type(0)
        weighted_sum(scale, q[t], k_columns, p)
        highest = largest(p)
        for j in range(p.size):
            p[j] = exp(p[j] - highest)
            total += p[j]
        weighted_sum(one / total, p, v, y[t])
        lse[t] = highest + np.log(total)


@helper
def attend_backward(dy, q, k, v, y, lse, scale, is_causal, dq, dk, dv):
    (queries, keys), one, k_columns, v_columns = (len(q), len(k)), q.dtype.type(1), k.T.copy(), v.T.copy()  # (D, S)
    p, ds = np.empty((QUERIES, keys), q.dtype), np.empty((QUERIES, keys), q.dtype)
    for start in range(0, queries, QUERIES):
        stop = min(start + QUERIES, queries)
        count, longest = stop - start, min(stop, keys) if is_causal else keys
        for t in range(start, stop):
            seen = min(t + 1, keys) if is_causal else keys
            p_row, ds_row, row_lse, dot = p[t - start, :seen], ds[t - start, :seen], lse[t], q.dtype.type(0)
            weighted_sum(scale, q[t], k_columns, p_row)
            weighted_sum(scale, dy[t], v_columns, ds_row)
            for d in range(q.shape[1]):
                dot += scale * dy[t, d] * y[t, d]
            for j in range(seen):
                p_row[j] = exp(p_row[j] - row_lse)
                ds_row[j] = p_row[j] * (ds_row[j] - dot)
            p[t - start, seen:longest] = 0
            ds[t - start, seen:longest] = 0
            weighted_sum(one, ds_row, k, dq[t])
        for j in range(longest):
            add_weighted_sum(p[:count, j], dy[start:stop], dv[j])
            add_weighted_sum(ds[:count, j], q[start:stop], dk[j])


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
