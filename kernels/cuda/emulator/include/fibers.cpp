#include "fibers.h"

#include <sys/mman.h>

#include "sanitizers.h"

extern "C" void emulator_switch(emulator::Context* from, emulator::Context* to);

// Saves the registers that a call must preserve, on the stack that it leaves, and restores those of the other.
asm(R"(
.text
.type emulator_switch, @function
emulator_switch:
  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
  mov %rsp, (%rdi)
  mov (%rsi), %rsp
  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
  ret
.size emulator_switch, . - emulator_switch
)");

namespace emulator {

constexpr size_t STACK = 256 * 1024;

void switch_to(Context* from, Context* to, void* sanitizer) {
  if (threads_checked()) __tsan_switch_to_fiber(sanitizer, 1);
  emulator_switch(from, to);
}

void prepare(Thread* thread) {
  // Stacks begin at different distances from a page's end, or all would share the same few lines of the cache.
  char* top = thread->stack + STACK - (thread->linear % 61 + 1) * 64;
  void** stack = reinterpret_cast<void**>(top);
  *--stack = nullptr;
  *--stack = reinterpret_cast<void*>(run_fiber);
  for (int i = 0; i < 6; ++i) *--stack = nullptr;
  thread->context.stack_pointer = stack;
  thread->state = State::done;
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(thread->stack, STACK);
}

Thread* new_fiber(int number) {
  auto* thread = new Thread{};
  void* memory = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  mprotect(memory, PAGE, PROT_NONE);  // a stack that is too small is a segmentation fault, never silent
  thread->stack = static_cast<char*>(memory);
  thread->linear = number;
  if (threads_checked()) thread->sanitizer = __tsan_create_fiber(0);
  prepare(thread);
  return thread;
}

}  // namespace emulator
