// Finds reads of shared memory that no thread of the block has written, by a mark for every byte of it.
//
// Kernels are compiled as for ThreadSanitizer, which puts a call before every access to memory; but what is called is
// here, not in its library.
#include "runtime.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace emulator {

static std::vector<unsigned char> written_dynamic(MAX_SHARED), written_static;

void forget_writes(size_t n_dynamic, size_t n_static) {
  std::fill_n(written_dynamic.begin(), n_dynamic, 0);
  written_static.assign(n_static, 0);
}

static unsigned char* marks(const void* address) {
  const auto* byte = static_cast<const unsigned char*>(address);
  if (byte >= dynamic_shared && byte < dynamic_shared + MAX_SHARED) return &written_dynamic[byte - dynamic_shared];
  if (byte >= static_shared && byte < static_shared_end) return &written_static[byte - static_shared];
  return nullptr;
}

static void check_read(const void* address, size_t size, void* instruction) {
  const unsigned char* mark = marks(address);
  if (mark && memchr(mark, 0, size))
    fail("reads shared memory that no thread has written", {nullptr, 0}, instruction);
}

static void note_write(const void* address, size_t size) {
  if (unsigned char* mark = marks(address)) memset(mark, 1, size);
}

}  // namespace emulator

#define CALLER __builtin_return_address(0)
#define ACCESSES(size) \
  void __tsan_read##size(void* address) { emulator::check_read(address, size, CALLER); } \
  void __tsan_write##size(void* address) { emulator::note_write(address, size); } \
  void __tsan_unaligned_read##size(void* address) { emulator::check_read(address, size, CALLER); } \
  void __tsan_unaligned_write##size(void* address) { emulator::note_write(address, size); } \
  void __tsan_volatile_read##size(void* address) { emulator::check_read(address, size, CALLER); } \
  void __tsan_volatile_write##size(void* address) { emulator::note_write(address, size); }

extern "C" {
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
void __tsan_read_range(void* address, size_t size) { emulator::check_read(address, size, CALLER); }
void __tsan_write_range(void* address, size_t size) { emulator::note_write(address, size); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}
