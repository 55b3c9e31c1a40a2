// Layer normalization, version 5 of 5: all in one pass, the residual's sum too.
//
// What changes: `add_layernorm_forward` adds the residual on its way, where an addition of its own would write z and the
// norm read it again: 4 arrays instead of 5. And the backward looks at dy and x once. A lane has the same columns of
// all the rows that its warp goes through, so their dweight and dbias grow in registers; at the end the warps of a
// block add up theirs, one after the other, so that the order is the same each time.
//
// What stays: the registers of a warp hold 512 columns of the rows and of these sums; longer rows have the rest of
// their columns looked at twice. `layernorm.cu`, the kernel that is used, has as many warps on a row as it is long.
//
// Arrays of x's size that are read or written, against the least possible: forward 2 of 2, with the residual 4 of 4,
// backward 3 of 3, with a gradient that has arrived 4 of 4; and 5 of 3 for the columns beyond 512.
#include "floats.cuh"

constexpr int HELD = 16 / PACK;  // packs of a row that a thread keeps; blocks of 512 threads leave it 128 registers

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

// y = norm(x), or with a residual y = norm(z), z = x + residual, which is stored as well.
__device__ __forceinline__ void norm_rows(
    const scalar* x, const scalar* residual, const scalar* weight, const scalar* bias,
    scalar* z, scalar* y, float* mean, float* rstd, int rows, int width, float eps) {
  const int warps = blockDim.x / WARP;
  for (int row = blockIdx.x * warps + threadIdx.x / WARP; row < rows; row += gridDim.x * warps) {
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
    const float m = warp_sum(sum) / width;
    for_packs(width, [&](int k, int c, int left) {
      const Floats centered = (k < HELD ? held[k] : load(normed + c, left)) - m;
      square += total(centered * centered, left);
    });
    const float r = 1 / sqrtf(warp_sum(square) / width + eps);
    for_packs(width, [&](int k, int c, int left) {
      Floats v = ((k < HELD ? held[k] : load(normed + c, left)) - m) * r;
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

extern "C" __global__ void __launch_bounds__(512) layernorm_forward(
    const scalar* x, const scalar* weight, const scalar* bias, scalar* y, float* mean, float* rstd,
    int rows, int width, float eps) {
  norm_rows(x, nullptr, weight, bias, nullptr, y, mean, rstd, rows, width, eps);
}

extern "C" __global__ void __launch_bounds__(512) add_layernorm_forward(
    const scalar* x, const scalar* residual, const scalar* weight, const scalar* bias, scalar* z, scalar* y,
    float* mean, float* rstd, int rows, int width, float eps) {
  norm_rows(x, residual, weight, bias, z, y, mean, rstd, rows, width, eps);
}

// arrived: the gradient of x from elsewhere, if any, which dx is added to.
// parts (2, gridDim.x, width): of dweight, then of dbias, what each block's rows add to them.
extern "C" __global__ void __launch_bounds__(512) layernorm_backward(
    const scalar* dy, const scalar* x, const scalar* weight, const float* mean, const float* rstd,
    const scalar* arrived, scalar* dx, float* parts, int rows, int width) {
  const int warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  Floats dweights[HELD] = {}, dbiases[HELD] = {};
  for (int row = blockIdx.x + gridDim.x * warp; row < rows; row += gridDim.x * warps) {
    const size_t start = (size_t)row * width;
    const float m = mean[row], r = rstd[row];
    Floats held_d[HELD], held_xhat[HELD];
    float sum_g = 0, sum_g_xhat = 0;
    for_packs(width, [&](int k, int c, int left) {
      const Floats d = load(dy + start + c, left), xhat = (load(x + start + c, left) - m) * r;
      const Floats g = weight ? d * load(weight + c, left) : d;
      sum_g += total(g);
      sum_g_xhat += total(g * xhat);
      if (k < HELD) {
        held_d[k] = d;
        held_xhat[k] = xhat;
        dweights[k] = dweights[k] + d * xhat;
        dbiases[k] = dbiases[k] + d;
      }
    });
    const float mean_g = warp_sum(sum_g) / width, mean_g_xhat = warp_sum(sum_g_xhat) / width;
    for_packs(width, [&](int k, int c, int left) {
      const Floats d = k < HELD ? held_d[k] : load(dy + start + c, left);
      const Floats xhat = k < HELD ? held_xhat[k] : (load(x + start + c, left) - m) * r;
      const Floats v = ((weight ? d * load(weight + c, left) : d) - mean_g - xhat * mean_g_xhat) * r;
      store(dx + start + c, arrived ? v + load(arrived + start + c, left) : v, left);
    });
  }
  float* dweight = parts + (size_t)blockIdx.x * width;
  float* dbias = dweight + (size_t)gridDim.x * width;
  for (int turn = 0; turn < warps; ++turn) {
    if (warp == turn) {
      for_packs(width, [&](int k, int c, int left) {
        if (k == HELD) return;
        store_sums(dweight + c, turn ? dweights[k] + load_sums(dweight + c, left) : dweights[k], left);
        store_sums(dbias + c, turn ? dbiases[k] + load_sums(dbias + c, left) : dbiases[k], left);
      });
    }
    __syncthreads();
  }
  for (int c = (HELD * WARP + threadIdx.x) * PACK; c < width; c += blockDim.x * PACK) {
    Floats weights = splat(0), biases = splat(0);
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
      const size_t place = (size_t)row * width + c;
      const Floats d = load(dy + place, width - c);
      weights = weights + d * (load(x + place, width - c) - mean[row]) * rstd[row];
      biases = biases + d;
    }
    store_sums(dweight + c, weights, width - c);
    store_sums(dbias + c, biases, width - c);
  }
}
