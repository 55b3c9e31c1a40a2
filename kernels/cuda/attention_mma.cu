// Attention, fourth of four versions: all products by tensor cores, for float16 and bfloat16 on sm_80 and later.
// `tinygrad_llm/ops/attention.py` has the definition and the derivation; attention.cu, the third version, has what is
// summed by which block and why, and its kernels have the same names, arguments and order of steps.
//
// A block has 64 rows (of queries, or of keys for dk and dv), 16 for each warp, and goes through the others in tiles.
// The scores of 16 rows are made in the registers of a warp, turn into probabilities there, and are a factor of the
// next product without moving: see mma.cuh for how a lane's numbers lie. As factors they are rounded to the storage
// type; sums, and the softmax, are in float32.
//
// Bytes: each array once would be B H (2 T + 2 S) D numbers forward. Here k and v are read once for each block of 64
// queries (of which half, if causal), since shared memory does not hold them: of a causal head of 1024 × 64, 4.7 times
// the least. They come from the L2 cache as long as it holds k and v of the heads in work. Backward likewise, k and v
// for each 64 queries, then q and dy for each 64 keys: 5.3 times the least. See `attention` in moved.py.
#include "attention.cuh"
#include "mma.cuh"

static_assert(has_mma<scalar>, "float16, and bfloat16, which needs sm_80");

constexpr int ROWS = 16;                         // of a warp
constexpr int BLOCK = WARPS * ROWS;
constexpr int TILE = WIDTH > 64 ? 32 : 64;       // rows of a tile forward,
constexpr int BACK_TILE = WIDTH > 64 ? 16 : 32;  // and backward, where 48 KB must hold more
constexpr int PITCH = WIDTH + 8;                 // 16 bytes each of eight rows, loaded at once, lie in different banks
constexpr int COLUMNS = WIDTH / 8;               // matrices side by side in a row
constexpr float LOG2_E = 1.44269504f;

using Row = scalar[PITCH];

__device__ inline int lane() { return threadIdx.x % WARP; }

// s (16, 8 N) = rows (16, WIDTH) tile^T
template <int N> __device__ inline void scores(float (&s)[N][4], const Row* rows, const Row* tile) {
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) s[n][e] = 0.0f;
#pragma unroll 4
  for (int d = 0; d < WIDTH; d += 16) {
    unsigned a[4], b[4];
    load_matrices(a, &rows[lane() % 16][d + lane() / 16 * 8]);
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      load_matrices(b, &tile[8 * n + lane() / 16 * 8 + lane() % 8][d + lane() / 8 % 2 * 8]);
      mma_16x8x16<scalar>(s[n], a, b);
      mma_16x8x16<scalar>(s[n + 1], a, b + 2);
    }
  }
}

// sum (16, WIDTH) += weights (16, 8 N) tile
template <int N>
__device__ inline void add_weighted(float (&sum)[COLUMNS][4], const float (&weights)[N][4], const Row* tile) {
#pragma unroll
  for (int j = 0; j < N; j += 2) {
    const float *left = weights[j], *right = weights[j + 1];
    const unsigned a[4] = {pair<scalar>(left[0], left[1]), pair<scalar>(left[2], left[3]),
                           pair<scalar>(right[0], right[1]), pair<scalar>(right[2], right[3])};
#pragma unroll
    for (int c = 0; c < COLUMNS; c += 2) {
      unsigned b[4];
      load_matrices_transposed(b, &tile[8 * j + lane() % 16][8 * c + lane() / 16 * 8]);
      mma_16x8x16<scalar>(sum[c], a, b);
      mma_16x8x16<scalar>(sum[c + 1], a, b + 2);
    }
  }
}

// `count` of the warp's rows of X = sum, times a factor for row g and one for row g + 8; by way of the warp's own rows
// of shared memory, so that 16 bytes are stored at once.
__device__ inline void store_rows(scalar* x, long long row, int count, int D, const float (&sum)[COLUMNS][4],
                                  float factor, float factor_8, Row* rows) {
  const int g = lane() / 4, t = lane() % 4;
  __syncwarp();  // the rows have been read by all lanes
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) {
    const int d = 8 * c + 2 * t;
    *reinterpret_cast<unsigned*>(&rows[g][d]) = pair<scalar>(factor * sum[c][0], factor * sum[c][1]);
    *reinterpret_cast<unsigned*>(&rows[g + 8][d]) = pair<scalar>(factor_8 * sum[c][2], factor_8 * sum[c][3]);
  }
  __syncwarp();
  for (int i = lane(); i < ROWS * WIDTH / Pack::size; i += WARP) {
    const int r = i / (WIDTH / Pack::size), d = i % (WIDTH / Pack::size) * Pack::size;
    if (r < count) store_pack(x + r * row + d, load_pack(&rows[r][d]), D - d);
  }
}

// Over the four lanes that hold a row.
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(ALL_LANES, x, 1);
  return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

__device__ inline float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
  return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_forward(const scalar* q, STRIDES(q), const scalar* k, STRIDES(k), const scalar* v, STRIDES(v), scalar* y,
                  STRIDES(y), float* lse, const bool* keep, unsigned long long seed, unsigned threshold, float factor,
                  float scale, int is_causal, int kv_heads, int T, int S, int D) {
  const Mask mask{keep, seed, threshold};
  alignas(16) __shared__ scalar queries[BLOCK][PITCH], keys[TILE][PITCH], values[TILE][PITCH];
  const int g = lane() / 4, t = lane() % 4, b = blockIdx.z, h = blockIdx.y, h_kv = h * kv_heads / gridDim.y;
  const int block = (gridDim.x - 1 - blockIdx.x) * BLOCK;  // those with the most keys begin first
  const int mine = threadIdx.x / WARP * ROWS, first = block + mine;
  const long long row = static_cast<long long>(b * gridDim.y + h) * T + first;
  load_rows(queries, HEAD(q, b, h) + block * q_row, q_row, T - block, D);
  float m[2] = {-CUDART_INF_F, -CUDART_INF_F}, z[2] = {}, sum[COLUMNS][4] = {};
  const int end = is_causal ? min(S, block + BLOCK) : S;
  for (int j = 0; j < end; j += TILE) {
    __syncthreads();
    load_rows(keys, HEAD(k, b, h_kv) + j * k_row, k_row, S - j, D);
    load_rows(values, HEAD(v, b, h_kv) + j * v_row, v_row, S - j, D);
    __syncthreads();
    if (is_causal && j >= first + ROWS) continue;
    float s[TILE / 8][4];
    scores(s, queries + mine, keys);
#pragma unroll
    for (int r = 0; r < 2; ++r) {  // rows g and g + 8
      const int i = g + 8 * r;
      float highest = m[r], total = 0.0f;
#pragma unroll
      for (int n = 0; n < TILE / 8; ++n)
#pragma unroll
        for (int e = 2 * r; e < 2 * r + 2; ++e) {
          const int key = j + 8 * n + 2 * t + e % 2;
          const bool seen = key < S && (!is_causal || key <= first + i);
          s[n][e] = seen ? scale * LOG2_E * s[n][e] : -CUDART_INF_F;
          highest = fmaxf(highest, s[n][e]);
        }
      highest = row_max(highest);
      const float before = exp2f(m[r] - highest);
#pragma unroll
      for (int n = 0; n < TILE / 8; ++n)
#pragma unroll
        for (int e = 2 * r; e < 2 * r + 2; ++e) {
          const int key = j + 8 * n + 2 * t + e % 2;
          const float p = exp2f(s[n][e] - highest);
          total += p;
          s[n][e] = dropped(mask, key < S && first + i < T, (row + i) * S + key) ? 0.0f : p;
        }
      m[r] = highest;
      z[r] = before * z[r] + row_sum(total);
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) sum[c][2 * r] *= before, sum[c][2 * r + 1] *= before;
    }
    add_weighted(sum, s, values);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r)
    if (t == 0 && first + g + 8 * r < T) lse[row + g + 8 * r] = m[r] / LOG2_E + logf(z[r]);
  store_rows(HEAD(y, b, h) + first * y_row, y_row, T - first, D, sum, factor / z[0], factor / z[1], queries + mine);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_backward_q(const scalar* dy, STRIDES(dy), const scalar* q, STRIDES(q), const scalar* k, STRIDES(k),
                     const scalar* v, STRIDES(v), const scalar* y, STRIDES(y), scalar* dq, STRIDES(dq),
                     const float* lse, float* delta, const bool* keep, unsigned long long seed, unsigned threshold,
                     float factor, float scale, int is_causal, int kv_heads, int T, int S, int D) {
  const Mask mask{keep, seed, threshold};
  alignas(16) __shared__ scalar queries[BLOCK][PITCH], dys[BLOCK][PITCH], keys[BACK_TILE][PITCH],
      values[BACK_TILE][PITCH];
  const int g = lane() / 4, t = lane() % 4, b = blockIdx.z, h = blockIdx.y, h_kv = h * kv_heads / gridDim.y;
  const int block = (gridDim.x - 1 - blockIdx.x) * BLOCK;
  const int mine = threadIdx.x / WARP * ROWS, first = block + mine;
  const long long row = static_cast<long long>(b * gridDim.y + h) * T + first;
  load_rows(queries, HEAD(q, b, h) + block * q_row, q_row, T - block, D);
  load_rows(dys, HEAD(dy, b, h) + block * dy_row, dy_row, T - block, D);
  __syncthreads();
  float norm[2], dot[2] = {}, sum[COLUMNS][4] = {};
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int i = g + 8 * r;
    const bool exists = first + i < T;
    norm[r] = exists ? LOG2_E * lse[row + i] : CUDART_INF_F;  // p = 2^{s - norm} = 0 where there is no query
    for (int d = t; exists && d < D; d += 4)
      dot[r] += to_float(dys[mine + i][d]) * to_float(HEAD(y, b, h)[(first + i) * y_row + d]);
    dot[r] = row_sum(dot[r]);
    if (t == 0 && exists) delta[row + i] = dot[r];
  }
  const int end = is_causal ? min(S, block + BLOCK) : S;
  for (int j = 0; j < end; j += BACK_TILE) {
    __syncthreads();
    load_rows(keys, HEAD(k, b, h_kv) + j * k_row, k_row, S - j, D);
    load_rows(values, HEAD(v, b, h_kv) + j * v_row, v_row, S - j, D);
    __syncthreads();
    if (is_causal && j >= first + ROWS) continue;
    float s[BACK_TILE / 8][4], dp[BACK_TILE / 8][4];
    scores(s, queries + mine, keys);
    scores(dp, dys + mine, values);
#pragma unroll
    for (int n = 0; n < BACK_TILE / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int i = g + e / 2 * 8, key = j + 8 * n + 2 * t + e % 2;
        const bool seen = key < S && (!is_causal || key <= first + i);
        const float p = seen ? exp2f(scale * LOG2_E * s[n][e] - norm[e / 2]) : 0.0f;
        const bool drop = dropped(mask, seen && first + i < T, (row + i) * S + key);
        s[n][e] = p * ((drop ? 0.0f : factor * dp[n][e]) - dot[e / 2]);
      }
    add_weighted(sum, s, keys);
  }
  store_rows(HEAD(dq, b, h) + first * dq_row, dq_row, T - first, D, sum, scale, scale, queries + mine);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_backward_kv(const scalar* dy, STRIDES(dy), const scalar* q, STRIDES(q), const scalar* k, STRIDES(k),
                      const scalar* v, STRIDES(v), scalar* dk, STRIDES(dk), scalar* dv, STRIDES(dv),
                      const float* lse, const float* delta, const bool* keep, unsigned long long seed,
                      unsigned threshold, float factor, float scale, int is_causal, int heads, int T, int S, int D) {
  const Mask mask{keep, seed, threshold};
  alignas(16) __shared__ scalar keys[BLOCK][PITCH], values[BLOCK][PITCH], queries[BACK_TILE][PITCH],
      dys[BACK_TILE][PITCH];
  __shared__ float norms[BACK_TILE], dots[BACK_TILE];
  const int g = lane() / 4, t = lane() % 4, b = blockIdx.z, h_kv = blockIdx.y, shared_by = heads / gridDim.y;
  const int block = blockIdx.x * BLOCK, mine = threadIdx.x / WARP * ROWS, first = block + mine;
  load_rows(keys, HEAD(k, b, h_kv) + block * k_row, k_row, S - block, D);
  load_rows(values, HEAD(v, b, h_kv) + block * v_row, v_row, S - block, D);
  float dk_sum[COLUMNS][4] = {}, dv_sum[COLUMNS][4] = {};
  for (int h = h_kv * shared_by; h < (h_kv + 1) * shared_by; ++h)
    for (int i = is_causal ? block : 0; i < T; i += BACK_TILE) {
      const long long row = static_cast<long long>(b * heads + h) * T + i;
      __syncthreads();
      load_rows(queries, HEAD(q, b, h) + i * q_row, q_row, T - i, D);
      load_rows(dys, HEAD(dy, b, h) + i * dy_row, dy_row, T - i, D);
      if (threadIdx.x < BACK_TILE) {
        const bool exists = i + threadIdx.x < T;
        norms[threadIdx.x] = exists ? LOG2_E * lse[row + threadIdx.x] : CUDART_INF_F;
        dots[threadIdx.x] = exists ? delta[row + threadIdx.x] : 0.0f;
      }
      __syncthreads();
      if (is_causal && i + BACK_TILE <= first) continue;
      float p[BACK_TILE / 8][4], dp[BACK_TILE / 8][4];
      scores(p, keys + mine, queries);
      scores(dp, values + mine, dys);
#pragma unroll
      for (int n = 0; n < BACK_TILE / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int key = first + g + e / 2 * 8, column = 8 * n + 2 * t + e % 2;
          const bool seen = key < S && i + column < T && (!is_causal || key <= i + column);
          const float whole = seen ? exp2f(scale * LOG2_E * p[n][e] - norms[column]) : 0.0f;
          const bool drop = dropped(mask, seen, (row + column) * S + key);
          p[n][e] = drop ? 0.0f : whole;
          dp[n][e] = whole * ((drop ? 0.0f : factor * dp[n][e]) - dots[column]);
        }
      add_weighted(dv_sum, p, dys);
      add_weighted(dk_sum, dp, queries);
    }
  store_rows(HEAD(dv, b, h_kv) + first * dv_row, dv_row, S - first, D, dv_sum, factor, factor, values + mine);
  store_rows(HEAD(dk, b, h_kv) + first * dk_row, dk_row, S - first, D, dk_sum, scale, scale, keys + mine);
}
