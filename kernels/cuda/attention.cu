// Attention, third of four versions: tiles of keys in shared memory, arithmetic in float32, on any card.
// `tinygrad_llm/ops/attention.py` has the definition and the derivation; the fourth, for tensor cores, is
// attention_mma.cu, the first two are versions/attention_1.cu and attention_2.cu.
//
// FlashAttention (Dao et al. 2022, https://arxiv.org/abs/2205.14135): of the (T, S) scores there is never more than a
// tile. A block takes some queries and goes through the keys 32 at a time. With the largest score so far, m, and
// z = sum_j e^{s_j - m}, a larger m' in a new tile scales what has been summed by e^{m - m'}. Of the softmax only
// lse = m + log z is kept, from which the backward makes the scores' probabilities again: p = e^{s - lse}. Which blocks
// sum what (Dao 2023, https://arxiv.org/abs/2307.08691): dq in blocks of queries, dk and dv in blocks of keys, so that
// nobody adds to another's sum, there are no atomics, and the bits are the same each time. What a causal mask forbids
// altogether is no tile.
//
// A warp has ROWS rows (of queries, or of keys for dk and dv), and a lane one row of the tile: it makes one score with
// each of the warp's rows, reading its own row once for all of them, while theirs are read by all lanes at once. Then a
// lane has a column and the scores are read by all. Either way 16 bytes at a time from shared memory.
//
// Bytes: each array once would be B H (2 T + 2 S) D numbers forward. Here q, y and lse are moved once, and k and v once
// for each block of 32 queries (of which half, if causal), since shared memory does not hold them: of a causal head of
// 1024 × 64, 8.7 times the least. They come from the L2 cache, not from DRAM, as long as it holds k and v of the heads
// in work, which it nearly always does: 32 such heads are 16 MiB. Backward likewise, k and v for each block of queries,
// then dy and (twice, for want of room) q for each of keys: 11 times the least. See `attention` in moved.py.
#include "attention.cuh"

constexpr int TILE = WARP;                      // rows of a tile: one for each lane
constexpr int PITCH = WIDTH + 4;                // rows begin at 16 bytes, and those of eight lanes in different banks
constexpr int COLUMNS = WIDTH / WARP;           // a lane has columns lane, lane + 32, …
constexpr int ROWS = 8;                         // rows of a warp forward,
constexpr int BACK_ROWS = WIDTH > 64 ? 4 : 8;   // and backward, where 48 KB must hold two arrays' rows

using Tile = float[TILE][PITCH];

// s_r = row r · the lane's row of the tile
template <int R>
__device__ inline void scores(float (&s)[R], const float (*rows)[PITCH], const Tile& tile) {
#pragma unroll
  for (int r = 0; r < R; ++r) s[r] = 0.0f;
#pragma unroll 4
  for (int d = 0; d < WIDTH; d += 4) {
    const PackOf<float> mine = load_pack(&tile[threadIdx.x % WARP][d]);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const PackOf<float> row = load_pack(&rows[r][d]);
#pragma unroll
      for (int i = 0; i < 4; ++i) s[r] += row[i] * mine[i];
    }
  }
}

// sum_rc += sum_j weight_rj tile_jc
template <int R>
__device__ inline void add_weighted(float (&sum)[R][COLUMNS], const float (*weights)[TILE], const Tile& tile) {
#pragma unroll 2
  for (int j = 0; j < TILE; j += 4) {
    float rows[4][COLUMNS];
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) rows[i][c] = tile[j + i][c * WARP + threadIdx.x % WARP];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const PackOf<float> weight = load_pack(&weights[r][j]);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) sum[r][c] += weight[i] * rows[i][c];
    }
  }
}

// `count` of the warp's rows of X = factor_r sum_r
template <int R>
__device__ inline void store_rows(scalar* x, long long row, int count, int D, const float (&sum)[R][COLUMNS],
                                  const float (&factor)[R]) {
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      const int d = c * WARP + threadIdx.x % WARP;
      if (r < count && d < D) x[r * row + d] = from_float<scalar>(factor[r] * sum[r][c]);
    }
}

// Grid (blocks of WARPS * ROWS queries, H, B). y = softmax(scale q k^T) v, and lse (B, H, T).
// `factor` multiplies what dropout leaves of p, of which keep, seed and threshold tell: see philox.cuh.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_forward(const scalar* q, STRIDES(q), const scalar* k, STRIDES(k), const scalar* v, STRIDES(v), scalar* y,
                  STRIDES(y), float* lse, const bool* keep, unsigned long long seed, unsigned threshold, float factor,
                  float scale, int is_causal, int kv_heads, int T, int S, int D) {
  const Mask mask{keep, seed, threshold};
  alignas(16) __shared__ float queries[WARPS * ROWS][PITCH], tile[TILE][PITCH], weights[WARPS][ROWS][TILE];
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, b = blockIdx.z, h = blockIdx.y;
  const int h_kv = h * kv_heads / gridDim.y;
  const int block = (gridDim.x - 1 - blockIdx.x) * WARPS * ROWS;  // those with the most keys begin first
  const int first = block + warp * ROWS;
  const long long row = static_cast<long long>(b * gridDim.y + h) * T + first;
  load_rows(queries, HEAD(q, b, h) + block * q_row, q_row, T - block, D);
  float m[ROWS], z[ROWS], sum[ROWS][COLUMNS] = {};
#pragma unroll
  for (int r = 0; r < ROWS; ++r) m[r] = -CUDART_INF_F, z[r] = 0.0f;
  const int end = is_causal ? min(S, block + WARPS * ROWS) : S;
  for (int j = 0; j < end; j += TILE) {
    const int key = j + lane;
    __syncthreads();
    load_rows(tile, HEAD(k, b, h_kv) + j * k_row, k_row, S - j, D);
    __syncthreads();
    float s[ROWS];
    scores(s, queries + warp * ROWS, tile);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const bool seen = key < S && (!is_causal || key <= first + r);
      s[r] = seen ? scale * s[r] : -CUDART_INF_F;
      const float highest = fmaxf(m[r], warp_max(s[r]));
      const float before = expf(m[r] - highest);
      const float p = expf(s[r] - highest);
      m[r] = highest;
      z[r] = before * z[r] + warp_sum(p);
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) sum[r][c] *= before;
      weights[warp][r][lane] = dropped(mask, seen && first + r < T, (row + r) * S + key) ? 0.0f : p;
    }
    __syncthreads();
    load_rows(tile, HEAD(v, b, h_kv) + j * v_row, v_row, S - j, D);
    __syncthreads();
    add_weighted(sum, weights[warp], tile);
  }
  float inverse[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    inverse[r] = factor / z[r];
    if (lane == 0 && first + r < T) lse[row + r] = m[r] + logf(z[r]);
  }
  store_rows(HEAD(y, b, h) + first * y_row, y_row, T - first, D, sum, inverse);
}

// Grid (blocks of WARPS * BACK_ROWS queries, H, B). dq = scale ds k with ds = p (dp - delta), dp = dy v^T and
// delta = sum_j dp_j p_j = dy · y (B, H, T), which is kept for dk.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_backward_q(const scalar* dy, STRIDES(dy), const scalar* q, STRIDES(q), const scalar* k, STRIDES(k),
                     const scalar* v, STRIDES(v), const scalar* y, STRIDES(y), scalar* dq, STRIDES(dq),
                     const float* lse, float* delta, const bool* keep, unsigned long long seed, unsigned threshold,
                     float factor, float scale, int is_causal, int kv_heads, int T, int S, int D) {
  const Mask mask{keep, seed, threshold};
  alignas(16) __shared__ float queries[WARPS * BACK_ROWS][PITCH], dys[WARPS * BACK_ROWS][PITCH], tile[TILE][PITCH],
      weights[WARPS][BACK_ROWS][TILE];
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, b = blockIdx.z, h = blockIdx.y;
  const int h_kv = h * kv_heads / gridDim.y;
  const int block = (gridDim.x - 1 - blockIdx.x) * WARPS * BACK_ROWS;
  const int first = block + warp * BACK_ROWS;
  const long long row = static_cast<long long>(b * gridDim.y + h) * T + first;
  load_rows(queries, HEAD(q, b, h) + block * q_row, q_row, T - block, D);
  load_rows(dys, HEAD(dy, b, h) + block * dy_row, dy_row, T - block, D);
  __syncthreads();
  float dot[BACK_ROWS], norm[BACK_ROWS], sum[BACK_ROWS][COLUMNS] = {};
#pragma unroll
  for (int r = 0; r < BACK_ROWS; ++r) {
    dot[r] = 0.0f;
    norm[r] = CUDART_INF_F;  // p = e^{s - lse} = 0 where there is no query
    if (first + r < T) {
      norm[r] = lse[row + r];
      for (int d = lane; d < D; d += WARP)
        dot[r] += dys[warp * BACK_ROWS + r][d] * to_float(HEAD(y, b, h)[(first + r) * y_row + d]);
      dot[r] = warp_sum(dot[r]);
      if (lane == 0) delta[row + r] = dot[r];
    }
  }
  const int end = is_causal ? min(S, block + WARPS * BACK_ROWS) : S;
  for (int j = 0; j < end; j += TILE) {
    const int key = j + lane;
    load_rows(tile, HEAD(v, b, h_kv) + j * v_row, v_row, S - j, D);
    __syncthreads();
    float s[BACK_ROWS], dp[BACK_ROWS];
    scores(dp, dys + warp * BACK_ROWS, tile);
    __syncthreads();
    load_rows(tile, HEAD(k, b, h_kv) + j * k_row, k_row, S - j, D);
    __syncthreads();
    scores(s, queries + warp * BACK_ROWS, tile);
#pragma unroll
    for (int r = 0; r < BACK_ROWS; ++r) {
      const bool seen = key < S && (!is_causal || key <= first + r);
      const float p = seen ? expf(scale * s[r] - norm[r]) : 0.0f;
      const bool drop = dropped(mask, seen && first + r < T, (row + r) * S + key);
      weights[warp][r][lane] = p * ((drop ? 0.0f : factor * dp[r]) - dot[r]);
    }
    __syncwarp();
    add_weighted(sum, weights[warp], tile);
    __syncthreads();
  }
  float scales[BACK_ROWS];
#pragma unroll
  for (int r = 0; r < BACK_ROWS; ++r) scales[r] = scale;
  store_rows(HEAD(dq, b, h) + first * dq_row, dq_row, T - first, D, sum, scales);
}

// Grid (blocks of WARPS * BACK_ROWS keys, H_kv, B), after attention_backward_q. dk = scale ds^T q and dv = p^T dy,
// summed over the heads of q that share one of k.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_backward_kv(const scalar* dy, STRIDES(dy), const scalar* q, STRIDES(q), const scalar* k, STRIDES(k),
                      const scalar* v, STRIDES(v), scalar* dk, STRIDES(dk), scalar* dv, STRIDES(dv),
                      const float* lse, const float* delta, const bool* keep, unsigned long long seed,
                      unsigned threshold, float factor, float scale, int is_causal, int heads, int T, int S, int D) {
  const Mask mask{keep, seed, threshold};
  alignas(16) __shared__ float keys[WARPS * BACK_ROWS][PITCH], values[WARPS * BACK_ROWS][PITCH], tile[TILE][PITCH],
      weights[WARPS][BACK_ROWS][TILE];
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, b = blockIdx.z, h_kv = blockIdx.y;
  const int block = blockIdx.x * WARPS * BACK_ROWS;
  const int first = block + warp * BACK_ROWS;
  const int shared_by = heads / gridDim.y;
  load_rows(keys, HEAD(k, b, h_kv) + block * k_row, k_row, S - block, D);
  load_rows(values, HEAD(v, b, h_kv) + block * v_row, v_row, S - block, D);
  float dk_sum[BACK_ROWS][COLUMNS] = {}, dv_sum[BACK_ROWS][COLUMNS] = {};
  for (int h = h_kv * shared_by; h < (h_kv + 1) * shared_by; ++h)
    for (int i = is_causal ? block / TILE * TILE : 0; i < T; i += TILE) {
      const int query = i + lane;
      const long long row = static_cast<long long>(b * heads + h) * T + query;
      const float norm = query < T ? lse[row] : CUDART_INF_F, dot = query < T ? delta[row] : 0.0f;
      __syncthreads();
      load_rows(tile, HEAD(q, b, h) + i * q_row, q_row, T - i, D);
      __syncthreads();
      float p[BACK_ROWS], dp[BACK_ROWS];
      bool drop[BACK_ROWS];
      scores(p, keys + warp * BACK_ROWS, tile);
#pragma unroll
      for (int r = 0; r < BACK_ROWS; ++r) {
        const int key = first + r;
        const bool seen = key < S && query < T && (!is_causal || key <= query);
        p[r] = seen ? expf(scale * p[r] - norm) : 0.0f;
        drop[r] = dropped(mask, seen, row * S + key);
        weights[warp][r][lane] = drop[r] ? 0.0f : p[r];
      }
      __syncthreads();
      load_rows(tile, HEAD(dy, b, h) + i * dy_row, dy_row, T - i, D);
      __syncthreads();
      scores(dp, values + warp * BACK_ROWS, tile);
      add_weighted(dv_sum, weights[warp], tile);
      __syncthreads();
      load_rows(tile, HEAD(q, b, h) + i * q_row, q_row, T - i, D);
#pragma unroll
      for (int r = 0; r < BACK_ROWS; ++r)
        weights[warp][r][lane] = p[r] * ((drop[r] ? 0.0f : factor * dp[r]) - dot);
      __syncthreads();
      add_weighted(dk_sum, weights[warp], tile);
    }
  float factors[BACK_ROWS], scales[BACK_ROWS];
#pragma unroll
  for (int r = 0; r < BACK_ROWS; ++r) factors[r] = factor, scales[r] = scale;
  store_rows(HEAD(dv, b, h_kv) + first * dv_row, dv_row, S - first, D, dv_sum, factors);
  store_rows(HEAD(dk, b, h_kv) + first * dk_row, dk_row, S - first, D, dk_sum, scales);
}
