// Layer normalization: norm.cuh has its rows, versions/layernorm_1.cu … layernorm_5.cu lead to it.
//
// Arrays of x's size that are read or written, which is the least possible: forward 2, with a residual 4, backward 3,
// with a gradient that has arrived 4. A part of dweight and dbias has 32 rows or more where x has 4096 or more, and is
// written and read in float: that adds 1/12 in the 16-bit types and 1/24 in float32.
#include "norm.cuh"

extern "C" __global__ void __launch_bounds__(MAX_THREADS) layernorm_forward(
    const scalar* x, const scalar* weight, const scalar* bias, scalar* y, float* mean, float* rstd,
    int rows, int width, float eps) {
  norm_rows<true>(x, nullptr, weight, bias, nullptr, y, mean, rstd, rows, width, eps);
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS) add_layernorm_forward(
    const scalar* x, const scalar* residual, const scalar* weight, const scalar* bias, scalar* z, scalar* y,
    float* mean, float* rstd, int rows, int width, float eps) {
  norm_rows<true>(x, residual, weight, bias, z, y, mean, rstd, rows, width, eps);
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS) layernorm_backward(
    const scalar* dy, const scalar* x, const scalar* weight, const float* mean, const float* rstd,
    const scalar* arrived, scalar* dx, float* parts, int rows, int width) {
  float* dweight = parts + (size_t)blockIdx.x * width;
  float* dbias = dweight + (size_t)gridDim.x * width;
  norm_rows_backward<true>(dy, x, weight, mean, rstd, arrived, dx, dweight, dbias, rows, width);
}
