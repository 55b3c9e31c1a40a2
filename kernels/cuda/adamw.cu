// AdamW over a flat buffer, in one pass: `tinygrad_llm/optim/adamw.py` has the definition (Loshchilov & Hutter 2019).
//
// Each of param, m and v is read and written once, and grad read once: the least there is. Parameters and gradients may
// be halves; m and v are float, since the steps of a running mean are too small for halves to show. The clip factor
// comes from where `grad_norm.cu` has left it in the device's memory, so that the host does not wait for it.
#include "common.cuh"

constexpr int FLOATS = PackOf<float>::size;

extern "C" __global__ void adamw_step(scalar* param, const scalar* grad, float* m, float* v, const float* scale,
                                      float share1, float share2, float keep, float rate, float correction, float eps,
                                      long long n) {
  const float clip = scale ? *scale : 1.0f;
  const long long i = (blockIdx.x * (long long)blockDim.x + threadIdx.x) * Pack::size;
  if (i >= n) return;
  const int left = n - i < Pack::size ? n - i : Pack::size;
  Pack p = load_pack(param + i, left);
  const Pack g = load_pack(grad + i, left);
#pragma unroll
  for (int part = 0; part < Pack::size; part += FLOATS) {
    PackOf<float> mean = load_pack(m + i + part, left - part), square = load_pack(v + i + part, left - part);
#pragma unroll
    for (int j = 0; j < FLOATS; ++j) {
      const float gradient = to_float(g[part + j]) * clip;
      mean[j] += share1 * (gradient - mean[j]);
      square[j] += share2 * (gradient * gradient - square[j]);
      const float step = rate * mean[j] / (sqrtf(square[j]) * correction + eps);
      p[part + j] = from_float<scalar>(to_float(p[part + j]) * keep - step);
    }
    store_pack(m + i + part, mean, left - part);
    store_pack(v + i + part, square, left - part);
  }
  store_pack(param + i, p, left);
}
