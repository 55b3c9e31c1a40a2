// Attention, second of four versions: a warp for each row, and one pass.
// `tinygrad_llm/ops/attention.py` has the definition and the derivation; attention_1.cu was the version before,
// ../attention.cu is the next one.
//
// The lanes of a warp share a row (a query, or a key for dk and dv): a lane has the columns lane, lane + 32, …, so that
// what a warp reads lies side by side, and stays in registers. A score is a sum over the warp. Softmax needs one pass
// alone (Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867): with the largest score so far, m, and
// z = sum_j e^{s_j - m}, a larger m' scales z, and what has been summed for y, by e^{m - m'}.
//
// Bytes: each array once would be B H (2 T + 2 S) D forward. Here q, y and lse are moved once, and all of k and v that
// it sees for each query, from the caches at best: T S D numbers of each for a head, half of that if causal. And each
// score waits for five shuffles.
#include "attention.cuh"

constexpr int BLOCK = 32, BACK_BLOCK = WIDTH > 64 ? 16 : 32;  // rows of a block: see attention.py
constexpr int COLUMNS = WIDTH / WARP;

struct Row {
  float at[COLUMNS];
};

__device__ inline Row load(const scalar* x, int D) {
  Row row;
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) {
    const int d = c * WARP + threadIdx.x % WARP;
    row.at[c] = d < D ? to_float(x[d]) : 0.0f;
  }
  return row;
}

__device__ inline void store(scalar* x, float factor, const Row& row, int D) {
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) {
    const int d = c * WARP + threadIdx.x % WARP;
    if (d < D) x[d] = from_float<scalar>(factor * row.at[c]);
  }
}

__device__ inline float dot(const Row& x, const Row& y) {
  float sum = 0.0f;
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) sum += x.at[c] * y.at[c];
  return warp_sum(sum);
}

// sum = factor sum + weight x
__device__ inline void add(Row& sum, float factor, float weight, const Row& x) {
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) sum.at[c] = factor * sum.at[c] + weight * x.at[c];
}

// Grid (blocks of queries, H, B). `factor` multiplies what dropout leaves of p: see philox.cuh.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_forward(const scalar* q, STRIDES(q), const scalar* k, STRIDES(k), const scalar* v, STRIDES(v), scalar* y,
                  STRIDES(y), float* lse, const bool* keep, unsigned long long seed, unsigned threshold, float factor,
                  float scale, int is_causal, int kv_heads, int T, int S, int D) {
  const Mask mask{keep, seed, threshold};
  const int b = blockIdx.z, h = blockIdx.y, h_kv = h * kv_heads / gridDim.y;
  const int end = min(T, (blockIdx.x + 1) * BLOCK);
  for (int i = blockIdx.x * BLOCK + threadIdx.x / WARP; i < end; i += WARPS) {
    const Row query = load(HEAD(q, b, h) + i * q_row, D);
    const long long row = static_cast<long long>(b * gridDim.y + h) * T + i;
    float m = -CUDART_INF_F, z = 0.0f;
    Row sum = {};
    for (int j = 0; j < (is_causal ? min(S, i + 1) : S); ++j) {
      const float s = scale * dot(query, load(HEAD(k, b, h_kv) + j * k_row, D)), highest = fmaxf(m, s);
      const float before = expf(m - highest), p = expf(s - highest);
      const bool drop = dropped(mask, true, row * S + j);
      add(sum, before, drop ? 0.0f : p, load(HEAD(v, b, h_kv) + j * v_row, D));
      z = before * z + p;
      m = highest;
    }
    store(HEAD(y, b, h) + i * y_row, factor / z, sum, D);
    if (threadIdx.x % WARP == 0) lse[row] = m + logf(z);
  }
}

// The same grid. delta (B, H, T) = dy · y is kept for dk.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_backward_q(const scalar* dy, STRIDES(dy), const scalar* q, STRIDES(q), const scalar* k, STRIDES(k),
                     const scalar* v, STRIDES(v), const scalar* y, STRIDES(y), scalar* dq, STRIDES(dq),
                     const float* lse, float* delta, const bool* keep, unsigned long long seed, unsigned threshold,
                     float factor, float scale, int is_causal, int kv_heads, int T, int S, int D) {
  const Mask mask{keep, seed, threshold};
  const int b = blockIdx.z, h = blockIdx.y, h_kv = h * kv_heads / gridDim.y;
  const int end = min(T, (blockIdx.x + 1) * BACK_BLOCK);
  for (int i = blockIdx.x * BACK_BLOCK + threadIdx.x / WARP; i < end; i += WARPS) {
    const Row query = load(HEAD(q, b, h) + i * q_row, D), mine = load(HEAD(dy, b, h) + i * dy_row, D);
    const long long row = static_cast<long long>(b * gridDim.y + h) * T + i;
    const float dy_y = dot(mine, load(HEAD(y, b, h) + i * y_row, D));
    Row sum = {};
    for (int j = 0; j < (is_causal ? min(S, i + 1) : S); ++j) {
      const Row key = load(HEAD(k, b, h_kv) + j * k_row, D);
      const float p = expf(scale * dot(query, key) - lse[row]);
      const float dp = factor * dot(mine, load(HEAD(v, b, h_kv) + j * v_row, D));
      add(sum, 1.0f, p * ((dropped(mask, true, row * S + j) ? 0.0f : dp) - dy_y), key);
    }
    store(HEAD(dq, b, h) + i * dq_row, scale, sum, D);
    if (threadIdx.x % WARP == 0) delta[row] = dy_y;
  }
}

// Grid (blocks of keys, H_kv, B), after attention_backward_q.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_backward_kv(const scalar* dy, STRIDES(dy), const scalar* q, STRIDES(q), const scalar* k, STRIDES(k),
                      const scalar* v, STRIDES(v), scalar* dk, STRIDES(dk), scalar* dv, STRIDES(dv),
                      const float* lse, const float* delta, const bool* keep, unsigned long long seed,
                      unsigned threshold, float factor, float scale, int is_causal, int heads, int T, int S, int D) {
  const Mask mask{keep, seed, threshold};
  const int b = blockIdx.z, h_kv = blockIdx.y, shared_by = heads / gridDim.y;
  const int end = min(S, (blockIdx.x + 1) * BACK_BLOCK);
  for (int j = blockIdx.x * BACK_BLOCK + threadIdx.x / WARP; j < end; j += WARPS) {
    const Row key = load(HEAD(k, b, h_kv) + j * k_row, D), value = load(HEAD(v, b, h_kv) + j * v_row, D);
    Row dk_sum = {}, dv_sum = {};
    for (int h = h_kv * shared_by; h < (h_kv + 1) * shared_by; ++h)
      for (int i = is_causal ? j : 0; i < T; ++i) {
        const Row query = load(HEAD(q, b, h) + i * q_row, D), theirs = load(HEAD(dy, b, h) + i * dy_row, D);
        const long long row = static_cast<long long>(b * heads + h) * T + i;
        const float p = expf(scale * dot(query, key) - lse[row]), dp = factor * dot(theirs, value);
        const bool drop = dropped(mask, true, row * S + j);
        add(dv_sum, 1.0f, drop ? 0.0f : p, theirs);
        add(dk_sum, 1.0f, p * ((drop ? 0.0f : dp) - delta[row]), query);
      }
    store(HEAD(dv, b, h_kv) + j * dv_row, factor, dv_sum, D);
    store(HEAD(dk, b, h_kv) + j * dk_row, scale, dk_sum, D);
  }
}
