// Layer normalization, version 4 of 5: 16 bytes a load, and the row in registers.
//
// What changes: a thread loads 16 bytes at a time (`Floats`: 4 numbers in float32, 8 in the 16-bit types), the most that
// there is, so that a warp's load is 512 bytes long and there are fewer to wait for. And it keeps what it has loaded:
// up to 32 numbers a thread, 1024 of a row, stay in registers for the passes that follow. Longer rows read the rest
// again. Registers have no index, so the loops over them must be unrolled, which `for_packs` does.
//
// What stays: the second look at all rows for dweight and dbias.
//
// Arrays of x's size that are read or written, against the least possible: forward 2 of 2, backward 5 of 3.
#include "floats.cuh"

constexpr int HELD = 32 / PACK;  // packs of a row that a thread keeps; blocks of 512 threads leave it 128 registers

// each(k, c, left) for this lane's packs, which begin at column c and have `left` columns up to the end of the row. The
// k-th is kept if k < HELD, which the compiler knows when it writes the code for it.
template <class Each> __device__ __forceinline__ void for_packs(int width, Each each) {
  const int lane = threadIdx.x % WARP;
#pragma unroll
  for (int k = 0; k < HELD; ++k) {
    const int c = (k * WARP + lane) * PACK;
    if (c < width) each(k, c, width - c);
  }
  for (int c = (HELD * WARP + lane) * PACK; c < width; c += WARP * PACK) each(HELD, c, width - c);
}

extern "C" __global__ void __launch_bounds__(512) layernorm_forward(
    const scalar* x, const scalar* weight, const scalar* bias, scalar* y, float* mean, float* rstd,
    int rows, int width, float eps) {
  const int warps = blockDim.x / WARP;
  for (int row = blockIdx.x * warps + threadIdx.x / WARP; row < rows; row += gridDim.x * warps) {
    const size_t start = (size_t)row * width;
    Floats held[HELD];
    float sum = 0, square = 0;
    for_packs(width, [&](int k, int c, int left) {
      const Floats v = load(x + start + c, left);
      sum += total(v);
      if (k < HELD) held[k] = v;
    });
    const float m = warp_sum(sum) / width;
    for_packs(width, [&](int k, int c, int left) {
      const Floats centered = (k < HELD ? held[k] : load(x + start + c, left)) - m;
      square += total(centered * centered, left);
    });
    const float r = 1 / sqrtf(warp_sum(square) / width + eps);
    for_packs(width, [&](int k, int c, int left) {
      Floats v = ((k < HELD ? held[k] : load(x + start + c, left)) - m) * r;
      if (weight) v = v * load(weight + c, left);
      if (bias) v = v + load(bias + c, left);
      store(y + start + c, v, left);
    });
    if (threadIdx.x % WARP == 0) {
      mean[row] = m;
      rstd[row] = r;
    }
  }
}

// arrived: the gradient of x from elsewhere, if any, which dx is added to.
// parts (2, gridDim.x, width): of dweight, then of dbias, what each block's rows add to them.
extern "C" __global__ void __launch_bounds__(512) layernorm_backward(
    const scalar* dy, const scalar* x, const scalar* weight, const float* mean, const float* rstd,
    const scalar* arrived, scalar* dx, float* parts, int rows, int width) {
  const int warps = blockDim.x / WARP;
  for (int row = blockIdx.x + gridDim.x * (threadIdx.x / WARP); row < rows; row += gridDim.x * warps) {
    const size_t start = (size_t)row * width;
    const float m = mean[row], r = rstd[row];
    auto g_at = [&](int c, int left) {
      const Floats d = load(dy + start + c, left);
      return weight ? d * load(weight + c, left) : d;
    };
    auto xhat_at = [&](int c, int left) { return (load(x + start + c, left) - m) * r; };
    Floats held_g[HELD], held_xhat[HELD];
    float sum_g = 0, sum_g_xhat = 0;
    for_packs(width, [&](int k, int c, int left) {
      const Floats g = g_at(c, left), xhat = xhat_at(c, left);
      sum_g += total(g);
      sum_g_xhat += total(g * xhat);
      if (k < HELD) {
        held_g[k] = g;
        held_xhat[k] = xhat;
      }
    });
    const float mean_g = warp_sum(sum_g) / width, mean_g_xhat = warp_sum(sum_g_xhat) / width;
    for_packs(width, [&](int k, int c, int left) {
      const Floats g = k < HELD ? held_g[k] : g_at(c, left), xhat = k < HELD ? held_xhat[k] : xhat_at(c, left);
      const Floats v = (g - mean_g - xhat * mean_g_xhat) * r;
      store(dx + start + c, arrived ? v + load(arrived + start + c, left) : v, left);
    });
  }
  for (int c = threadIdx.x * PACK; c < width; c += blockDim.x * PACK) {
    Floats dweight = splat(0), dbias = splat(0);
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
      const size_t place = (size_t)row * width + c;
      const Floats d = load(dy + place, width - c);
      dweight = dweight + d * (load(x + place, width - c) - mean[row]) * rstd[row];
      dbias = dbias + d;
    }
    store_sums(parts + (size_t)blockIdx.x * width + c, dweight, width - c);
    store_sums(parts + (size_t)(gridDim.x + blockIdx.x) * width + c, dbias, width - c);
  }
}
