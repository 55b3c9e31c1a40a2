// Barriers, and the exchange of registers within a warp.
#pragma once

// ThreadSanitizer must not see lanes read each other's registers, which on the emulator are memory.
#define EMULATOR_UNSEEN __attribute__((no_sanitize("thread"), noinline))

inline void __syncthreads(EMULATOR_HERE) { emulator::block_barrier(place); }

inline void __syncwarp(unsigned mask = ~0u, EMULATOR_HERE) { emulator::warp_barrier(mask, place); }

inline void __threadfence() { emulator::memory_fence(); }
inline void __threadfence_block() { emulator::memory_fence(); }

namespace emulator {

template <class T>
struct Exchange {
  T value;
  int source;  // the lane to read
  Place place;
  T result;
};

template <class T>
EMULATOR_UNSEEN void exchange_all(void** brought, unsigned mask) {
  for (unsigned left = mask; left; left &= left - 1) {
    auto* to = static_cast<Exchange<T>*>(brought[__builtin_ctz(left)]);
    if (!(mask >> to->source & 1))
      fail("a shuffle reads lane " + std::to_string(to->source) + ", which is not in its mask", to->place);
    to->result = static_cast<Exchange<T>*>(brought[to->source])->value;
  }
}

template <class T>
EMULATOR_UNSEEN T exchange(unsigned mask, T value, int source, Place place) {
  static_assert(sizeof(T) <= 8, "a shuffle moves 4 or 8 bytes");
  Exchange<T> mine{value, source, place, value};
  warp_exchange(mask, place, &mine, exchange_all<T>);
  return mine.result;
}

// The lane itself where the one asked for lies outside the caller's part of `width` lanes.
inline int within(int source, int lane, int width) { return source / width == lane / width && source >= 0 ? source : lane; }

inline int lane() { return current->linear % 32; }

EMULATOR_UNSEEN inline void ballot_all(void** brought, unsigned mask) {
  unsigned votes = 0;
  for (unsigned left = mask; left; left &= left - 1) {
    const int lane = __builtin_ctz(left);
    votes |= unsigned(*static_cast<unsigned*>(brought[lane]) != 0) << lane;
  }
  for (unsigned left = mask; left; left &= left - 1) *static_cast<unsigned*>(brought[__builtin_ctz(left)]) = votes;
}

}  // namespace emulator

template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATOR_HERE) {
  const int lane = emulator::lane();
  return emulator::exchange(mask, value, lane / width * width + (source & (width - 1)), place);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, EMULATOR_HERE) {
  const int lane = emulator::lane();
  return emulator::exchange(mask, value, emulator::within(lane ^ with, lane, width), place);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, EMULATOR_HERE) {
  const int lane = emulator::lane();
  return emulator::exchange(mask, value, emulator::within(lane + int(by), lane, width), place);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, EMULATOR_HERE) {
  const int lane = emulator::lane();
  return emulator::exchange(mask, value, emulator::within(lane - int(by), lane, width), place);
}

EMULATOR_UNSEEN inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_HERE) {
  unsigned vote = predicate != 0;
  emulator::warp_exchange(mask, place, &vote, emulator::ballot_all);
  return vote;
}
inline int __any_sync(unsigned mask, int predicate, EMULATOR_HERE) {
  return __ballot_sync(mask, predicate, place) != 0;
}
inline int __all_sync(unsigned mask, int predicate, EMULATOR_HERE) { return __ballot_sync(mask, predicate, place) == mask; }
// On a GPU these are whoever happens to run together; here every lane alone.
inline unsigned __activemask() { return 1u << emulator::lane(); }

template <class T> T __reduce_add_sync(unsigned mask, T value, EMULATOR_HERE) {
  T sum = 0;
  for (unsigned left = mask; left; left &= left - 1) sum += emulator::exchange(mask, value, __builtin_ctz(left), place);
  return sum;
}
