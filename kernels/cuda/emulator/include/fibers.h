// Fibers: each has a stack of its own, and runs until it switches to another.
#pragma once
#include "runtime.h"

namespace emulator {

constexpr size_t PAGE = 4096;  // of memory

void run_fiber();  // what every fiber runs, in runtime.cpp

// NULL where there is no memory for its stack.
Thread* new_fiber(int number);

// Makes it begin anew when it is switched to.
void prepare(Thread* thread);

// `sanitizer` is what ThreadSanitizer calls the one to go on.
void switch_to(Context* from, Context* to, void* sanitizer);

}  // namespace emulator
