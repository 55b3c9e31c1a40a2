// The rows of layernorm and rmsnorm; their pages in tinygrad_llm/ops have the definitions and the derivations.
//
// A block has a row at a time, and a thread a pack of its columns, then one blockDim.x packs on, and so forth. The first
// few it keeps in registers, so that memory gives the row once; what a row has beyond those is read again for each
// pass, most likely from the cache.
//
// In the backward a thread has the same columns of all of the block's rows, and sums up their dweight and dbias on its
// way: dy and x are read once for all three gradients. A block's sums are one part of the whole, and `column_sums.cu`
// adds up the parts, in the same order each time: no atomics, the same bits.
#pragma once
#include "floats.cuh"

constexpr int HELD = 16 / PACK;   // packs of a row that a thread keeps in registers
constexpr int MAX_THREADS = 512;  // in a block, so that a thread may have 128 registers

// each(k, c, left) for the packs of this thread, which begin at column c and have `left` columns up to the row's end.
// The k-th is kept if k < HELD, which the compiler knows when it writes the code for it.
template <class Each> __device__ __forceinline__ void for_packs(int width, Each each) {
#pragma unroll
  for (int k = 0; k < HELD; ++k) {
    const int c = (k * blockDim.x + threadIdx.x) * PACK;
    if (c < width) each(k, c, width - c);
  }
  for (int c = (HELD * blockDim.x + threadIdx.x) * PACK; c < width; c += blockDim.x * PACK) each(HELD, c, width - c);
}

// y = norm(x), or with a residual y = norm(z), z = x + residual, which is stored as well. A mean if CENTERED.
template <bool CENTERED>
__device__ __forceinline__ void norm_rows(
    const scalar* x, const scalar* residual, const scalar* weight, const scalar* bias,
    scalar* z, scalar* y, float* mean, float* rstd, int rows, int width, float eps) {
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    const size_t start = (size_t)row * width;
    const scalar* normed = (residual ? z : x) + start;
    Floats held[HELD];
    float sum = 0, square = 0;
    for_packs(width, [&](int k, int c, int left) {
      Floats v = load(x + start + c, left);
      if (residual) {
        v = rounded(v + load(residual + start + c, left));
        store(z + start + c, v, left);
      }
      sum += total(v);
      if (k < HELD) held[k] = v;
    });
    const float m = CENTERED ? block_sum(sum) / width : 0;
    for_packs(width, [&](int k, int c, int left) {
      const Floats centered = (k < HELD ? held[k] : load(normed + c, left)) - m;
      square += total(centered * centered, left);
    });
    const float r = 1 / sqrtf(block_sum(square) / width + eps);
    for_packs(width, [&](int k, int c, int left) {
      Floats v = ((k < HELD ? held[k] : load(normed + c, left)) - m) * r;
      if (weight) v = v * load(weight + c, left);
      if (bias) v = v + load(bias + c, left);
      store(y + start + c, v, left);
    });
    if (threadIdx.x == 0) {
      if (CENTERED) mean[row] = m;
      rstd[row] = r;
    }
  }
}

// dx, plus the gradient of x that has arrived from elsewhere, if any; of dweight and dbias this block's part.
template <bool CENTERED>
__device__ __forceinline__ void norm_rows_backward(
    const scalar* dy, const scalar* x, const scalar* weight, const float* mean, const float* rstd,
    const scalar* arrived, scalar* dx, float* dweight, float* dbias, int rows, int width) {
  Floats dweights[HELD] = {}, dbiases[HELD] = {};
  for_packs(width, [&](int k, int c, int left) {
    if (k == HELD) store_sums(dweight + c, splat(0), left);
    if (k == HELD && CENTERED) store_sums(dbias + c, splat(0), left);
  });
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    const size_t start = (size_t)row * width;
    const float m = CENTERED ? mean[row] : 0, r = rstd[row];
    Floats held_g[HELD], held_xhat[HELD];
    float sum_g = 0, sum_g_xhat = 0;
    for_packs(width, [&](int k, int c, int left) {
      const Floats d = load(dy + start + c, left), xhat = (load(x + start + c, left) - m) * r;
      const Floats g = weight ? d * load(weight + c, left) : d;
      sum_g += total(g);
      sum_g_xhat += total(g * xhat);
      if (k < HELD) {
        held_g[k] = g;
        held_xhat[k] = xhat;
        dweights[k] = dweights[k] + d * xhat;
        dbiases[k] = dbiases[k] + d;
      } else {
        store_sums(dweight + c, d * xhat + load_sums(dweight + c, left), left);
        if (CENTERED) store_sums(dbias + c, d + load_sums(dbias + c, left), left);
      }
    });
    const float mean_g = CENTERED ? block_sum(sum_g) / width : 0, mean_g_xhat = block_sum(sum_g_xhat) / width;
    for_packs(width, [&](int k, int c, int left) {
      Floats g, xhat;
      if (k < HELD) {
        g = held_g[k];
        xhat = held_xhat[k];
      } else {
        g = weight ? load(dy + start + c, left) * load(weight + c, left) : load(dy + start + c, left);
        xhat = (load(x + start + c, left) - m) * r;
      }
      const Floats v = (g - mean_g - xhat * mean_g_xhat) * r;
      store(dx + start + c, arrived ? v + load(arrived + start + c, left) : v, left);
    });
  }
#pragma unroll
  for (int k = 0; k < HELD; ++k) {
    const int c = (k * blockDim.x + threadIdx.x) * PACK;
    store_sums(dweight + c, dweights[k], width - c);
    if (CENTERED) store_sums(dbias + c, dbiases[k], width - c);
  }
}
