// The last step of the gradients of a head with its loss; tinygrad_llm/ops/linear_cross_entropy.py has the definition.
#include "floats.cuh"

// y = x dy / divisor, or with `add` that added to y; where no row counts, divisor is 0, and so is x. x is read once, y
// written once: the least possible.
extern "C" __global__ void scale_gradient(
    scalar* y, const float* x, const float* dy, const float* divisor, long long n, int add) {
  const float factor = *dy / (divisor ? fmaxf(*divisor, 1) : 1);
  for_elements(n, [&](long long i, int left) {
    const Floats scaled = load_sums(x + i, left) * factor;
    store(y + i, add ? load(y + i, left) + scaled : scaled, left);
  });
}
