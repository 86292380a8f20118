// Runs the threads of one block after the other: a thread runs until it waits at a barrier or a warp operation or
// ends, and then the next one that can.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "block.h"
#include "ordering.h"
#include "shared_memory.h"

// Read at every turn by kernels: variables in the memory that each thread of the host has from its beginning, so that
// no call stands between them and the kernel.
#define FASTCAM_SIM_STATE inline constinit thread_local __attribute__((tls_model("initial-exec")))
FASTCAM_SIM_STATE uint3 threadIdx{};
FASTCAM_SIM_STATE uint3 blockIdx{};
FASTCAM_SIM_STATE dim3 blockDim{};
FASTCAM_SIM_STATE dim3 gridDim{};

namespace cuda_sim {

FASTCAM_SIM_RUNTIME void fiber_loop();

class Scheduler {
 public:
  Scheduler() : fibers_(&fiber_loop) {}

  // For the host: defined in launch.h.
  void run(const Launch& launch);

  // For kernels: defined in meeting.h, those of copies in pipeline.h, those of arrays here.
  void barrier(const Site& site);
  uint64_t warp_operation(Operation operation, unsigned mask, uint64_t value, int source, const Site& site);
  unsigned lane() const { return current_->lane(); }
  void* shared_array(const void* key, size_t bytes, size_t alignment);
  void* dynamic_array() { return shared_.find(this); }
  void issue_copy(const AsyncCopy& copy, const Site& site);
  void commit_copies();
  bool take_copy(size_t prior, AsyncCopy& copy);
  [[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 2, 3)));

  // For fibers.
  void run_thread();
  void arrive();

 private:
  void begin(const Launch& launch);
  void check(const Launch& launch);
  void check_extent(const char* what, const dim3& extent, const dim3& most);
  void number_threads();
  void run_block(uint64_t number, bool first);
  void begin_block(bool first);
  void end_block();
  [[noreturn]] void end_failed_launch();

  void go_on();
  void switch_to(Fiber& fiber);
  void make_ready(Thread& thread);
  void wait(State state, const Site& site);
  void end_thread(Thread& thread);
  void open_barrier();
  void complete(Thread& lane);
  void check_lanes(const Thread& lane, unsigned members);
  void check_shared();
  void check_copy(const AsyncCopy& copy);
  void check_aligned(const char* what, const void* address, size_t bytes);
  static unsigned votes(const Thread* lanes, unsigned members);

  const Launch* launch_ = nullptr;  // while one runs
  Order order_;
  ReadyPlaces ready_;
  SharedMemory shared_;
  AsyncCopies copies_;
  FiberPool fibers_;
  Fiber launcher_;
  Fiber *running_ = nullptr, *left_ = nullptr;  // the fiber that runs, and the one that ran before it
  Thread* current_ = nullptr;                   // the CUDA thread that runs
  unsigned count_ = 0, live_ = 0, at_barrier_ = 0;
  uint16_t thread_at_[kMostThreads] = {};  // by place in the order
  Thread threads_[kMostThreads];
  Warp warps_[kMostThreads / kWarpSize];
  Report report_;
  bool failed_ = false;
  Ordering ordering_;
};

// Of this thread of the host, from its first launch on.
FASTCAM_SIM_STATE Scheduler* scheduler = nullptr;

FASTCAM_SIM_RUNTIME void fiber_loop() {
  scheduler->arrive();
  for (;;) scheduler->run_thread();
}

FASTCAM_SIM_RUNTIME void Scheduler::run_thread() {
  ordering_.begin_thread(*running_, current_->number, blockIdx);
  launch_->body(launch_->arguments);
  ordering_.end_thread();
  end_thread(*current_);
}

FASTCAM_SIM_RUNTIME void Scheduler::end_thread(Thread& thread) {
  thread.state = State::ended;
  ready_.remove(thread.place);
  Warp& warp = warps_[thread.warp()];
  warp.live &= ~(1u << thread.lane());
  --live_;
  if (at_barrier_ != 0 && at_barrier_ == live_) open_barrier();
  for (unsigned left = warp.waiting; left != 0; left &= left - 1) {
    const unsigned lane = __builtin_ctz(left);
    if (warp.waiting >> lane & 1) complete(threads_[thread.warp() * kWarpSize + lane]);
  }
  fibers_.give_back(thread.fiber);
  go_on();
}

FASTCAM_SIM_RUNTIME void Scheduler::make_ready(Thread& thread) {
  thread.state = State::ready;
  ready_.add(thread.place);
}

// To the next thread that can run, or to the launcher if there is none.
FASTCAM_SIM_RUNTIME void Scheduler::go_on() {
  const int place = ready_.next(order_.place_to_look(count_));
  if (place < 0) return switch_to(launcher_);
  Thread& thread = threads_[thread_at_[place]];
  if (thread.fiber == nullptr) thread.fiber = fibers_.take();
  current_ = &thread;
  threadIdx = thread.index;
  switch_to(*thread.fiber);
}

FASTCAM_SIM_RUNTIME void Scheduler::switch_to(Fiber& fiber) {
  if (&fiber == running_) return;
  left_ = running_;
  running_ = &fiber;
  tsan_become(fiber.tsan);
  asan_leave(&left_->fake_stack, fiber.stack, fiber.stack_bytes);
  fastcam_sim_switch(&left_->stack_pointer, fiber.stack_pointer);
  arrive();
}

// The first thing on a stack that runs again. AddressSanitizer tells where the stack left lies: of the launcher's, it
// alone knows that.
FASTCAM_SIM_RUNTIME void Scheduler::arrive() { asan_arrive(running_->fake_stack, &left_->stack, &left_->stack_bytes); }

FASTCAM_SIM_RUNTIME void* Scheduler::shared_array(const void* key, size_t bytes, size_t alignment) {
  void* array = shared_.find(key);
  if (array == nullptr) {
    ordering_.as_launcher();
    array = shared_.add(key, bytes, alignment);
    ordering_.release_launcher();
    ordering_.as(*running_);
    if (array == nullptr) fail("a kernel has more shared arrays than the simulator counts");
    check_shared();
  }
  ordering_.acquire_launcher();
  return array;
}

FASTCAM_SIM_RUNTIME void Scheduler::check_shared() {
  const size_t bytes = shared_.bytes(), most = launch_->shared_limits.total;
  if (bytes > most) {
    fail("%zu bytes of shared memory, static and dynamic; CUDA allows %zu (%zu KiB)", bytes, most, most / 1024);
  }
  const size_t fixed = bytes - launch_->dynamic_bytes, asked = launch_->shared_limits.dynamic;
  if (fixed > kMostShared) fail("%zu bytes of static shared memory; CUDA allows %zu (48 KiB)", fixed, kMostShared);
  if (most > kMostShared &&
      asked + fixed > most) {  // CUDA refuses it when it is asked for, and knows the static ones then
    fail(
        "cudaFuncSetAttribute was asked for %zu bytes of dynamic shared memory beside %zu static ones; CUDA allows %zu",
        asked, fixed, most);
  }
}

// Says what is wrong, and ends the program, or the launch if FASTCAM_SIM_THROW=1.
FASTCAM_SIM_RUNTIME void Scheduler::fail(const char* format, ...) {
  ordering_.as_launcher();
  va_list values;
  va_start(values, format);
  report_ = Report();
  report_.add("fastcam simulator: ");
  report_.add_values(format, values);
  va_end(values);
  report_.add_launch(*launch_, blockIdx);
  report_.add_threads(threads_, count_);
  const char* wish = std::getenv("FASTCAM_SIM_THROW");
  if (wish == nullptr || std::strcmp(wish, "1") != 0) {
    std::fprintf(stderr, "%s\n", report_.text());
    std::abort();
  }
  failed_ = true;
  if (running_ != &launcher_) switch_to(launcher_);  // and never back
  end_failed_launch();
}

}  // namespace cuda_sim
