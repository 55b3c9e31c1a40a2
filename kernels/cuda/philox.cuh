// Dropout's mask as a function of a seed: Philox-4x32-10 (Salmon et al. 2011). `tinygrad_llm/random.py` has the
// definition, and NumPy's mask, which is the same to the bit.
#pragma once

struct Words {
  unsigned x, y, z, w;
};

static __device__ __forceinline__ Words philox(unsigned long long counter, unsigned long long seed) {
  constexpr unsigned long long M0 = 0xD2511F53u, M1 = 0xCD9E8D57u;
  unsigned c0 = counter, c1 = counter >> 32, c2 = 0, c3 = 0, k0 = seed, k1 = seed >> 32;
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const unsigned long long a = M0 * c0, b = M1 * c2;
    c0 = unsigned(b >> 32) ^ c1 ^ k0;
    c1 = b;
    c2 = unsigned(a >> 32) ^ c3 ^ k1;
    c3 = a;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

// What dropout keeps. A kernel takes the three as arguments: `keep` are booleans, or NULL, and then they are made of
// the seed, in registers. A number is dropped with probability threshold / 2^24; a threshold of 0 drops none.
struct Mask {
  const bool* keep;
  unsigned long long seed;
  unsigned threshold;

  // Of element i. Who has those of a whole quadruple takes `four`, which costs the same.
  __device__ __forceinline__ bool kept(long long i) const {
    if (keep) return keep[i];
    if (!threshold) return true;
    const Words words = philox(i / 4, seed);
    const unsigned low = i & 1 ? words.y : words.x, high = i & 1 ? words.w : words.z;
    return (i & 2 ? high : low) >> 8 >= threshold;
  }

  // Of elements 4 i to 4 i + 3, as far as there are: n altogether.
  __device__ __forceinline__ void four(long long i, long long n, bool (&kept)[4]) const {
    if (keep) {
#pragma unroll
      for (int j = 0; j < 4; ++j) kept[j] = 4 * i + j < n && keep[4 * i + j];
      return;
    }
    const Words words = philox(i, seed);
    kept[0] = words.x >> 8 >= threshold;
    kept[1] = words.y >> 8 >= threshold;
    kept[2] = words.z >> 8 >= threshold;
    kept[3] = words.w >> 8 >= threshold;
  }
};
