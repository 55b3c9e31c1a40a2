// GELU, also of h + bias, the end of a linear layer; tinygrad_llm/ops/gelu.py has the definition and the derivation.
//
// tanh: (1 + tanh u) / 2 = 1 / (1 + e^{-2u}), which keeps its digits where it is small.
//
// Arrays of x's size that are read or written, which is the least possible: forward 2, backward 3; with the bias and
// the activations once more, for the gradient of the next layer's weights, 4. A part of dbias has 32 rows or more where
// h has 4096 or more, and is written and read in float: that adds 1/32 at most.
#include "columns.cuh"

constexpr float CUBIC = 0.044715f, ROOT = 0.7978845608f;         // sqrt(2 / pi)
constexpr float ROOT_HALF = 0.7071067812f, DENSITY = 0.3989422804f;  // 1 / sqrt 2, 1 / sqrt(2 pi)

__device__ __forceinline__ float normal_cdf(float x, bool tanh) {
  return tanh ? 1 / (1 + expf(-2 * ROOT * (x + CUBIC * x * x * x))) : 0.5f * erfcf(-ROOT_HALF * x);
}

// The derivative of x cdf(x): tanh's cdf has the slope cdf (1 - cdf) 2 du/dx; 1 - cdf(x) = cdf(-x) keeps its digits.
__device__ __forceinline__ float gelu_slope(float x, float cdf, bool tanh) {
  if (tanh) return cdf + x * cdf * normal_cdf(-x, tanh) * 2 * ROOT * (1 + 3 * CUBIC * x * x);
  return cdf + x * DENSITY * expf(-0.5f * x * x);
}

__device__ __forceinline__ Floats gelu(const Floats& x, bool tanh) {
  return map(x, [=](float v) { return v * normal_cdf(v, tanh); });
}

extern "C" __global__ void gelu_forward(const scalar* x, scalar* y, long long n, int tanh) {
  for_elements(n, [&](long long i, int left) { store(y + i, gelu(load(x + i, left), tanh), left); });
}

extern "C" __global__ void gelu_backward(const scalar* dy, const scalar* x, scalar* dx, long long n, int tanh) {
  for_elements(n, [&](long long i, int left) {
    const Floats slope = map(load(x + i, left), [=](float v) { return gelu_slope(v, normal_cdf(v, tanh), tanh); });
    store(dx + i, load(dy + i, left) * slope, left);
  });
}

// a = gelu(h + bias)
extern "C" __global__ void bias_gelu_forward(
    const scalar* h, const scalar* bias, scalar* a, int rows, int width, int tanh) {
  const Floats b = load_bias(bias, width);
  for_tile(rows, width, [&](size_t i, int c, int left) { store(a + i, gelu(load(h + i, left) + b, tanh), left); });
}

// dh, of dbias the block's part, and a once more; a and parts may be NULL.
extern "C" __global__ void bias_gelu_backward(
    const scalar* da, const scalar* h, const scalar* bias, scalar* dh, scalar* a, float* parts,
    int rows, int width, int tanh) {
  const Floats b = load_bias(bias, width);
  Floats dbias = splat(0);
  for_tile(rows, width, [&](size_t i, int c, int left) {
    const Floats x = load(h + i, left) + b;
    const Floats cdf = map(x, [=](float v) { return normal_cdf(v, tanh); });
    const Floats slope = map(x, cdf, [=](float v, float p) { return gelu_slope(v, p, tanh); });
    const Floats d = load(da + i, left) * slope;
    dbias = dbias + d;
    store(dh + i, d, left);
    if (a) store(a + i, x * cdf, left);
  });
  if (parts) store_part(parts, dbias, width);
}
