// Runs the blocks of a launch one after another, and the threads of a block as fibers, in a chosen order.
//
// A fiber runs until it waits at a barrier; then the next one that can go on does. The last to arrive at a barrier lets
// the others go on. If none can, the kernel has waited for threads that will never come.
#include "runtime.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "fibers.h"
#include "sanitizers.h"

namespace emulator {

constexpr int MAX_THREADS = 1024, WARP = 32;

// Under ThreadSanitizer neighboring blocks use different fibers: one fiber's accesses are in order, those of two
// blocks are not.
constexpr int FIBER_SETS = 4;

Thread* current;
dim3 grid, block;
uint3 block_index;
alignas(PAGE) unsigned char dynamic_shared[MAX_SHARED];
unsigned char *static_shared, *static_shared_end;

enum class Order : int { forward, reverse, random };

struct Launch {  // library.py has its mirror
  unsigned grid[3], block[3];
  uint64_t shared_bytes, seed;
  Order order;
  void (*kernel)(void** arguments);
  void** arguments;
  unsigned char *static_shared, *static_shared_end;
  uint64_t instruction;  // where the kernel's library failed, if the runtime cannot tell the place in the source
  char error[400];
};

// A group of lanes that gather at a warp's barrier; it is found by the lowest of them.
struct Gathering {
  unsigned mask, arrived, number;
  Place place;
};

static Launch* launch;
static int n_threads, n_at_barrier, n_barriers;
static std::vector<Thread*> fibers;                 // all there are
static Thread* of_block[MAX_THREADS];
static std::vector<int> sequence;                   // the block's threads in the launch's order
static std::vector<Thread*> runnable, released;     // this round's and the next one's
static size_t next_runnable;
static Gathering gatherings[MAX_THREADS];
static Context scheduler;
static void* scheduler_sanitizer;
static bool failed;
static std::mt19937_64 generator;

// Points that order threads for ThreadSanitizer. Two blocks have no barrier's point in common, nor have two barriers
// that follow each other: who has passed the second must not be in order with those who still leave the first.
constexpr int POINTS = 4096;  // of a block: 2 for all of its threads, 2 for every gathering
static char launch_begins, launch_ends, fence, points[64 * POINTS];
static char* of_this_block;

// Leaves `from` for the next thread that can run, or for the scheduler when there is none.
static void run_another(Context* from) {
  if (next_runnable == runnable.size()) {
    runnable.swap(released);
    released.clear();
    next_runnable = 0;
    if (launch->order == Order::random) std::shuffle(runnable.begin(), runnable.end(), generator);
  }
  if (next_runnable == runnable.size()) {
    switch_to(from, &scheduler, scheduler_sanitizer);
  } else {
    current = runnable[next_runnable++];
    switch_to(from, &current->context, current->sanitizer);
  }
}

void run_fiber() {
  for (;;) {
    acquire(&launch_begins);
    launch->kernel(launch->arguments);
    release(&launch_ends);
    current->state = State::done;
    run_another(&current->context);
  }
}

static std::string text(uint3 index) {
  std::string of = std::to_string(index.x);
  if (grid.y * grid.z * block.y * block.z > 1) of += "," + std::to_string(index.y) + "," + std::to_string(index.z);
  return of;
}

static std::string text(Place place) { return std::string(place.file) + ":" + std::to_string(place.line); }

static void note(const std::string& message) {
  failed = true;
  snprintf(launch->error, sizeof launch->error, "%s", message.c_str());
}

void fail(const std::string& message, Place place, void* instruction) {
  if (Dl_info library; instruction && dladdr(instruction, &library))
    launch->instruction = static_cast<char*>(instruction) - static_cast<char*>(library.dli_fbase) - 1;
  note((instruction ? "" : text(place) + ": ") + message + " (block " + text(block_index) + ", thread " +
       text(current->index) + ")");
  switch_to(&current->context, &scheduler, scheduler_sanitizer);
}

static void let_go(Thread* thread) {
  thread->state = State::ready;
  if (thread != current) released.push_back(thread);
}

void block_barrier(Place place) {
  Thread* me = current;
  char* point = of_this_block + n_barriers % 2;
  release(point);
  me->state = State::at_block_barrier;
  me->place = place;
  if (++n_at_barrier < n_threads) {
    run_another(&me->context);
  } else {
    n_at_barrier = 0;
    ++n_barriers;
    for (int i : sequence)
      if (of_block[i]->place.line != place.line)
        fail("__syncthreads() in a branch that not all threads take: others wait at " + text(of_block[i]->place), place);
    for (int i : sequence) let_go(of_block[i]);
  }
  acquire(point);
}

void warp_exchange(unsigned mask, Place place, void* brought, void (*act)(void**, unsigned)) {
  Thread* me = current;
  const int lane = me->linear % WARP, first = me->linear - lane;
  if (!(mask >> lane & 1)) fail("the calling lane " + std::to_string(lane) + " is not in the mask", place);
  Gathering& gathering = gatherings[first + __builtin_ctz(mask)];
  if (!gathering.arrived) gathering = {mask, 0, gathering.number, place};
  if (gathering.mask != mask)
    fail("lanes of one warp meet with different masks, here and at " + text(gathering.place), place);
  if (gathering.place.line != place.line)
    fail("lanes of one warp meet at different calls, here and at " + text(gathering.place), place);
  gathering.arrived |= 1u << lane;
  me->state = State::at_warp_barrier;
  me->place = place;
  me->brought = brought;
  if (gathering.arrived != mask) {
    run_another(&me->context);
    return;
  }
  gathering.arrived = 0;
  ++gathering.number;
  const bool backwards = launch->order == Order::reverse;
  void* of_lane[WARP] = {};
  for (unsigned left = mask; left; left &= left - 1) {
    const int l = __builtin_ctz(left);
    of_lane[l] = of_block[first + l]->brought;
  }
  if (act) act(of_lane, mask);
  for (int i = 0; i < WARP; ++i) {
    const int l = backwards ? WARP - 1 - i : i;
    if (mask >> l & 1) let_go(of_block[first + l]);
  }
}

void warp_barrier(unsigned mask, Place place) {
  const int group = current->linear / WARP * WARP + (mask ? __builtin_ctz(mask) : 0);
  char* point = of_this_block + 2 + 2 * group + gatherings[group].number % 2;
  release(point);
  warp_exchange(mask, place, nullptr, nullptr);
  acquire(point);
}

void memory_fence() {
  acquire(&fence);
  release(&fence);
}

// New pages, so that ThreadSanitizer forgets who touched shared memory in the block before.
static void forget(unsigned char* begin, unsigned char* end) {
  auto* first = reinterpret_cast<unsigned char*>(uintptr_t(begin) / PAGE * PAGE);
  auto* last = reinterpret_cast<unsigned char*>((uintptr_t(end) + PAGE - 1) / PAGE * PAGE);
  const std::vector<unsigned char> before(first, begin), after(end, last);
  mmap(first, last - first, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  std::copy(before.begin(), before.end(), first);
  std::copy(after.begin(), after.end(), end);
}

static void prepare_shared_memory() {
  const size_t n_static = static_shared_end - static_shared, n_dynamic = launch->shared_bytes;
  if (threads_checked()) {
    if (n_static) forget(static_shared, static_shared_end);
    forget(dynamic_shared, dynamic_shared + MAX_SHARED);
  }
  if (__asan_poison_memory_region) {
    __asan_unpoison_memory_region(dynamic_shared, n_dynamic);
    __asan_poison_memory_region(dynamic_shared + n_dynamic, MAX_SHARED - n_dynamic);
  }
  // Whoever reads what nobody wrote gets NaN, or -1.
  if (n_static) memset(static_shared, 0xff, n_static);
  memset(dynamic_shared, 0xff, n_dynamic);
  if (forget_writes) forget_writes(n_dynamic, n_static);
}

static std::string describe(const Thread* waiting) {
  if (waiting->state == State::at_block_barrier) return "__syncthreads() waits for threads that do not come";
  const int first = waiting->linear / WARP * WARP;
  for (int i = first; i < first + WARP; ++i)
    if (gatherings[i].arrived >> waiting->linear % WARP & 1) {
      const unsigned missing = gatherings[i].mask & ~gatherings[i].arrived;
      return "the mask names lane " + std::to_string(__builtin_ctz(missing)) + ", which does not come";
    }
  return "waits";
}

// All threads have returned, or else some wait for ever.
static void check_all_done() {
  const Thread *waiting = nullptr, *elsewhere = nullptr;
  int n_done = 0;
  for (int i : sequence) {
    const Thread* thread = of_block[i];
    if (thread->state == State::done) ++n_done;
    else if (!waiting) waiting = thread;
    else if (thread->place.line != waiting->place.line) elsewhere = thread;
  }
  if (!waiting || failed) return;
  std::string message = text(waiting->place) + ": " + describe(waiting);
  if (elsewhere) message += "; thread " + text(elsewhere->index) + " waits at " + text(elsewhere->place);
  if (n_done) message += "; " + std::to_string(n_done) + " of " + std::to_string(n_threads) + " threads have returned";
  note(message + " (block " + text(block_index) + ", thread " + text(waiting->index) + ")");
}

static void run_block(long number, long id) {
  block_index = {unsigned(id % grid.x), unsigned(id / grid.x % grid.y), unsigned(id / grid.x / grid.y)};
  prepare_shared_memory();
  release(&launch_begins);
  of_this_block = points + number * POINTS % sizeof points;
  const int set = threads_checked() ? number % FIBER_SETS * n_threads : 0;
  runnable.clear();
  released.clear();
  next_runnable = n_at_barrier = n_barriers = 0;
  for (int i = 0; i < n_threads; ++i) {
    Thread* thread = of_block[i] = fibers[set + i];
    thread->linear = i;
    thread->index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    thread->state = State::ready;
    gatherings[i].arrived = 0;
  }
  for (int i : sequence) released.push_back(of_block[i]);
  run_another(&scheduler);
  check_all_done();
}

extern "C" void emulator_launch(Launch* of) {
  launch = of;
  grid = {of->grid[0], of->grid[1], of->grid[2]};
  block = {of->block[0], of->block[1], of->block[2]};
  n_threads = block.x * block.y * block.z;
  static_shared = of->static_shared;
  static_shared_end = of->static_shared_end;
  failed = false;
  generator.seed(of->seed);
  if (threads_checked()) scheduler_sanitizer = __tsan_get_current_fiber();
  const size_t needed = n_threads * (threads_checked() ? FIBER_SETS : 1);
  while (fibers.size() < needed) {
    Thread* thread = new_fiber(fibers.size());
    if (!thread) return note("there is no memory for the stacks of " + std::to_string(needed) + " threads");
    fibers.push_back(thread);
  }
  runnable.reserve(MAX_THREADS);  // here: ThreadSanitizer takes for the kernel's what a fiber moves or allocates
  released.reserve(MAX_THREADS);
  sequence.resize(n_threads);
  for (int i = 0; i < n_threads; ++i) sequence[i] = of->order == Order::reverse ? n_threads - 1 - i : i;
  const long n_blocks = long(grid.x) * grid.y * grid.z;
  std::vector<long> ids(n_blocks);
  for (long i = 0; i < n_blocks; ++i) ids[i] = of->order == Order::reverse ? n_blocks - 1 - i : i;
  if (of->order == Order::random) std::shuffle(ids.begin(), ids.end(), generator);
  for (long number = 0; number < n_blocks && !failed; ++number) run_block(number, ids[number]);
  acquire(&launch_ends);
  if (failed)
    for (Thread* thread : fibers) prepare(thread);
}

}  // namespace emulator
