// What the runtime tells the sanitizer that the process runs under, if it does.
#pragma once
#include <cstddef>

extern "C" {
#define WEAK __attribute__((weak))
WEAK void* __tsan_get_current_fiber();
WEAK void* __tsan_create_fiber(unsigned flags);
WEAK void __tsan_switch_to_fiber(void* fiber, unsigned flags);
WEAK void __tsan_acquire(void* address);
WEAK void __tsan_release(void* address);
WEAK void __asan_poison_memory_region(void const volatile* address, size_t size);
WEAK void __asan_unpoison_memory_region(void const volatile* address, size_t size);
#undef WEAK
}

namespace emulator {

inline bool threads_checked() { return __tsan_create_fiber != nullptr; }

// For ThreadSanitizer: what is before the release of a point is in order with what is after an acquire of it.
inline void acquire(void* point) { if (threads_checked()) __tsan_acquire(point); }
inline void release(void* point) { if (threads_checked()) __tsan_release(point); }

}  // namespace emulator
