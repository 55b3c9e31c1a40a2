// Attention, first of four versions: the definition, row by row, a few threads each.
// `tinygrad_llm/ops/attention.py` has the definition and the derivation, attention_2.cu the next version.
//
// A thread has one row (a query, or a key for dk and dv) and some of its columns. It goes through the other rows and
// makes their scores, as often as it needs them: once for the softmax's sum, once more for y. Nothing is shared, so the
// same score is made by every thread of the row, and no two of them talk to each other.
//
// Bytes: each array once would be B H (2 T + 2 S) D forward. A thread here reads a whole row of q and k for a score,
// twice, and its columns of v: 2 T S D numbers of each for a head, PARTS times over, at 32 places of memory at once,
// since the lanes of a warp stand in 32 rows. The caches make up for some of it.
#include "attention.cuh"

constexpr int BLOCK = 32, BACK_BLOCK = WIDTH > 64 ? 16 : 32;  // rows of a block: see attention.py
constexpr int PARTS = THREADS / BLOCK, BACK_PARTS = THREADS / BACK_BLOCK;

__device__ inline float dot(const scalar* x, const scalar* y, int D) {
  float sum = 0.0f;
  for (int d = 0; d < D; ++d) sum += to_float(x[d]) * to_float(y[d]);
  return sum;
}

// sum += weight x, in the thread's N columns
template <int N> __device__ inline void add(float (&sum)[N], float weight, const scalar* x, int first, int D) {
#pragma unroll
  for (int d = 0; d < N; ++d)
    if (first + d < D) sum[d] += weight * to_float(x[first + d]);
}

template <int N>
__device__ inline void store(scalar* x, float factor, const float (&sum)[N], int first, int D) {
#pragma unroll
  for (int d = 0; d < N; ++d)
    if (first + d < D) x[first + d] = from_float<scalar>(factor * sum[d]);
}

// Grid (blocks of queries, H, B). `factor` multiplies what dropout leaves of p: see philox.cuh.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_forward(const scalar* q, STRIDES(q), const scalar* k, STRIDES(k), const scalar* v, STRIDES(v), scalar* y,
                  STRIDES(y), float* lse, const bool* keep, unsigned long long seed, unsigned threshold, float factor,
                  float scale, int is_causal, int kv_heads, int T, int S, int D) {
  const Mask mask{keep, seed, threshold};
  const int b = blockIdx.z, h = blockIdx.y, h_kv = h * kv_heads / gridDim.y;
  const int i = blockIdx.x * BLOCK + threadIdx.x % BLOCK, part = threadIdx.x / BLOCK;
  const int end = is_causal ? min(S, i + 1) : S;
  if (i >= T) return;
  const scalar *query = HEAD(q, b, h) + i * q_row, *keys = HEAD(k, b, h_kv), *values = HEAD(v, b, h_kv);
  const long long row = static_cast<long long>(b * gridDim.y + h) * T + i;
  float m = -CUDART_INF_F, z = 0.0f;
  for (int j = 0; j < end; ++j) {
    const float s = scale * dot(query, keys + j * k_row, D), highest = fmaxf(m, s);
    z = z * expf(m - highest) + expf(s - highest);
    m = highest;
  }
  float sum[WIDTH / PARTS] = {};
  for (int j = 0; j < end; ++j) {
    const float p = expf(scale * dot(query, keys + j * k_row, D) - m) / z;
    if (!dropped(mask, true, row * S + j)) add(sum, p, values + j * v_row, part * (WIDTH / PARTS), D);
  }
  store(HEAD(y, b, h) + i * y_row, factor, sum, part * (WIDTH / PARTS), D);
  if (part == 0) lse[row] = m + logf(z);
}

// The same grid. delta (B, H, T) = dy · y is kept for dk.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_backward_q(const scalar* dy, STRIDES(dy), const scalar* q, STRIDES(q), const scalar* k, STRIDES(k),
                     const scalar* v, STRIDES(v), const scalar* y, STRIDES(y), scalar* dq, STRIDES(dq),
                     const float* lse, float* delta, const bool* keep, unsigned long long seed, unsigned threshold,
                     float factor, float scale, int is_causal, int kv_heads, int T, int S, int D) {
  const Mask mask{keep, seed, threshold};
  const int b = blockIdx.z, h = blockIdx.y, h_kv = h * kv_heads / gridDim.y;
  const int i = blockIdx.x * BACK_BLOCK + threadIdx.x % BACK_BLOCK, part = threadIdx.x / BACK_BLOCK;
  if (i >= T) return;
  const scalar *query = HEAD(q, b, h) + i * q_row, *mine = HEAD(dy, b, h) + i * dy_row;
  const long long row = static_cast<long long>(b * gridDim.y + h) * T + i;
  const float dy_y = dot(mine, HEAD(y, b, h) + i * y_row, D);
  float sum[WIDTH / BACK_PARTS] = {};
  for (int j = 0; j < (is_causal ? min(S, i + 1) : S); ++j) {
    const scalar* key = HEAD(k, b, h_kv) + j * k_row;
    const float p = expf(scale * dot(query, key, D) - lse[row]);
    const float dp = dropped(mask, true, row * S + j) ? 0.0f : factor * dot(mine, HEAD(v, b, h_kv) + j * v_row, D);
    add(sum, p * (dp - dy_y), key, part * (WIDTH / BACK_PARTS), D);
  }
  store(HEAD(dq, b, h) + i * dq_row, scale, sum, part * (WIDTH / BACK_PARTS), D);
  if (part == 0) delta[row] = dy_y;
}

// Grid (blocks of keys, H_kv, B), after attention_backward_q.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_backward_kv(const scalar* dy, STRIDES(dy), const scalar* q, STRIDES(q), const scalar* k, STRIDES(k),
                      const scalar* v, STRIDES(v), scalar* dk, STRIDES(dk), scalar* dv, STRIDES(dv),
                      const float* lse, const float* delta, const bool* keep, unsigned long long seed,
                      unsigned threshold, float factor, float scale, int is_causal, int heads, int T, int S, int D) {
  const Mask mask{keep, seed, threshold};
  const int b = blockIdx.z, h_kv = blockIdx.y, shared_by = heads / gridDim.y;
  const int j = blockIdx.x * BACK_BLOCK + threadIdx.x % BACK_BLOCK, part = threadIdx.x / BACK_BLOCK;
  if (j >= S) return;
  const scalar *key = HEAD(k, b, h_kv) + j * k_row, *value = HEAD(v, b, h_kv) + j * v_row;
  float dk_sum[WIDTH / BACK_PARTS] = {}, dv_sum[WIDTH / BACK_PARTS] = {};
  for (int h = h_kv * shared_by; h < (h_kv + 1) * shared_by; ++h)
    for (int i = is_causal ? j : 0; i < T; ++i) {
      const scalar *query = HEAD(q, b, h) + i * q_row, *theirs = HEAD(dy, b, h) + i * dy_row;
      const long long row = static_cast<long long>(b * heads + h) * T + i;
      const float p = expf(scale * dot(query, key, D) - lse[row]);
      const bool drop = dropped(mask, true, row * S + j);
      const float dp = drop ? 0.0f : factor * dot(theirs, value, D);
      add(dv_sum, drop ? 0.0f : p, theirs, part * (WIDTH / BACK_PARTS), D);
      add(dk_sum, p * (dp - delta[row]), query, part * (WIDTH / BACK_PARTS), D);
    }
  store(HEAD(dv, b, h_kv) + j * dv_row, factor, dv_sum, part * (WIDTH / BACK_PARTS), D);
  store(HEAD(dk, b, h_kv) + j * dk_row, scale, dk_sum, part * (WIDTH / BACK_PARTS), D);
}
