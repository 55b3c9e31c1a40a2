// Softmax cross-entropy of a row of logits a block; tinygrad_llm/ops/cross_entropy.py has the definition.
//
//     loss = log(total) + highest - (1 - s) x_t - s mean(x),  dx = dloss (p - s / C - (1 - s) onehot(t)),
//
// with highest = max x, total = sum_c e^{x_c - highest}, p = e^{x - highest} / total and s the share of label smoothing.
// One pass gives highest and total: when a higher logit comes, what was summed so far is scaled down (Milakov &
// Gimelshein 2018, https://arxiv.org/abs/1805.02867). Each thread does so on its own, and then the block.
//
// Bytes, with a row of logits as the unit: forward 1 read, backward 1 read and 1 written, the least for each of the two.
// `cross_entropy_in_place`, for the head of a language model, is both at once: 1 read and 1 written, the least for both.
// For that each thread keeps in shared memory the packs that it has read; where a row has more than fit there, it reads
// the others again, the last first, which the caches still have.
#include <math_constants.h>

#include "floats.cuh"

constexpr int MAX_THREADS = 1024;

struct Softmax {
  float highest, total, sum;  // sum: of the logits themselves
};

// What to subtract where nothing but minus infinity has come so far.
__device__ __forceinline__ float finite(float highest) { return highest == -CUDART_INF_F ? 0 : highest; }

// Packs i < kept of the row stay in shared memory too.
__device__ __forceinline__ Softmax read_row(const scalar* x, int classes, Pack* shared, int kept) {
  float highest = -CUDART_INF_F, total = 0, sum = 0;
  for (int i = threadIdx.x; i * PACK < classes; i += blockDim.x) {
    const int c = i * PACK, left = classes - c;
    const Pack pack = load_pack(x + c, left);
    if (i < kept) shared[i] = pack;
    float most = highest;
#pragma unroll
    for (int j = 0; j < PACK; ++j)
      if (j < left) most = fmaxf(most, to_float(pack[j]));
    total *= expf(highest - finite(most));
#pragma unroll
    for (int j = 0; j < PACK; ++j)
      if (j < left) total += expf(to_float(pack[j]) - finite(most)), sum += to_float(pack[j]);
    highest = most;
  }
  const float most = block_max(highest);
  return {most, block_sum(total * expf(highest - finite(most))), block_sum(sum)};
}

// 0 for a target to be ignored, NaN for one that is no class.
__device__ __forceinline__ float row_loss(
    const Softmax& row, const scalar* x, long long target, long long ignore_index, int classes, float smoothing) {
  if (target == ignore_index) return 0;
  if (target < 0 || target >= classes) return CUDART_NAN_F;
  const float log_total = logf(row.total), of_target = log_total - (to_float(x[target]) - row.highest);
  if (smoothing == 0) return of_target;
  return (1 - smoothing) * of_target + smoothing * (log_total - (row.sum / classes - row.highest));
}

// The gradient of a pack of logits, the first of which is class c.
__device__ __forceinline__ Floats gradient(
    const Floats& x, const Softmax& row, int c, long long target, float dloss, float smoothing, int classes) {
  const float share = 1 / row.total, shift = smoothing / classes;
  Floats dx;
#pragma unroll
  for (int j = 0; j < PACK; ++j) {
    dx.at[j] = dloss * (expf(x.at[j] - row.highest) * share - shift);
    if (c + j == target) dx.at[j] -= (1 - smoothing) * dloss;
  }
  return dx;
}

extern "C" __global__ void __launch_bounds__(MAX_THREADS) cross_entropy_forward(
    const scalar* logits, const long long* targets, float* losses, float* highest, float* totals,
    int classes, long long ignore_index, float smoothing) {
  const scalar* x = logits + (size_t)blockIdx.x * classes;
  const Softmax row = read_row(x, classes, nullptr, 0);
  if (threadIdx.x) return;
  losses[blockIdx.x] = row_loss(row, x, targets[blockIdx.x], ignore_index, classes, smoothing);
  highest[blockIdx.x] = row.highest;
  totals[blockIdx.x] = row.total;
}

// dlosses has a number for each row, or with `each` = 0 one for all; all are divided by *divisor, if there is one.
extern "C" __global__ void __launch_bounds__(MAX_THREADS) cross_entropy_backward(
    const float* dlosses, int each, const float* divisor, const scalar* logits, const long long* targets,
    const float* highest, const float* totals, scalar* dlogits, int classes, long long ignore_index, float smoothing) {
  const size_t start = (size_t)blockIdx.x * classes;
  const Softmax row = {highest[blockIdx.x], totals[blockIdx.x], 0};
  const long long target = targets[blockIdx.x];
  const float dloss = dlosses[each * blockIdx.x] / (divisor ? *divisor : 1);
  for (int c = threadIdx.x * PACK; c < classes; c += blockDim.x * PACK) {
    const Floats x = load(logits + start + c, classes - c);
    const Floats dx = gradient(x, row, c, target, dloss, smoothing, classes);
    store(dlogits + start + c, target == ignore_index ? splat(0) : dx, classes - c);
  }
}

// The losses, and if wanted over the logits the gradient of each row's own loss. `kept` packs of shared memory.
extern "C" __global__ void __launch_bounds__(MAX_THREADS) cross_entropy_in_place(
    scalar* logits, const long long* targets, float* losses, int classes, long long ignore_index, float smoothing,
    int wanted, int kept) {
  extern __shared__ Pack shared[];
  scalar* x = logits + (size_t)blockIdx.x * classes;
  const long long target = targets[blockIdx.x];
  const Softmax row = read_row(x, classes, shared, kept);
  if (!threadIdx.x) losses[blockIdx.x] = row_loss(row, x, target, ignore_index, classes, smoothing);
  if (!wanted) return;
  __syncthreads();  // the target's logit has been read
  const int packs = (classes + PACK - 1) / PACK, rounds = (packs + blockDim.x - 1) / blockDim.x;
  for (int i = (rounds - 1) * blockDim.x + threadIdx.x; i >= 0; i -= blockDim.x) {
    if (i >= packs) continue;
    const int c = i * PACK;
    const Pack pack = i < kept ? shared[i] : load_pack(x + c, classes - c);
    Floats v;
#pragma unroll
    for (int j = 0; j < PACK; ++j) v.at[j] = to_float(pack[j]);
    const Floats dx = gradient(v, row, c, target, 1, smoothing, classes);
    store(x + c, target == ignore_index ? splat(0) : dx, classes - c);
  }
}
