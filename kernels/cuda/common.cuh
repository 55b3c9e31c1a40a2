// What every kernel uses: the storage type and its conversions, 16-byte packs, sums and maxima over a warp and a block.
//
// A file is compiled once per storage type, with -DSCALAR=float, __half or __nv_bfloat16. Arithmetic is in float.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#ifndef SCALAR
#define SCALAR float
#endif
using scalar = SCALAR;

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T> __device__ T from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
template <> __device__ inline __half from_float<__half>(float x) { return __float2half_rn(x); }
template <> __device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

// 16 bytes: the most that one instruction of a thread loads or stores. A loop over its elements must be unrolled, so
// that they stay in registers.
template <class T> struct alignas(16) PackOf {
  static constexpr int size = 16 / sizeof(T);
  T element[size];
  __device__ T& operator[](int i) { return element[i]; }
  __device__ const T& operator[](int i) const { return element[i]; }
};
using Pack = PackOf<scalar>;

// Whether packs can be loaded from here: 16 bytes must start at a multiple of 16.
__device__ inline bool aligned(const void* address) { return reinterpret_cast<size_t>(address) % 16 == 0; }

template <class T> __device__ inline PackOf<T> load_pack(const T* from) {
  PackOf<T> pack;
  *reinterpret_cast<int4*>(&pack) = *reinterpret_cast<const int4*>(from);
  return pack;
}

template <class T> __device__ inline void store_pack(T* to, const PackOf<T>& pack) {
  *reinterpret_cast<int4*>(to) = *reinterpret_cast<const int4*>(&pack);
}

// The same for a place that need not be aligned, where only `left` elements remain; zeros stand for the others.
template <class T> __device__ inline PackOf<T> load_pack(const T* from, int left) {
  if (left >= PackOf<T>::size && aligned(from)) return load_pack(from);
  PackOf<T> pack;
#pragma unroll
  for (int i = 0; i < PackOf<T>::size; ++i) pack[i] = i < left ? from[i] : from_float<T>(0.0f);
  return pack;
}

template <class T> __device__ inline void store_pack(T* to, const PackOf<T>& pack, int left) {
  if (left >= PackOf<T>::size && aligned(to)) {
    store_pack(to, pack);
    return;
  }
#pragma unroll
  for (int i = 0; i < PackOf<T>::size; ++i)
    if (i < left) to[i] = pack[i];
}

// Over the 32 threads of a warp, by exchanging registers. Every thread gets the same bits, in any run.
__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int offset = WARP / 2; offset; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
  return x;
}

__device__ inline float warp_max(float x) {
#pragma unroll
  for (int offset = WARP / 2; offset; offset /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
  return x;
}

// Over a block of one dimension whose size is a multiple of 32. Every thread must call it, and every thread gets it.
__device__ inline float block_sum(float x) {
  __shared__ float of_warp[WARP];
  const int lane = threadIdx.x % WARP;
  x = warp_sum(x);
  __syncthreads();  // those who read the last call's sums have done so
  if (lane == 0) of_warp[threadIdx.x / WARP] = x;
  __syncthreads();
  return warp_sum(lane < blockDim.x / WARP ? of_warp[lane] : 0.0f);
}

__device__ inline float block_max(float x) {
  __shared__ float of_warp[WARP];
  const int lane = threadIdx.x % WARP;
  x = warp_max(x);
  __syncthreads();
  if (lane == 0) of_warp[threadIdx.x / WARP] = x;
  __syncthreads();
  return warp_max(of_warp[lane < blockDim.x / WARP ? lane : 0]);
}
