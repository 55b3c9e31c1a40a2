// Dropout's mask as booleans: a thread makes four of them, and writes them as one word.
#include "philox.cuh"

extern "C" __global__ void philox_keep(bool* keep, unsigned long long seed, unsigned threshold, long long n) {
  const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  const Mask mask{nullptr, seed, threshold};
  alignas(4) bool kept[4];
  if (4 * i >= n) return;
  mask.four(i, n, kept);
  if (4 * i + 4 <= n) {
    *reinterpret_cast<uchar4*>(keep + 4 * i) = {kept[0], kept[1], kept[2], kept[3]};
  } else {
#pragma unroll
    for (int j = 0; j < 3; ++j)
      if (4 * i + j < n) keep[4 * i + j] = kept[j];
  }
}
