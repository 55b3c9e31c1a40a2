// Layer normalization, version 2 of 5: a block for each row, which adds up in shared memory.
//
// What changes: neighboring threads have neighboring columns, so that a warp's load is one piece of memory, all of which
// it needs; and a row has blockDim.x threads, a power of two, instead of one. The price is that they must add up what
// each has found: half of the threads add the other half's numbers, then a quarter, until one is left.
//
// What stays: a row is read once for each of its passes. A block's row is short enough to be found in the cache the
// second time, so the memory behind may have to give it only once; the cache is asked for it three times.
//
// Arrays of x's size that are read or written, against the least possible: forward 4 of 2, backward 7 of 3.
#include "common.cuh"

// The sum of all threads' v, for all of them.
static __device__ float block_total(float v) {
  __shared__ float sums[1024];
  sums[threadIdx.x] = v;
  __syncthreads();
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  const float total = sums[0];
  __syncthreads();  // all have read it before the next sum is written there
  return total;
}

extern "C" __global__ void layernorm_forward(
    const scalar* x, const scalar* weight, const scalar* bias, scalar* y, float* mean, float* rstd,
    int rows, int width, float eps) {
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    const size_t start = (size_t)row * width;
    float sum = 0, square = 0;
    for (int c = threadIdx.x; c < width; c += blockDim.x) sum += to_float(x[start + c]);
    const float m = block_total(sum) / width;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
      const float centered = to_float(x[start + c]) - m;
      square += centered * centered;
    }
    const float r = 1 / sqrtf(block_total(square) / width + eps);
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
      const float w = weight ? to_float(weight[c]) : 1, b = bias ? to_float(bias[c]) : 0;
      y[start + c] = from_float<scalar>((to_float(x[start + c]) - m) * r * w + b);
    }
    if (threadIdx.x == 0) {
      mean[row] = m;
      rstd[row] = r;
    }
  }
}

// arrived: the gradient of x from elsewhere, if any, which dx is added to.
// parts (2, gridDim.x, width): of dweight, then of dbias, what each block's rows add to them.
extern "C" __global__ void layernorm_backward(
    const scalar* dy, const scalar* x, const scalar* weight, const float* mean, const float* rstd,
    const scalar* arrived, scalar* dx, float* parts, int rows, int width) {
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    const size_t start = (size_t)row * width;
    const float m = mean[row], r = rstd[row];
    float sum_g = 0, sum_g_xhat = 0;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
      const float g = to_float(dy[start + c]) * (weight ? to_float(weight[c]) : 1);
      sum_g += g;
      sum_g_xhat += g * (to_float(x[start + c]) - m) * r;
    }
    const float mean_g = block_total(sum_g) / width, mean_g_xhat = block_total(sum_g_xhat) / width;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
      const float g = to_float(dy[start + c]) * (weight ? to_float(weight[c]) : 1);
      const float xhat = (to_float(x[start + c]) - m) * r, before = arrived ? to_float(arrived[start + c]) : 0;
      dx[start + c] = from_float<scalar>(r * (g - mean_g - xhat * mean_g_xhat) + before);
    }
  }
  for (int c = threadIdx.x; c < width; c += blockDim.x) {
    float dweight = 0, dbias = 0;
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
      const float d = to_float(dy[(size_t)row * width + c]);
      dweight += d * (to_float(x[(size_t)row * width + c]) - mean[row]) * rstd[row];
      dbias += d;
    }
    parts[(size_t)blockIdx.x * width + c] = dweight;
    parts[(size_t)(gridDim.x + blockIdx.x) * width + c] = dbias;
  }
}
