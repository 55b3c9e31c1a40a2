// Dropout, forward and backward alike: `tinygrad_llm/ops/dropout.py` has the definition. x is read and y written once;
// the mask is made in registers, four numbers of it at a time, and the backward makes it again.
#include "common.cuh"
#include "philox.cuh"

extern "C" __global__ void dropout(const scalar* x, scalar* y, const bool* keep, unsigned long long seed,
                                   unsigned threshold, float factor, long long n) {
  const Mask mask{keep, seed, threshold};
  const long long i = (blockIdx.x * (long long)blockDim.x + threadIdx.x) * Pack::size;
  if (i >= n) return;
  const int left = n - i < Pack::size ? n - i : Pack::size;
  Pack pack = load_pack(x + i, left);
#pragma unroll
  for (int part = 0; part < Pack::size; part += 4) {
    bool kept[4];
    mask.four((i + part) / 4, n, kept);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      pack[part + j] = from_float<scalar>(kept[j] ? to_float(pack[part + j]) * factor : 0.0f);
  }
  store_pack(y + i, pack, left);
}
