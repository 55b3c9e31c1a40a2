// Rotary position embedding; tinygrad_llm/ops/rotary.py has the definition and the derivation.
//
// Heads are usually a transposed view of a projection's output: they are read where they are, and written one after the
// other, as attention wants them. A thread has the same channels of one token in many heads, so that the angles come
// from the cache after the first. With pairs (x_1, x_2) and angles at both of their channels,
//
//   y_1 = x_1 cos_1 - x_2 sin_1,     y_2 = x_2 cos_2 + x_1 sin_2,
//   dx_1 = dy_1 cos_1 + dy_2 sin_2,  dx_2 = dy_2 cos_2 - dy_1 sin_1.
//
// x is read and y written once, and the angles read once, which is the least possible.
#include "floats.cuh"

// (-x_2, x_1) of the pairs of neighbors.
__device__ __forceinline__ Floats turned(const Floats& x) {
  Floats y;
#pragma unroll
  for (int i = 0; i < PACK; i += 2) {
    y.at[i] = -x.at[i + 1];
    y.at[i + 1] = x.at[i];
  }
  return y;
}

// x has gaps: where a sequence, a head and a token begin is a multiple of so many elements. y (batch, heads, tokens,
// size) has none, nor have cos and sin (tokens, size), but with the sequence they begin so much later.
extern "C" __global__ void rotary_turn(
    const scalar* x, const scalar* cos, const scalar* sin, scalar* y, int batch, int heads, int tokens, int size,
    long long x_batch, long long x_head, long long x_token, long long cos_batch, long long sin_batch,
    int interleaved, int back) {
  const int half = size / 2, columns = interleaved ? size : half, packs = (columns + PACK - 1) / PACK;
  const int i = blockIdx.x * blockDim.x + threadIdx.x, t = i / packs, c = i % packs * PACK, left = columns - c;
  if (t >= tokens) return;
  for (int head = blockIdx.y; head < batch * heads; head += gridDim.y) {
    const int b = head / heads;
    const scalar* xs = x + b * x_batch + head % heads * x_head + t * x_token + c;
    const scalar* coss = cos + b * cos_batch + (size_t)t * size + c;
    const scalar* sins = sin + b * sin_batch + (size_t)t * size + c;
    scalar* ys = y + ((size_t)head * tokens + t) * size + c;
    const Floats x1 = load(xs, left), cos1 = load(coss, left), sin1 = load(sins, left);
    if (interleaved) {
      store(ys, back ? x1 * cos1 - turned(x1 * sin1) : x1 * cos1 + turned(x1) * sin1, left);
    } else {
      const Floats x2 = load(xs + half, left), cos2 = load(coss + half, left), sin2 = load(sins + half, left);
      store(ys, back ? x1 * cos1 + x2 * sin2 : x1 * cos1 - x2 * sin1, left);
      store(ys + half, back ? x2 * cos2 - x1 * sin1 : x2 * cos2 + x1 * sin2, left);
    }
  }
}
