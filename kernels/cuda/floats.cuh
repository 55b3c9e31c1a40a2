// A pack of numbers in float, to compute with: as many as 16 bytes of the storage type hold.
#pragma once
#include "common.cuh"

constexpr int PACK = Pack::size;

struct Floats {
  float at[PACK];
};

// The numbers at `from`, of which `left` remain in the row; zeros stand for those beyond.
__device__ __forceinline__ Floats load(const scalar* from, int left) {
  const Pack pack = load_pack(from, left);
  Floats v;
#pragma unroll
  for (int i = 0; i < PACK; ++i) v.at[i] = to_float(pack[i]);
  return v;
}

__device__ __forceinline__ void store(scalar* to, const Floats& v, int left) {
  Pack pack;
#pragma unroll
  for (int i = 0; i < PACK; ++i) pack[i] = from_float<scalar>(v.at[i]);
  store_pack(to, pack, left);
}

// The same for float, whatever the storage type is.
__device__ __forceinline__ Floats load_sums(const float* from, int left) {
  Floats v;
#pragma unroll
  for (int i = 0; i < PACK; ++i) v.at[i] = i < left ? from[i] : 0;
  return v;
}

__device__ __forceinline__ void store_sums(float* to, const Floats& v, int left) {
#pragma unroll
  for (int i = 0; i < PACK; ++i)
    if (i < left) to[i] = v.at[i];
}

__device__ __forceinline__ Floats splat(float x) {
  Floats v;
#pragma unroll
  for (int i = 0; i < PACK; ++i) v.at[i] = x;
  return v;
}

// f of each number, and of each two.
template <class F> __device__ __forceinline__ Floats map(const Floats& x, F f) {
  Floats y;
#pragma unroll
  for (int i = 0; i < PACK; ++i) y.at[i] = f(x.at[i]);
  return y;
}

template <class F> __device__ __forceinline__ Floats map(const Floats& x, const Floats& y, F f) {
  Floats z;
#pragma unroll
  for (int i = 0; i < PACK; ++i) z.at[i] = f(x.at[i], y.at[i]);
  return z;
}

__device__ __forceinline__ Floats operator+(const Floats& x, const Floats& y) {
  return map(x, y, [](float a, float b) { return a + b; });
}
__device__ __forceinline__ Floats operator-(const Floats& x, const Floats& y) {
  return map(x, y, [](float a, float b) { return a - b; });
}
__device__ __forceinline__ Floats operator*(const Floats& x, const Floats& y) {
  return map(x, y, [](float a, float b) { return a * b; });
}
__device__ __forceinline__ Floats operator-(const Floats& x, float y) { return x - splat(y); }
__device__ __forceinline__ Floats operator*(const Floats& x, float y) { return x * splat(y); }

// What is left of the numbers when they are stored.
__device__ __forceinline__ Floats rounded(const Floats& x) {
  return map(x, [](float a) { return to_float(from_float<scalar>(a)); });
}

// The sum of the first `left`.
__device__ __forceinline__ float total(const Floats& x, int left = PACK) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < PACK; ++i)
    if (i < left) sum += x.at[i];
  return sum;
}

// each(i, left) for the packs of n numbers in a row, shared among all threads of the grid.
template <class Each> __device__ __forceinline__ void for_elements(long long n, Each each) {
  const long long step = (long long)gridDim.x * blockDim.x * PACK;
  for (long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * PACK; i < n; i += step)
    each(i, n - i < PACK ? (int)(n - i) : PACK);
}
