// Layer normalization, version 3 of 5: a warp for each row, which adds up by shuffles.
//
// What changes: the 32 threads of a warp go through the code together and can hand each other their registers, so five
// exchanges (`warp_sum` in common.cuh) do what took a trip through shared memory and a barrier for each halving. Warps
// wait for nobody: while one waits for memory, others compute.
//
// What stays: three passes over the row, and the second look at all rows for dweight and dbias.
//
// Arrays of x's size that are read or written, against the least possible: forward 4 of 2, backward 7 of 3.
#include "common.cuh"

extern "C" __global__ void layernorm_forward(
    const scalar* x, const scalar* weight, const scalar* bias, scalar* y, float* mean, float* rstd,
    int rows, int width, float eps) {
  const int lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
  for (int row = blockIdx.x * warps + threadIdx.x / WARP; row < rows; row += gridDim.x * warps) {
    const size_t start = (size_t)row * width;
    float sum = 0, square = 0;
    for (int c = lane; c < width; c += WARP) sum += to_float(x[start + c]);
    const float m = warp_sum(sum) / width;
    for (int c = lane; c < width; c += WARP) {
      const float centered = to_float(x[start + c]) - m;
      square += centered * centered;
    }
    const float r = 1 / sqrtf(warp_sum(square) / width + eps);
    for (int c = lane; c < width; c += WARP) {
      const float w = weight ? to_float(weight[c]) : 1, b = bias ? to_float(bias[c]) : 0;
      y[start + c] = from_float<scalar>((to_float(x[start + c]) - m) * r * w + b);
    }
    if (lane == 0) {
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
  const int lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
  for (int row = blockIdx.x + gridDim.x * (threadIdx.x / WARP); row < rows; row += gridDim.x * warps) {
    const size_t start = (size_t)row * width;
    const float m = mean[row], r = rstd[row];
    float sum_g = 0, sum_g_xhat = 0;
    for (int c = lane; c < width; c += WARP) {
      const float g = to_float(dy[start + c]) * (weight ? to_float(weight[c]) : 1);
      sum_g += g;
      sum_g_xhat += g * (to_float(x[start + c]) - m) * r;
    }
    const float mean_g = warp_sum(sum_g) / width, mean_g_xhat = warp_sum(sum_g_xhat) / width;
    for (int c = lane; c < width; c += WARP) {
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
