// Root-mean-square normalization: norm.cuh has its rows, which are layernorm's without the mean and the bias.
//
// Arrays of x's size that are read or written, which is the least possible: forward 2, with a residual 4, backward 3,
// with a gradient that has arrived 4. The parts of dweight add half of what layernorm's do.
#include "norm.cuh"

extern "C" __global__ void __launch_bounds__(MAX_THREADS) rmsnorm_forward(
    const scalar* x, const scalar* weight, scalar* y, float* rstd, int rows, int width, float eps) {
  norm_rows<false>(x, nullptr, weight, nullptr, nullptr, y, nullptr, rstd, rows, width, eps);
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS) add_rmsnorm_forward(
    const scalar* x, const scalar* residual, const scalar* weight, scalar* z, scalar* y, float* rstd,
    int rows, int width, float eps) {
  norm_rows<false>(x, residual, weight, nullptr, z, y, nullptr, rstd, rows, width, eps);
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS) rmsnorm_backward(
    const scalar* dy, const scalar* x, const scalar* weight, const float* rstd,
    const scalar* arrived, scalar* dx, float* parts, int rows, int width) {
  float* dweight = parts + (size_t)blockIdx.x * width;
  norm_rows_backward<false>(dy, x, weight, nullptr, rstd, arrived, dx, dweight, nullptr, rows, width);
}
