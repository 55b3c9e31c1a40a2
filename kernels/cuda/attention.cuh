// What the kernels of attention have in common: their arguments, and rows on their way to shared memory.
#pragma once
#include <math_constants.h>

#include "common.cuh"
#include "philox.cuh"

// Numbers of a head in shared memory: the least of 32, 64 and 128 that D fits into. Those beyond D are zeros.
#ifndef WIDTH
#define WIDTH 64
#endif

// Whether there is dropout: 1 or 0.
#ifndef DROPOUT
#define DROPOUT 0
#endif

constexpr int WARPS = 4;
constexpr int THREADS = WARP * WARPS;

// An array (B, H, T, D) may lie anyhow if only the numbers of a row are side by side: with it comes how far apart its
// batches, heads and rows are. So q, k and v are read where they stand in one qkv, and their gradients written so.
#define STRIDES(x) long long x##_batch, long long x##_head, long long x##_row
#define HEAD(x, b, h) ((x) + (b) * x##_batch + (h) * x##_head)

// Of a probability that exists: the i-th of (B, H, T, S).
__device__ inline bool dropped(const Mask& mask, bool exists, long long i) {
  return DROPOUT && exists && !mask.kept(i);
}

// The numbers of a pack, as they are or as floats.
template <class T> __device__ inline void put(T* to, const Pack& pack) {
  if constexpr (sizeof(T) == sizeof(scalar)) {
    store_pack(to, pack);
  } else {
#pragma unroll
    for (int j = 0; j < Pack::size; j += 4)
      store_pack(&to[j], PackOf<float>{to_float(pack[j]), to_float(pack[j + 1]), to_float(pack[j + 2]),
                                       to_float(pack[j + 3])});
  }
}

// Tile = `count` rows of x, `row` apart, by the whole block; zeros beyond them and beyond D.
template <int ROWS, int PITCH, class T>
__device__ inline void load_rows(T (&tile)[ROWS][PITCH], const scalar* x, long long row, int count, int D) {
  constexpr int PACKS = WIDTH / Pack::size;
  if (count >= ROWS && D == WIDTH && row % Pack::size == 0 && aligned(x)) {
#pragma unroll
    for (int i = 0; i < ROWS * PACKS / THREADS; ++i) {  // many loads under way at once
      const int r = (i * THREADS + threadIdx.x) / PACKS, c = threadIdx.x % PACKS * Pack::size;
      put(&tile[r][c], load_pack(x + r * row + c));
    }
  } else {
#pragma unroll 1
    for (int i = threadIdx.x; i < ROWS * PACKS; i += THREADS) {
      const int r = i / PACKS, c = i % PACKS * Pack::size;
      put(&tile[r][c], load_pack(x + r * row + c, r < count ? D - c : 0));
    }
  }
}
