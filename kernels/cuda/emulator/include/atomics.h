// Atomic operations: relaxed, as on a GPU; they order nothing but themselves.
#pragma once

#if defined(EMULATOR_MEMORY)  // memory.cpp has no place for atomic operations
#define EMULATOR_ATOMICALLY __attribute__((no_sanitize("thread"), noinline))
#else
#define EMULATOR_ATOMICALLY
#endif

namespace emulator {

template <class T, class F>
EMULATOR_ATOMICALLY T atomically(T* address, F&& next) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  static_assert(sizeof(T) == sizeof(Bits), "atomics are of 4 or 8 bytes");
  auto* at = reinterpret_cast<Bits*>(address);
  Bits old = __atomic_load_n(at, __ATOMIC_RELAXED), wanted;
  T before;
  do {
    before = __builtin_bit_cast(T, old);
    wanted = __builtin_bit_cast(Bits, next(before));
  } while (!__atomic_compare_exchange_n(at, &old, wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return before;
}

template <class T> struct identity { using type = T; };

}  // namespace emulator

#define EMULATOR_ATOMIC(name, result) \
  template <class T> T name(T* address, typename emulator::identity<T>::type value) { \
    return emulator::atomically(address, [=](T old) -> T { return result; }); \
  }
EMULATOR_ATOMIC(atomicAdd, old + value)
EMULATOR_ATOMIC(atomicSub, old - value)
EMULATOR_ATOMIC(atomicExch, value)
EMULATOR_ATOMIC(atomicMin, value < old ? value : old)
EMULATOR_ATOMIC(atomicMax, old < value ? value : old)
EMULATOR_ATOMIC(atomicAnd, old & value)
EMULATOR_ATOMIC(atomicOr, old | value)
EMULATOR_ATOMIC(atomicXor, old ^ value)
EMULATOR_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
EMULATOR_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
#undef EMULATOR_ATOMIC

template <class T>
T atomicCAS(T* address, typename emulator::identity<T>::type compare, typename emulator::identity<T>::type value) {
  return emulator::atomically(address, [=](T old) -> T { return old == compare ? value : old; });
}
