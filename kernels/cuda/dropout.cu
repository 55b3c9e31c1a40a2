// Dropout, forward and backward alike: `tinygrad_llm/ops/dropout.py` has the definition. x is read and y written once;
// the mask is made in registers, four numbers of it at a time, and the backward makes it again.
#include "floats.cuh"
#include "philox.cuh"

extern "C" __global__ void dropout(const scalar* x, scalar* y, long long n, const bool* keep, unsigned long long seed,
                                   unsigned threshold, float factor) {
  const Mask mask{keep, seed, threshold};
  for_elements(n, [&](long long i, int left) {
    Floats v = load(x + i, left);
#pragma unroll
    for (int part = 0; part < PACK; part += 4) {
      bool kept[4];
      mask.four((i + part) / 4, n, kept);
#pragma unroll
      for (int j = 0; j < 4; ++j) v.at[part + j] = kept[j] ? v.at[part + j] * factor : 0;
    }
    store(y + i, v, left);
  });
}
