// Element-wise kernels with a bias: a block of 32 by 8 threads has a tile of columns and goes down the rows.
//
// A thread keeps the bias of its pack of columns in registers, and in the backward the sum of the columns' gradients, so
// that the gradient of the bias costs no pass of its own. Each block leaves a part of the sums for `column_sums.cu`.
#pragma once
#include "floats.cuh"

constexpr int TILE_ROWS = 8;

// each(place, c, left) for the packs of this thread in a matrix (rows, width): where they are, and their column.
template <class Each> __device__ __forceinline__ void for_tile(int rows, int width, Each each) {
  const int c = (blockIdx.x * WARP + threadIdx.x) * PACK;
  if (c < width)
    for (int row = blockIdx.y * TILE_ROWS + threadIdx.y; row < rows; row += gridDim.y * TILE_ROWS)
      each((size_t)row * width + c, c, width - c);
}

__device__ __forceinline__ Floats load_bias(const scalar* bias, int width) {
  const int c = (blockIdx.x * WARP + threadIdx.x) * PACK;
  return bias && c < width ? load(bias + c, width - c) : splat(0);
}

// The sums of the block's columns, from those of its threads, as part blockIdx.y of (gridDim.y, width).
__device__ __forceinline__ void store_part(float* parts, const Floats& sums, int width) {
  __shared__ Floats shared[TILE_ROWS][WARP];
  const int c = (blockIdx.x * WARP + threadIdx.x) * PACK;
  __syncthreads();  // those who read the last call's sums have done so
  shared[threadIdx.y][threadIdx.x] = sums;
  __syncthreads();
  if (threadIdx.y || c >= width) return;
  Floats sum = sums;
  for (int i = 1; i < TILE_ROWS; ++i) sum = sum + shared[i][threadIdx.x];
  store_sums(parts + (size_t)blockIdx.y * width + c, sum, width - c);
}
