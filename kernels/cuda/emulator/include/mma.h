// The functions of mma.cuh that are tensor cores' instructions, with the same numbers in the same lanes' registers.
#pragma once

namespace emulator {

struct Fragments {
  float* c;
  const unsigned *a, *b;
};

inline float half_of(unsigned pair, int high, __half) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(pair >> 16 * high)));
}
inline float half_of(unsigned pair, int high, __nv_bfloat16) {
  return __builtin_bit_cast(float, high ? pair & 0xffff0000u : pair << 16);
}

template <class T>
EMULATOR_UNSEEN void mma_all(void** brought, unsigned) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* of = static_cast<Fragments*>(brought[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int high = 0; high < 2; ++high) {
      for (int i = 0; i < 4; ++i) a[g + i % 2 * 8][2 * t + i / 2 * 8 + high] = half_of(of->a[i], high, T());
      for (int i = 0; i < 2; ++i) b[2 * t + i * 8 + high][g] = half_of(of->b[i], high, T());
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    float* c = static_cast<Fragments*>(brought[lane])->c;
    for (int i = 0; i < 4; ++i)
      for (int k = 0; k < 16; ++k) c[i] += a[lane / 4 + i / 2 * 8][k] * b[k][lane % 4 * 2 + i % 2];
  }
}

struct Row {
  uint16_t element[8];
  unsigned* to;
};

template <bool transposed>
EMULATOR_UNSEEN void load_all(void** brought, unsigned) {
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      const int g = lane / 4, t = lane % 4;
      unsigned pair = 0;
      for (int high = 0; high < 2; ++high) {
        const int row = transposed ? 2 * t + high : g, column = transposed ? g : 2 * t + high;
        pair |= unsigned(static_cast<Row*>(brought[8 * i + row])->element[column]) << 16 * high;
      }
      static_cast<Row*>(brought[lane])->to[i] = pair;
    }
}

template <bool transposed>
void load(unsigned* to, const void* row, Place place) {
  if (reinterpret_cast<uintptr_t>(row) % 16) fail("a matrix's row must start at a multiple of 16 bytes", place);
  Row mine{{}, to};
  for (int i = 0; i < 8; ++i) mine.element[i] = static_cast<const uint16_t*>(row)[i];  // by its own lane, to be checked
  warp_exchange(~0u, place, &mine, load_all<transposed>);
}

}  // namespace emulator

template <class T>
EMULATOR_UNSEEN void mma_16x8x16(float* c, const unsigned* a, const unsigned* b, EMULATOR_HERE) {
  emulator::Fragments mine{c, a, b};
  emulator::warp_exchange(~0u, place, &mine, emulator::mma_all<T>);
}
template <class T> void load_matrices(unsigned* to, const T* row, EMULATOR_HERE) {
  emulator::load<false>(to, row, place);
}
template <class T> void load_matrices_transposed(unsigned* to, const T* row, EMULATOR_HERE) {
  emulator::load<true>(to, row, place);
}
