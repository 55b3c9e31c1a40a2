// SwiGLU, also of gate and up to which biases are still to be added; tinygrad_llm/ops/swiglu.py has the definition and
// the derivation. With s = 1 / (1 + e^-gate), silu(gate) = gate s, and its derivative is s + gate s (1 - s).
//
// Arrays of gate's size that are read or written, which is the least possible: forward 3, backward 5. Parts of the
// biases' gradients as in gelu.cu.
#include "columns.cuh"

__device__ __forceinline__ Floats sigmoid(const Floats& x) {
  return map(x, [](float v) { return 1 / (1 + expf(-v)); });
}

__device__ __forceinline__ Floats silu_slope(const Floats& x, const Floats& s) {
  return map(x, s, [](float v, float p) { return p + v * p * (1 - p); });
}

extern "C" __global__ void swiglu_forward(const scalar* gate, const scalar* up, scalar* y, long long n) {
  for_elements(n, [&](long long i, int left) {
    const Floats g = load(gate + i, left);
    store(y + i, g * sigmoid(g) * load(up + i, left), left);
  });
}

extern "C" __global__ void swiglu_backward(
    const scalar* dy, const scalar* gate, const scalar* up, scalar* dgate, scalar* dup, long long n) {
  for_elements(n, [&](long long i, int left) {
    const Floats d = load(dy + i, left), g = load(gate + i, left), s = sigmoid(g);
    store(dup + i, d * (g * s), left);
    store(dgate + i, d * load(up + i, left) * silu_slope(g, s), left);
  });
}

extern "C" __global__ void bias_swiglu_forward(
    const scalar* gate, const scalar* gate_bias, const scalar* up, const scalar* up_bias, scalar* y,
    int rows, int width) {
  const Floats bg = load_bias(gate_bias, width), bu = load_bias(up_bias, width);
  for_tile(rows, width, [&](size_t i, int c, int left) {
    const Floats g = load(gate + i, left) + bg;
    store(y + i, g * sigmoid(g) * (load(up + i, left) + bu), left);
  });
}

// parts (2, gridDim.y, width): of the gradients of gate_bias and of up_bias.
extern "C" __global__ void bias_swiglu_backward(
    const scalar* dy, const scalar* gate, const scalar* gate_bias, const scalar* up, const scalar* up_bias,
    scalar* dgate, scalar* dup, float* parts, int rows, int width) {
  const Floats bg = load_bias(gate_bias, width), bu = load_bias(up_bias, width);
  Floats sum_dgate = splat(0), sum_dup = splat(0);
  for_tile(rows, width, [&](size_t i, int c, int left) {
    const Floats d = load(dy + i, left), g = load(gate + i, left) + bg, s = sigmoid(g);
    const Floats du = d * (g * s), dg = d * (load(up + i, left) + bu) * silu_slope(g, s);
    sum_dup = sum_dup + du;
    sum_dgate = sum_dgate + dg;
    store(dup + i, du, left);
    store(dgate + i, dg, left);
  });
  store_part(parts, sum_dgate, width);
  store_part(parts + (size_t)gridDim.y * width, sum_dup, width);
}
