// Products of few rows with a large matrix, y = x W^T + b: what decoding, one token at a time, is made of.
//
// A warp has a row of W, which it reads 16 bytes a lane and multiplies with every row of x; these stay in the caches.
//
// Bytes: W, x and the bias read once from memory and y written once, which is the least possible.
#include "floats.cuh"

constexpr int WARPS = 8;  // of a block (32, WARPS)

// x (rows, size), of which rows <= MOST; weight (columns, size); y (rows, columns)
template <int MOST>
__device__ __forceinline__ void multiply(
    const scalar* x, const scalar* weight, const scalar* bias, scalar* y, int rows, int columns, int size) {
  const int o = blockIdx.x * WARPS + threadIdx.y;
  if (o >= columns) return;
  float sums[MOST] = {};
  for (int k = threadIdx.x * PACK; k < size; k += WARP * PACK) {
    const Floats w = load(weight + (size_t)o * size + k, size - k);
#pragma unroll
    for (int row = 0; row < MOST; ++row)
      if (row < rows) sums[row] += total(load(x + (size_t)row * size + k, size - k) * w);
  }
#pragma unroll
  for (int row = 0; row < MOST; ++row) {
    const float sum = warp_sum(sums[row]) + (bias ? to_float(bias[o]) : 0);
    if (threadIdx.x == row && row < rows) y[(size_t)row * columns + o] = from_float<scalar>(sum);
  }
}

extern "C" __global__ void __launch_bounds__(WARP* WARPS) matvec_1(
    const scalar* x, const scalar* weight, const scalar* bias, scalar* y, int rows, int columns, int size) {
  multiply<1>(x, weight, bias, y, rows, columns, size);
}

extern "C" __global__ void __launch_bounds__(WARP* WARPS) matvec_2(
    const scalar* x, const scalar* weight, const scalar* bias, scalar* y, int rows, int columns, int size) {
  multiply<2>(x, weight, bias, y, rows, columns, size);
}

extern "C" __global__ void __launch_bounds__(WARP* WARPS) matvec_4(
    const scalar* x, const scalar* weight, const scalar* bias, scalar* y, int rows, int columns, int size) {
  multiply<4>(x, weight, bias, y, rows, columns, size);
}

extern "C" __global__ void __launch_bounds__(WARP* WARPS) matvec_8(
    const scalar* x, const scalar* weight, const scalar* bias, scalar* y, int rows, int columns, int size) {
  multiply<8>(x, weight, bias, y, rows, columns, size);
}
