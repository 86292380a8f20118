// Blocks one after the other; in a block, one fiber for each CUDA thread, which goes on until it reaches a
// barrier or a warp operation. What cannot go on, or should not be, ends the program with a sentence.
#pragma once
#include <algorithm>
#include <cstdio>
#include <numeric>
#include <random>
#include <string>

#include "fiber.h"

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace cuda_sim {

constexpr unsigned kWarp = 32, kMostThreads = 1024;
constexpr size_t kMostShared = 48 * 1024;  // without asking for more

enum class State : uint8_t { ready, at_barrier, at_warp_operation, done };
enum class WarpOperation : uint8_t { sync, shuffle, ballot };

struct Thread {
  Fiber fiber;
  uint3 index{};
  unsigned lane = 0, warp = 0;
  State state = State::ready;
  int line = 0;  // of the source, where it waits
  // What it brings to a warp operation, and what it takes from it.
  WarpOperation operation = WarpOperation::sync;
  unsigned mask = 0, source = 0;
  uint64_t given = 0, received = 0;
};

// Plain arrays and lists here and below: the functions of a std::vector would be looked at by ThreadSanitizer.
struct SharedVariable {
  const void* key;
  char* memory;
};

// Memory of a block, freed when the block or, under ThreadSanitizer, the launch has ended.
struct Kept {
  char* memory;
  Kept* next;
};

// The one launch that runs. Kernels are launched from one processor thread at a time.
struct Launch {
  const char* kernel = "";
  dim3 grid, block;
  uint3 block_index{};
  size_t dynamic_bytes = 0, shared_bytes = 0;
  char* dynamic_memory = nullptr;
  static constexpr unsigned kMostVariables = 64;
  SharedVariable shared[kMostVariables];
  unsigned shared_count = 0;
  Kept* kept = nullptr;
  Thread* threads = nullptr;
  unsigned order[kMostThreads];  // in which ready threads get their turn
  unsigned count = 0, living = 0, at_barrier = 0, turn = 0;
  Thread host;
  Thread* current = &host;
  void (*call)(void*) = nullptr;
  void* argument = nullptr;
#if defined(__SANITIZE_THREAD__)
  // Their addresses stand for what orders memory: the launch's start and end, and per block the barrier, the
  // shared variables, and __syncwarp of each warp.
  char start = 0, end = 0;
  char* order_points = nullptr;
#endif
};

inline Launch launch_state;

[[noreturn]] CUDA_SIM_RUNTIME void fail(const std::string& why) {
  const Launch& l = launch_state;
  std::fprintf(stderr, "cuda_sim: %s\n  in %s, block (%u, %u, %u)\n", why.c_str(), l.kernel, l.block_index.x,
               l.block_index.y, l.block_index.z);
  constexpr const char* kNames[] = {"ready", "at __syncthreads", "at a warp operation", "done"};
  unsigned told = 0;
  for (unsigned i = 0; l.threads != nullptr && i < l.count && told < 40; ++i) {
    const Thread& thread = l.threads[i];
    if (thread.line == 0 || thread.state == State::done) continue;
    ++told;
    std::fprintf(stderr, "  thread %u: %s, line %d, mask %08x\n", i, kNames[static_cast<int>(thread.state)],
                 thread.line, thread.mask);
  }
  std::abort();
}

#if defined(__SANITIZE_THREAD__)
CUDA_SIM_RUNTIME void release(char* point) { __tsan_release(point); }
CUDA_SIM_RUNTIME void acquire(char* point) { __tsan_acquire(point); }
CUDA_SIM_RUNTIME char* barrier_point() { return launch_state.order_points; }
CUDA_SIM_RUNTIME char* shared_point() { return launch_state.order_points + 1; }
CUDA_SIM_RUNTIME char* warp_point(unsigned warp) { return launch_state.order_points + 2 + warp; }
#else
inline void release(char*) {}
inline void acquire(char*) {}
inline char* barrier_point() { return nullptr; }
inline char* shared_point() { return nullptr; }
inline char* warp_point(unsigned) { return nullptr; }
#endif

// To the next thread that can go on, or to the host where none can.
CUDA_SIM_RUNTIME void give_turn() {
  Launch& l = launch_state;
  Thread* const me = l.current;
  for (unsigned tried = 0; tried < l.count; ++tried) {
    if (++l.turn >= l.count) l.turn = 0;
    Thread* const next = &l.threads[l.order[l.turn]];
    if (next->state != State::ready) continue;
    if (next == me) return;
    l.current = next;
    return switch_fiber(me->fiber, next->fiber);
  }
  l.current = &l.host;
  switch_fiber(me->fiber, l.host.fiber);
}

// Opens the barrier once every living thread is there.
CUDA_SIM_RUNTIME void try_barrier() {
  Launch& l = launch_state;
  if (l.at_barrier < l.living) return;
  int line = 0;
  for (unsigned i = 0; i < l.count; ++i) {
    Thread& thread = l.threads[i];
    if (thread.state != State::at_barrier) continue;
    if (line != 0 && thread.line != line) fail("threads of one block wait at different __syncthreads");
    line = thread.line;
    thread.state = State::ready;
  }
  l.at_barrier = 0;
}

CUDA_SIM_RUNTIME void barrier(int line) {
  Launch& l = launch_state;
  Thread* const me = l.current;
  me->line = line;
  me->state = State::at_barrier;
  ++l.at_barrier;
  release(barrier_point());
  try_barrier();
  give_turn();
  acquire(barrier_point());
}

// Serves a warp operation once every living lane of the mask has come to it.
CUDA_SIM_RUNTIME void try_warp_operation(const Thread& asking) {
  Launch& l = launch_state;
  Thread* const warp = l.threads + asking.warp * kWarp;
  const unsigned lanes = std::min(kWarp, l.count - asking.warp * kWarp);
  unsigned here = 0, votes = 0;
  for (unsigned lane = 0; lane < lanes; ++lane) {
    const Thread& thread = warp[lane];
    if (!(asking.mask >> lane & 1) || thread.state == State::done) continue;
    if (thread.state != State::at_warp_operation || thread.mask != asking.mask) return;
    here |= 1u << lane;
    if (thread.given != 0) votes |= 1u << lane;
  }
  for (unsigned lane = 0; lane < lanes; ++lane) {
    if (!(here >> lane & 1)) continue;
    Thread& thread = warp[lane];
    if (thread.line != asking.line) fail("lanes of one mask are at different warp operations");
    if (thread.operation == WarpOperation::ballot) thread.received = votes;
    if (thread.operation == WarpOperation::shuffle) {
      if (!(here >> thread.source & 1)) fail("a shuffle reads a lane that takes no part in it");
      thread.received = warp[thread.source].given;
    }
  }
  for (unsigned lane = 0; lane < lanes; ++lane) {
    if (here >> lane & 1) warp[lane].state = State::ready;
  }
}

CUDA_SIM_RUNTIME uint64_t warp_operation(WarpOperation operation, unsigned mask, uint64_t given, unsigned source,
                                         int line) {
  Thread* const me = launch_state.current;
  me->operation = operation;
  me->mask = mask;
  me->given = given;
  me->source = source;
  me->line = line;
  if (!(mask >> me->lane & 1)) fail("a lane calls a warp operation whose mask leaves it out");
  me->state = State::at_warp_operation;
  if (operation == WarpOperation::sync) release(warp_point(me->warp));
  try_warp_operation(*me);
  if (me->state != State::ready) give_turn();
  if (operation == WarpOperation::sync) acquire(warp_point(me->warp));
  return me->received;
}

// What a fiber runs: the kernel, as one thread of it.
CUDA_SIM_RUNTIME void thread_entry() {
  Launch& l = launch_state;
#if defined(__SANITIZE_ADDRESS__)
  const void* stack = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &stack, &bytes);
  if (l.host.fiber.stack == nullptr) {  // the first switch of all came from the host
    l.host.fiber.stack = const_cast<void*>(stack);
    l.host.fiber.stack_bytes = bytes;
  }
#endif
  Thread* const me = l.current;
#if defined(__SANITIZE_THREAD__)
  acquire(&l.start);
#endif
  l.call(l.argument);
#if defined(__SANITIZE_THREAD__)
  release(&l.end);
#endif
  me->state = State::done;
  me->fiber.ended = true;
  --l.living;
  if (l.living > 0) try_barrier();
  const unsigned first = me->warp * kWarp;
  for (unsigned i = first; i < l.count && i < first + kWarp; ++i) {
    if (l.threads[i].state == State::at_warp_operation) try_warp_operation(l.threads[i]);
  }
  give_turn();
  std::abort();  // an ended thread gets no turn
}

CUDA_SIM_RUNTIME char* keep(char* memory) {
  Launch& l = launch_state;
  auto* kept = static_cast<Kept*>(std::malloc(sizeof(Kept)));
  kept->memory = memory;
  kept->next = l.kept;
  l.kept = kept;
  return memory;
}

CUDA_SIM_RUNTIME void free_kept() {
  Launch& l = launch_state;
  while (l.kept != nullptr) {
    Kept* const kept = l.kept;
    l.kept = kept->next;
    std::free(kept->memory);
    std::free(kept);
  }
}

// Memory that differs from block to block, holds NaN until something is written, and has its bounds watched.
CUDA_SIM_RUNTIME char* new_shared(size_t bytes) {
  Launch& l = launch_state;
  l.shared_bytes += bytes;
  if (l.shared_bytes > kMostShared) {
    fail("the block asks for " + std::to_string(l.shared_bytes) + " bytes of shared memory, more than the " +
         std::to_string(kMostShared) + " a launch may have");
  }
  auto* memory = static_cast<char*>(std::malloc(bytes));
  std::memset(memory, 0xff, bytes);
  return keep(memory);
}

CUDA_SIM_RUNTIME void* shared_variable(const void* key, size_t bytes) {
  Launch& l = launch_state;
  for (unsigned i = 0; i < l.shared_count; ++i) {
    if (l.shared[i].key != key) continue;
    acquire(shared_point());
    return l.shared[i].memory;
  }
  if (l.shared_count == Launch::kMostVariables) fail("a kernel has more than 64 shared variables");
  char* const memory = new_shared(bytes);
  l.shared[l.shared_count++] = {key, memory};
  release(shared_point());
  return memory;
}

// Ends the shared memory of a block. Not yet under ThreadSanitizer: a free would order it and the blocks after it.
CUDA_SIM_RUNTIME void forget_memory() {
  launch_state.shared_count = 0;
  launch_state.dynamic_memory = nullptr;
#if !defined(__SANITIZE_THREAD__)
  free_kept();
#endif
}

CUDA_SIM_RUNTIME void check_limits(dim3 grid, dim3 block) {
  const auto text = [](const char* what, dim3 size) {
    return std::string(what) + " (" + std::to_string(size.x) + ", " + std::to_string(size.y) + ", " +
           std::to_string(size.z) + ")";
  };
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (threads == 0 || threads > kMostThreads || block.x > 1024 || block.y > 1024 || block.z > 64) {
    fail("CUDA refuses " + text("blocks of", block) + " threads: 1 to 1024, at most 64 along z");
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    fail("CUDA refuses " + text("a grid of", grid) + " blocks: at least 1, at most 2^31 - 1 along x, 65535 along y, z");
  }
}

// The orders of threads and blocks: FASTCAM_SIM_ORDER=forward, reverse or a number that seeds a random one.
struct Order {
  bool reverse = false, random = false;
  std::mt19937_64 generator;

  CUDA_SIM_RUNTIME Order() {
    const char* wish = std::getenv("FASTCAM_SIM_ORDER");
    reverse = wish != nullptr && std::strcmp(wish, "reverse") == 0;
    random = wish != nullptr && *wish >= '0' && *wish <= '9';
    if (random) generator.seed(std::strtoull(wish, nullptr, 10));
  }

  CUDA_SIM_RUNTIME void arrange(unsigned* threads, unsigned count) {
    for (unsigned i = 0; i < count; ++i) threads[i] = reverse ? count - 1 - i : i;
    if (random) std::shuffle(threads, threads + count, generator);
  }
};

// ThreadSanitizer takes what one of its fibers does for ordered: the first threads of a launch get one each, and
// a stack of their own with it, for two fibers on one stack would look like a race.
CUDA_SIM_RUNTIME void known_to_sanitizer([[maybe_unused]] Fiber& fiber, [[maybe_unused]] bool first_of_launch) {
#if defined(__SANITIZE_THREAD__)
  constexpr unsigned kMostFibers = 1024;
  static Fiber known[kMostFibers];
  static unsigned used = 0;
  if (first_of_launch) used = 0;
  Fiber& next = known[used++ % kMostFibers];
  if (next.thread_state == nullptr) {
    next.thread_state = __tsan_create_fiber(0);
    next.stack = std::aligned_alloc(64, Fiber::kStackBytes);
  }
  fiber = next;
#endif
}

CUDA_SIM_RUNTIME void prepare_block(uint64_t index, Order& order, Thread* threads) {
  Launch& l = launch_state;
  l.block_index = {unsigned(index % l.grid.x), unsigned(index / l.grid.x % l.grid.y),
                   unsigned(index / (uint64_t(l.grid.x) * l.grid.y))};
  l.living = l.count;
  l.at_barrier = 0;
  l.turn = l.count - 1;
  l.shared_bytes = 0;
  order.arrange(l.order, l.count);
  if (l.dynamic_bytes > 0) l.dynamic_memory = new_shared(l.dynamic_bytes);
  for (unsigned i = 0; i < l.count; ++i) {
    Thread& thread = threads[i];
    thread.index = {i % l.block.x, i / l.block.x % l.block.y, i / (l.block.x * l.block.y)};
    thread.lane = i % kWarp;
    thread.warp = i / kWarp;
    thread.state = State::ready;
    thread.line = 0;
    known_to_sanitizer(thread.fiber, index == 0 && i == 0);
    thread.fiber.start(&thread_entry);
  }
#if defined(__SANITIZE_THREAD__)
  l.order_points = keep(static_cast<char*>(std::calloc(2 + kMostThreads / kWarp, 1)));
  release(&l.start);
#endif
}

CUDA_SIM_RUNTIME void run(const char* kernel, dim3 grid, dim3 block, size_t dynamic_bytes, void (*call)(void*),
                          void* argument) {
  static Thread threads[kMostThreads];
  Launch& l = launch_state;
  l.kernel = kernel;
  l.grid = grid;
  l.block = block;
  l.block_index = {0, 0, 0};
  l.threads = nullptr;
  check_limits(grid, block);
  l.dynamic_bytes = dynamic_bytes;
  l.call = call;
  l.argument = argument;
  l.threads = threads;
  l.count = block.x * block.y * block.z;
#if defined(__SANITIZE_THREAD__)
  l.host.fiber.thread_state = __tsan_get_current_fiber();
#endif
  Order order;
  // Blocks in a random order: a stride that has no factor in common with their number meets each once.
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  uint64_t first = order.random ? order.generator() % blocks : 0, stride = 1;
  if (order.random) {
    stride = 1 + order.generator() % blocks;
    while (std::gcd(stride, blocks) != 1) ++stride;
  }
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t along = order.reverse ? blocks - 1 - i : i;
    prepare_block((first + along * stride) % blocks, order, threads);
    l.current = &l.host;
    give_turn();
    if (l.living > 0) fail("deadlock: no thread can go on");
    forget_memory();
  }
#if defined(__SANITIZE_THREAD__)
  acquire(&l.end);
#endif
  free_kept();
}

}  // namespace cuda_sim
