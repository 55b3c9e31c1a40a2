// The second step of sums down the columns of a matrix, such as the gradient of a bias: a kernel that passes over the
// matrix leaves one part of the sums for each of its blocks, and here the parts are added up, in the same order each
// time. What atomic additions would do in one step, in another order each time and with other bits.
//
// Bytes: the parts are read once and the sums written once.
#include "common.cuh"

constexpr int GROUPS = 8;  // of threads that share a column's parts

// parts (gridDim.y, count, width): for each of gridDim.y sums its parts. The results may be NULL. Block (32, GROUPS).
extern "C" __global__ void __launch_bounds__(WARP * GROUPS) add_parts(
    const float* parts, scalar* sums, scalar* more_sums, int count, int width) {
  __shared__ float shared[GROUPS][WARP];
  const int c = blockIdx.x * WARP + threadIdx.x;
  scalar* result = blockIdx.y ? more_sums : sums;
  float sum = 0;
  if (c < width)
    for (int i = threadIdx.y; i < count; i += GROUPS) sum += parts[((size_t)blockIdx.y * count + i) * width + c];
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y || c >= width || !result) return;
  for (int i = 1; i < GROUPS; ++i) sum += shared[i][threadIdx.x];
  result[c] = from_float<scalar>(sum);
}
