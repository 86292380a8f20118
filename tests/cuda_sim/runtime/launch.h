// The host's side: what CUDA refuses, and the loop over the blocks.
#pragma once
#include <memory>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <utility>

#include "device.h"
#include "meeting.h"

using cudaStream_t = struct CUstream_st*;

namespace cuda_sim {

FASTCAM_SIM_RUNTIME void Scheduler::run(const Launch& launch) {
  if (launch_ != nullptr) fail("a kernel launches a kernel, %s", launch.kernel);
  begin(launch);
  const uint64_t count = uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  uint64_t block = order_.first_block(count);
  for (uint64_t i = 0; i < count; ++i) {
    run_block(block, i == 0);
    block = order_.next_block(block, count);
  }
  ordering_.end_launch();
  launch_ = nullptr;
}

FASTCAM_SIM_RUNTIME void Scheduler::begin(const Launch& launch) {
  launch_ = &launch;
  running_ = &launcher_;
  count_ = 0;  // no threads to show if the launch is refused
  blockIdx = {0, 0, 0};
  ordering_.begin_launch(launcher_);
  if (!order_.read()) fail("FASTCAM_SIM_ORDER must be forward, reverse or a number");
  check(launch);
  count_ = launch.block.x * launch.block.y * launch.block.z;
  blockDim = launch.block;
  gridDim = launch.grid;
  fibers_.prepare(count_);
  number_threads();
}

FASTCAM_SIM_RUNTIME void Scheduler::check(const Launch& launch) {
  check_extent("grid", launch.grid, dim3(2147483647, 65535, 65535));
  check_extent("block", launch.block, dim3(kMostThreads, kMostThreads, 64));
  const uint64_t threads = uint64_t{launch.block.x} * launch.block.y * launch.block.z;
  if (threads > kMostThreads) {
    fail("CUDA refuses this launch: %llu threads a block, at most %u are allowed",
         static_cast<unsigned long long>(threads), kMostThreads);
  }
  const SharedLimits& most = launch.shared_limits;
  if (launch.dynamic_bytes > most.dynamic) {
    fail("CUDA refuses this launch: %zu bytes of dynamic shared memory, at most %zu (%s) are allowed",
         launch.dynamic_bytes, most.dynamic, most.total == kMostShared ? "48 KiB" : "cudaFuncSetAttribute");
  }
}

FASTCAM_SIM_RUNTIME void Scheduler::check_extent(const char* what, const dim3& extent, const dim3& most) {
  const bool empty = extent.x == 0 || extent.y == 0 || extent.z == 0;
  if (!empty && extent.x <= most.x && extent.y <= most.y && extent.z <= most.z) return;
  fail("CUDA refuses this launch: its %s is (%u, %u, %u), allowed are (1, 1, 1) to (%u, %u, %u)", what, extent.x,
       extent.y, extent.z, most.x, most.y, most.z);
}

// What is the same in every block.
FASTCAM_SIM_RUNTIME void Scheduler::number_threads() {
  const dim3& extent = launch_->block;
  uint3 index{0, 0, 0};
  for (unsigned i = 0; i < count_; ++i) {
    threads_[i].number = i;
    threads_[i].index = index;
    if (++index.x < extent.x) continue;
    index.x = 0;
    if (++index.y < extent.y) continue;
    index.y = 0;
    ++index.z;
  }
}

FASTCAM_SIM_RUNTIME void Scheduler::run_block(uint64_t number, bool first) {
  const dim3& grid = launch_->grid;
  blockIdx.x = number % grid.x;
  blockIdx.y = number / grid.x % grid.y;
  blockIdx.z = number / grid.x / grid.y;
  begin_block(first);
  go_on();  // returns when no thread can run any more
  if (failed_) end_failed_launch();
  if (live_ != 0) fail("deadlock: every thread that has not ended waits");
  end_block();
}

FASTCAM_SIM_RUNTIME void Scheduler::begin_block(bool first) {
  order_.arrange(thread_at_, count_, first);
  for (unsigned place = 0; place < count_; ++place) threads_[thread_at_[place]].place = place;
  for (unsigned i = 0; i < count_; ++i) {
    threads_[i].state = State::ready;
    threads_[i].fiber = nullptr;
    threads_[i].site = Site();
    threads_[i].mask = 0;
    threads_[i].copies = {CopyQueue::kNone, CopyQueue::kNone, 0};
  }
  for (unsigned i = 0; i * kWarpSize < count_; ++i) {
    const unsigned lanes = count_ - i * kWarpSize;
    warps_[i] = {lanes >= kWarpSize ? ~0u : (1u << lanes) - 1, 0};
  }
  ready_.fill(count_);
  live_ = count_;
  at_barrier_ = 0;
  copies_.clear();
  ordering_.begin_block();
  if (launch_->dynamic_bytes != 0) shared_.add(this, launch_->dynamic_bytes, 16);
  ordering_.release_launcher();
}

FASTCAM_SIM_RUNTIME void Scheduler::end_block() {
  ordering_.as_keeper();
  shared_.release();
  ordering_.end_block();
  ordering_.as_launcher();
}

// The fibers stand in the middle of kernels, so none is kept.
FASTCAM_SIM_RUNTIME void Scheduler::end_failed_launch() {
  for (unsigned i = 0; i < count_; ++i) {
    if (threads_[i].fiber == nullptr || threads_[i].state == State::ended) continue;
    ordering_.as(*threads_[i].fiber);
    ordering_.end_thread();
  }
  ordering_.as_launcher();
  ordering_.end_launch();
  fibers_.clear();
  end_block();
  launch_ = nullptr;
  failed_ = false;
  throw std::runtime_error(report_.text());
}

// The scheduler of this thread of the host.
FASTCAM_SIM_RUNTIME Scheduler& host_scheduler() {
  static thread_local const auto owner = std::make_unique<Scheduler>();
  scheduler = owner.get();
  return *owner;
}

// Calls the kernel as CUDA does: every thread with its own copy of the arguments, converted to its parameters.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_bytes, cudaStream_t,
            Arguments&&... arguments) {
  static_assert((!std::is_reference_v<Parameters> && ...), "a kernel takes its parameters by value");
  auto call = std::make_pair(kernel, std::tuple<Parameters...>(std::forward<Arguments>(arguments)...));
  const auto body = [](void* opaque) {
    const auto& [function, values] = *static_cast<decltype(call)*>(opaque);
    std::apply(function, values);
  };
  const SharedLimits limits = dynamic_limits().find(reinterpret_cast<const void*>(kernel));
  host_scheduler().run({name, grid, block, dynamic_bytes, limits, body, &call});
}

}  // namespace cuda_sim
