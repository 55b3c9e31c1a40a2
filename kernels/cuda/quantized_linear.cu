// Products with a matrix kept in blocks of 32 small numbers; tinygrad_llm/ops/quantized_linear.py has the layouts.
//
// Eight lanes share a block, four numbers each, so that a warp reads four blocks side by side. With few rows of x, as in
// decoding, each number is made where it is used: from memory only the blocks are read. With many, as in a prompt, the
// matrix is made once for cuBLAS.
//
// No type's blocks lie at multiples of 16 bytes, so each lane loads 2 bytes at a time, beside its neighbours'.
//
// Bytes: matvec, the blocks, x and the bias once and y written once, which is the least possible. dequantize, the blocks
// once and the matrix written once: the least for it, but the product then reads the matrix, 2 to 7 times the blocks.
#include "floats.cuh"

constexpr int WARPS = 8, MOST = 8;  // of a block (32, WARPS); rows of x
constexpr int NUMBERS = 32, SHARERS = 8, EACH = 4;
enum Type { Q8_0 = 34, Q4_0 = 18, Q4_1 = 20 };  // by the bytes of a block

// Which of a block's numbers are a lane's four: in Q8_0 neighbours, else from two bytes both lower and upper halves.
template <Type TYPE> __device__ __forceinline__ int number(int lane, int i) {
  return TYPE == Q8_0 ? EACH * lane + i : 2 * lane + i % 2 + i / 2 * 16;
}

struct Four {
  float at[EACH];
};

template <Type TYPE> __device__ __forceinline__ Four unpack(const unsigned char* block, int lane) {
  const float d = __half2float(*reinterpret_cast<const __half*>(block));
  const unsigned short* pairs = reinterpret_cast<const unsigned short*>(block + (TYPE == Q4_1 ? 4 : 2));
  if (TYPE == Q8_0) {
    const unsigned low = pairs[2 * lane], high = pairs[2 * lane + 1];
    return {d * (signed char)low, d * (signed char)(low >> 8), d * (signed char)high, d * (signed char)(high >> 8)};
  }
  const float m = TYPE == Q4_1 ? __half2float(*reinterpret_cast<const __half*>(block + 2)) : -8 * d;
  const unsigned q = pairs[lane];
  return {d * (q & 15) + m, d * (q >> 8 & 15) + m, d * (q >> 4 & 15) + m, d * (q >> 12) + m};
}

// A warp has a row of the matrix; blocks (columns, count), x (rows, 32 count), y (rows, columns), rows <= MOST
template <Type TYPE>
__device__ __forceinline__ void multiply(
    const scalar* x, const unsigned char* blocks, const scalar* bias, scalar* y, int rows, int columns, int count) {
  const int o = blockIdx.x * WARPS + threadIdx.y, lane = threadIdx.x % SHARERS;
  if (o >= columns) return;
  float sums[MOST] = {};
  for (int b = threadIdx.x / SHARERS; b < count; b += WARP / SHARERS) {
    const Four w = unpack<TYPE>(blocks + ((size_t)o * count + b) * TYPE, lane);
#pragma unroll
    for (int row = 0; row < MOST; ++row) {
      if (row >= rows) break;
      const scalar* of_block = x + ((size_t)row * count + b) * NUMBERS;
#pragma unroll
      for (int i = 0; i < EACH; ++i) sums[row] += w.at[i] * to_float(of_block[number<TYPE>(lane, i)]);
    }
  }
#pragma unroll
  for (int row = 0; row < MOST; ++row) {
    if (row >= rows) break;
    const float sum = warp_sum(sums[row]) + (bias ? to_float(bias[o]) : 0);
    if (threadIdx.x == row) y[(size_t)row * columns + o] = from_float<scalar>(sum);
  }
}

// Four numbers a thread.
template <Type TYPE>
__device__ __forceinline__ void dequantize(const unsigned char* blocks, scalar* weight, long long count) {
  const long long b = (blockIdx.x * (long long)blockDim.x + threadIdx.x) / SHARERS;
  if (b >= count) return;
  const int lane = threadIdx.x % SHARERS;
  const Four w = unpack<TYPE>(blocks + b * TYPE, lane);
#pragma unroll
  for (int i = 0; i < EACH; ++i) weight[b * NUMBERS + number<TYPE>(lane, i)] = from_float<scalar>(w.at[i]);
}

extern "C" __global__ void __launch_bounds__(WARP* WARPS) matvec_Q8_0(
    const scalar* x, const unsigned char* blocks, const scalar* bias, scalar* y, int rows, int columns, int count) {
  multiply<Q8_0>(x, blocks, bias, y, rows, columns, count);
}

extern "C" __global__ void __launch_bounds__(WARP* WARPS) matvec_Q4_0(
    const scalar* x, const unsigned char* blocks, const scalar* bias, scalar* y, int rows, int columns, int count) {
  multiply<Q4_0>(x, blocks, bias, y, rows, columns, count);
}

extern "C" __global__ void __launch_bounds__(WARP* WARPS) matvec_Q4_1(
    const scalar* x, const unsigned char* blocks, const scalar* bias, scalar* y, int rows, int columns, int count) {
  multiply<Q4_1>(x, blocks, bias, y, rows, columns, count);
}

extern "C" __global__ void dequantize_Q8_0(const unsigned char* blocks, scalar* weight, long long count) {
  dequantize<Q8_0>(blocks, weight, count);
}

extern "C" __global__ void dequantize_Q4_0(const unsigned char* blocks, scalar* weight, long long count) {
  dequantize<Q4_0>(blocks, weight, count);
}

extern "C" __global__ void dequantize_Q4_1(const unsigned char* blocks, scalar* weight, long long count) {
  dequantize<Q4_1>(blocks, weight, count);
}
