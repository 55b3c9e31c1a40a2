// The norm of all gradients, and the factor that clips it, in two passes: `tinygrad_llm/optim/optimizer.py` has the
// definition. Both stay in the device's memory. The gradients are read once, and always in the same order: a float
// atomic in place of the second pass would add the blocks' sums in the order in which they happen to end.
#include "common.cuh"

// sums[b] = the sum of squares of what block b reads: packs, as far apart as all blocks together are wide.
extern "C" __global__ void grad_norm_squares(const scalar* grad, float* sums, long long n) {
  const long long width = (long long)gridDim.x * blockDim.x * Pack::size;
  float sum = 0.0f;
  for (long long i = (blockIdx.x * (long long)blockDim.x + threadIdx.x) * Pack::size; i < n; i += width) {
    const Pack g = load_pack(grad + i, n - i < Pack::size ? n - i : Pack::size);
#pragma unroll
    for (int j = 0; j < Pack::size; ++j) sum += to_float(g[j]) * to_float(g[j]);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// norm = sqrt(sum_b sums[b]), scale = min(1, max_norm / (norm + 1e-6)), by one block.
extern "C" __global__ void grad_norm_clip(const float* sums, float* norm, float* scale, float max_norm, int blocks) {
  float sum = 0.0f;
  for (int b = threadIdx.x; b < blocks; b += blockDim.x) sum += sums[b];
  sum = sqrtf(block_sum(sum));
  if (threadIdx.x == 0) {
    *norm = sum;
    *scale = fminf(1.0f, max_norm / (sum + 1e-6f));
  }
}
