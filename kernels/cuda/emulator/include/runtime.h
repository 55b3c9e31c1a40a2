// What a kernel's library calls: the part of the emulator that is built once, runtime.cpp.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include <vector_types.h>

namespace emulator {

// A place in a kernel's source, for the one who made the mistake there.
struct Place {
  const char* file;
  int line;
};
#define EMULATOR_HERE emulator::Place place = {__builtin_FILE(), __builtin_LINE()}

struct Context {
  void* stack_pointer;
};

enum class State { ready, at_block_barrier, at_warp_barrier, done };

// A thread of the kernel: a fiber, which runs until it must wait for others.
struct Thread {
  uint3 index;         // threadIdx
  int linear;          // its number within the block
  State state;
  Place place;         // where it waits
  void* brought;       // what it brought to the warp's collective operation
  Context context;
  char* stack;
  void* sanitizer;     // what ThreadSanitizer calls a fiber
};

constexpr size_t MAX_SHARED = 227 * 1024;

extern Thread* current;
extern dim3 grid, block;
extern uint3 block_index;
extern unsigned char dynamic_shared[MAX_SHARED], *static_shared, *static_shared_end;

// Ends the launch with an error that names the place, the block and the thread. The place may be an instruction's.
void fail(const std::string& message, Place place, void* instruction = nullptr);

// Waits until every thread of the block is there.
void block_barrier(Place place);

// Waits until every lane in `mask` is there; then what each wrote before is there for the others.
void warp_barrier(unsigned mask, Place place);

// The same without order of memory, but the last to come calls `act(brought, mask)`, where brought[lane] is what that
// lane brought: so lanes exchange values.
void warp_exchange(unsigned mask, Place place, void* brought, void (*act)(void** brought, unsigned mask));

// Orders memory, as ThreadSanitizer must see it: what a thread wrote before its fence is there for those whose fence
// comes later.
void memory_fence();

// In memory.cpp, where it is linked: nothing in these many bytes of shared memory has been written yet.
__attribute__((weak)) void forget_writes(size_t n_dynamic, size_t n_static);

}  // namespace emulator
