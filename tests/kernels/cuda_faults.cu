// Kernels with one fault each, on the line that says so, and beside it one without. In blocks of 64 threads.
#include "common.cuh"

// x in reverse order, through shared memory.
extern "C" __global__ void sound_reverse(const float* x, float* y) {
  __shared__ float tile[64];
  extern __shared__ float again[];
  const int i = threadIdx.x, block = blockIdx.x * 64;
  tile[i] = again[i] = x[block + i];
  __syncthreads();
  y[block + i] = 0.5f * (tile[63 - i] + again[63 - i]);
}

extern "C" __global__ void race(const float* x, float* y) {
  __shared__ float tile[64];
  const int i = threadIdx.x, block = blockIdx.x * 64;
  tile[i] = x[block + i];
  y[block + i] = tile[63 - i];  // fault: race
}

// Two tiles one after another; the second overwrites the first while others still read it.
extern "C" __global__ void missing_syncthreads(const float* x, float* y) {
  __shared__ float tile[64];
  const int i = threadIdx.x, block = blockIdx.x * 64;
  for (int turn = 0; turn < 2; ++turn) {
    tile[i] = x[block + i];  // fault: missing_syncthreads
    __syncthreads();
    y[block + i] = tile[63 - i] + turn;
  }
}

extern "C" __global__ void sound_atomic(const float* x, float* y) { atomicAdd(y + threadIdx.x, x[blockIdx.x * 64 + threadIdx.x]); }

extern "C" __global__ void not_atomic(const float* x, float* y) {
  y[threadIdx.x] += x[blockIdx.x * 64 + threadIdx.x];  // fault: not_atomic
}

extern "C" __global__ void sound_warp(const float* x, float* y) {
  __shared__ float tile[64];
  const int i = threadIdx.x, block = blockIdx.x * 64;
  tile[i] = x[block + i];
  __syncwarp();
  y[block + i] = tile[i ^ 31] + warp_sum(tile[i]) + block_sum(tile[i]);
}

extern "C" __global__ void missing_syncwarp(const float* x, float* y) {
  __shared__ float tile[64];
  const int i = threadIdx.x, block = blockIdx.x * 64;
  tile[i] = x[block + i];
  y[block + i] = tile[i ^ 31] + warp_sum(tile[i]);  // fault: missing_syncwarp
}

// The last block to come adds up what all have left: ordered by fences, as in CUDA's guide.
extern "C" __global__ void sound_last_block(const float* x, float* y, float* sums, unsigned* count) {
  __shared__ bool last;
  const float sum = block_sum(x[blockIdx.x * 64 + threadIdx.x]);
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = sum;
    __threadfence();
    last = atomicAdd(count, 1) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (last) y[threadIdx.x] = threadIdx.x < gridDim.x ? sums[threadIdx.x] : 0.0f;
}

extern "C" __global__ void missing_fence(const float* x, float* y, float* sums, unsigned* count) {
  __shared__ bool last;
  const float sum = block_sum(x[blockIdx.x * 64 + threadIdx.x]);
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = sum;
    last = atomicAdd(count, 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (last) y[threadIdx.x] = threadIdx.x < gridDim.x ? sums[threadIdx.x] : 0.0f;  // fault: missing_fence
}

extern "C" __global__ void overrun(const float* x, float* y, int n) {
  for (int i = threadIdx.x; i <= n; i += 64)
    y[i] = x[i];  // fault: overrun
}

extern "C" __global__ void overrun_of_static(const float* x, float* y) {
  __shared__ float tile[60];
  tile[threadIdx.x] = x[threadIdx.x];  // fault: overrun_of_static
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x / 2];
}

extern "C" __global__ void overrun_of_dynamic(const float* x, float* y) {
  extern __shared__ __align__(16) float tile[];
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x + 1];  // fault: overrun_of_dynamic
}

extern "C" __global__ void divergent_barrier(const float* x, float* y) {
  if (threadIdx.x < 40) __syncthreads();  // fault: divergent_barrier
  y[threadIdx.x] = x[threadIdx.x];
}

extern "C" __global__ void two_barriers(const float* x, float* y) {
  if (threadIdx.x < 40)
    __syncthreads();
  else
    __syncthreads();  // fault: two_barriers
  y[threadIdx.x] = x[threadIdx.x];
}

extern "C" __global__ void absent_lane(const float* x, float* y) {
  if (threadIdx.x % 32 < 16) y[threadIdx.x] = __shfl_xor_sync(~0u, x[threadIdx.x], 1);  // fault: absent_lane
}

extern "C" __global__ void lane_outside_mask(const float* x, float* y) {
  if (threadIdx.x % 32 < 16) y[threadIdx.x] = __shfl_xor_sync(0xffff, x[threadIdx.x], 16);  // fault: lane_outside_mask
}

extern "C" __global__ void caller_outside_mask(const float* x, float* y) {
  y[threadIdx.x] = __shfl_xor_sync(0xffff, x[threadIdx.x], 1);  // fault: caller_outside_mask
}

// The maximum hides the NaN that stands for what nobody wrote.
extern "C" __global__ void uninitialized(const float* x, float* y) {
  __shared__ float tile[64];
  if (threadIdx.x < 60) tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = fmaxf(tile[63 - threadIdx.x], 0.0f);  // fault: uninitialized
}

// What a launch is checked against.
extern "C" __global__ void __launch_bounds__(128) typed(const scalar* x, float* y, int n, float a, long long many, const bool* mask) {
  if (threadIdx.x < n) y[threadIdx.x] = (mask && mask[threadIdx.x] ? a : 1.0f) * to_float(x[threadIdx.x]) + many;
}
