// Layer normalization, version 1 of 5: the page's loops, a thread for each row.
//
// tinygrad_llm/ops/layernorm.py has the definition and the derivation. A thread goes along its row three times: mean,
// variance, result. The threads of a warp then stand in 32 rows at once, so that each of their loads touches 32 places
// of memory, of which it needs a number each and gets 32 bytes.
//
// dweight and dbias are sums over rows: a block sums up its own rows, a thread a column, which is one part of the sums;
// `column_sums.cu` adds up the parts, always in the same order.
//
// Arrays of x's size that are read or written, against the least possible: forward 4 of 2, backward 7 of 3.
#include "common.cuh"

extern "C" __global__ void layernorm_forward(
    const scalar* x, const scalar* weight, const scalar* bias, scalar* y, float* mean, float* rstd,
    int rows, int width, float eps) {
  for (int row = blockIdx.x * blockDim.x + threadIdx.x; row < rows; row += gridDim.x * blockDim.x) {
    const size_t start = (size_t)row * width;
    float sum = 0, square = 0;
    for (int c = 0; c < width; c++) sum += to_float(x[start + c]);
    const float m = sum / width;
    for (int c = 0; c < width; c++) {
      const float centered = to_float(x[start + c]) - m;
      square += centered * centered;
    }
    const float r = 1 / sqrtf(square / width + eps);
    for (int c = 0; c < width; c++) {
      const float w = weight ? to_float(weight[c]) : 1, b = bias ? to_float(bias[c]) : 0;
      y[start + c] = from_float<scalar>((to_float(x[start + c]) - m) * r * w + b);
    }
    mean[row] = m;
    rstd[row] = r;
  }
}

// arrived: the gradient of x from elsewhere, if any, which dx is added to.
// parts (2, gridDim.x, width): of dweight, then of dbias, what each block's rows add to them.
extern "C" __global__ void layernorm_backward(
    const scalar* dy, const scalar* x, const scalar* weight, const float* mean, const float* rstd,
    const scalar* arrived, scalar* dx, float* parts, int rows, int width) {
  for (int row = blockIdx.x + gridDim.x * threadIdx.x; row < rows; row += gridDim.x * blockDim.x) {
    const size_t start = (size_t)row * width;
    const float m = mean[row], r = rstd[row];
    float sum_g = 0, sum_g_xhat = 0;
    for (int c = 0; c < width; c++) {
      const float g = to_float(dy[start + c]) * (weight ? to_float(weight[c]) : 1);
      sum_g += g;
      sum_g_xhat += g * (to_float(x[start + c]) - m) * r;
    }
    for (int c = 0; c < width; c++) {
      const float g = to_float(dy[start + c]) * (weight ? to_float(weight[c]) : 1);
      const float xhat = (to_float(x[start + c]) - m) * r, before = arrived ? to_float(arrived[start + c]) : 0;
      dx[start + c] = from_float<scalar>(r * (g - sum_g / width - xhat * (sum_g_xhat / width)) + before);
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
