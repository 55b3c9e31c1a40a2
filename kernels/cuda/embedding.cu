// Embedding: a row of the table for each token; tinygrad_llm/ops/embedding.py has the definition.
//
// Backward, two tokens of the same id must not add to its row at once. So tokens are first put in order of their ids:
// counted, placed each in its id's part of a list, and then, since which comes first there is chance, in order within
// it. Only whole numbers are added by atomics, whose sum is the same in any order. Then a warp owns a row of the table,
// or a slice of its columns, and adds up the gradients of that row's tokens, the first token first: the same bits each
// time.
//
// Bytes: forward, for each token a row read and a row written. Backward, each token's row read once and the table's
// gradient written once, which is the least possible: with `add`, only rows that have tokens are read and written. The
// lists take about 60 bytes a token beside its row (more for an id of very many tokens, from the caches), and 20 bytes
// beside each row of the table: at C = 768 less than 1.02 times the least in float, and 1.04 in the 16-bit types.
#include <math_constants.h>

#include "floats.cuh"

constexpr int WARPS = 8;  // of a block

// Block (32, WARPS): a warp copies a row. An id that no row has gives NaN, as there is nobody to raise an error to.
extern "C" __global__ void __launch_bounds__(WARP* WARPS) embedding_forward(
    const scalar* weight, const long long* ids, scalar* y, long long tokens, int rows, int width) {
  const long long t = (long long)blockIdx.x * WARPS + threadIdx.y;
  if (t >= tokens) return;
  const long long id = ids[t];
  const bool known = 0 <= id && id < rows;
  for (int c = threadIdx.x * PACK; c < width; c += WARP * PACK) {
    const Floats row = known ? load(weight + id * width + c, width - c) : splat(CUDART_NAN_F);
    store(y + t * width + c, row, width - c);
  }
}

// Whether a token's gradient counts: that of the padding does not.
__device__ __forceinline__ bool counts_for(long long id, int rows, int padding) {
  return 0 <= id && id < rows && id != padding;
}

// A thread a token, here and in the next two: how many tokens each id has.
extern "C" __global__ void count_tokens(const long long* ids, int* counts, int tokens, int rows, int padding) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t < tokens && counts_for(ids[t], rows, padding)) atomicAdd(counts + ids[t], 1);
}

// `starts` has for each id the end of its part of the list, and when all tokens are placed its start.
extern "C" __global__ void place_tokens(
    const long long* ids, int* starts, int* places, int tokens, int rows, int padding) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t < tokens && counts_for(ids[t], rows, padding)) places[atomicSub(starts + ids[t], 1) - 1] = t;
}

// Each part of the list in order: a token stands behind those of its id that are before it.
extern "C" __global__ void order_tokens(
    const long long* ids, const int* starts, const int* counts, const int* places, int* ordered,
    int tokens, int rows, int padding) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t >= tokens || !counts_for(ids[t], rows, padding)) return;
  const int start = starts[ids[t]], count = counts[ids[t]];
  int before = 0;
  for (int i = 0; i < count; ++i) before += places[start + i] < t;
  ordered[start + before] = t;
}

// Block (32, WARPS): a warp has a row of the table and, by blockIdx.y, 32 packs of its columns.
extern "C" __global__ void __launch_bounds__(WARP* WARPS) embedding_backward(
    const scalar* dy, const int* starts, const int* counts, const int* ordered, scalar* dweight,
    int rows, int width, int add) {
  const int row = blockIdx.x * WARPS + threadIdx.y, c = (blockIdx.y * WARP + threadIdx.x) * PACK;
  if (row >= rows || c >= width) return;
  const int count = counts[row];
  if (add && !count) return;
  const int* tokens = ordered + starts[row];
  scalar* place = dweight + (size_t)row * width + c;
  Floats sum = add ? load(place, width - c) : splat(0);
#pragma unroll 4
  for (int i = 0; i < count; ++i) sum = sum + load(dy + (size_t)tokens[i] * width + c, width - c);
  store(place, sum, width - c);
}
