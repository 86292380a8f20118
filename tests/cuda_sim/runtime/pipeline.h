// Asynchronous copies into shared memory. They land as late as CUDA allows, when their own thread waits for them, and
// until then their target is NaN: what does not wait, or waits for too few, has wrong numbers in every order.
#pragma once
#include <cstring>

#include "scheduler.h"

namespace cuda_sim {

FASTCAM_SIM_RUNTIME void Scheduler::issue_copy(const AsyncCopy& copy, const Site& site) {
  current_->site = site;
  check_copy(copy);
  if (copies_.full()) {
    ordering_.as_launcher();  // who frees the memory
    copies_.grow();
    ordering_.as(*running_);
  }
  copies_.add(current_->copies, copy);
}

FASTCAM_SIM_RUNTIME void Scheduler::commit_copies() { ++current_->copies.committed; }

FASTCAM_SIM_RUNTIME bool Scheduler::take_copy(size_t prior, AsyncCopy& copy) {
  return copies_.take(current_->copies, prior, copy);
}

FASTCAM_SIM_RUNTIME void Scheduler::check_copy(const AsyncCopy& copy) {
  const size_t bytes = copy.bytes;
  if (bytes != 4 && bytes != 8 && bytes != 16) fail("an asynchronous copy of %zu bytes; CUDA copies 4, 8 or 16", bytes);
  check_aligned("target", copy.target, bytes);
  check_aligned("source", copy.source, bytes);
  if (!shared_.holds(copy.target, bytes)) {
    fail("the target of an asynchronous copy of %zu bytes does not lie inside one shared array of its block", bytes);
  }
}

FASTCAM_SIM_RUNTIME void Scheduler::check_aligned(const char* what, const void* address, size_t bytes) {
  const size_t over = reinterpret_cast<uintptr_t>(address) % bytes;
  if (over == 0) return;
  fail("the %s of an asynchronous copy of %zu bytes lies %zu bytes behind a multiple of %zu", what, bytes, over, bytes);
}

alignas(16) inline constexpr unsigned char kNotLanded[16] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                                             0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

// Seen by the sanitizers, as done by the CUDA thread. Of a constant size the copy is one access in the kernel, of
// another it were a call that ThreadSanitizer names in place of the kernel's line.
inline void copy_bytes(void* target, const void* source, size_t bytes) {
  if (bytes == 4) std::memcpy(target, source, 4);
  if (bytes == 8) std::memcpy(target, source, 8);
  if (bytes == 16) std::memcpy(target, source, 16);
}

}  // namespace cuda_sim

inline void __pipeline_memcpy_async(void* shared_target, const void* global_source, size_t bytes,
                                    cuda_sim::Site site = cuda_sim::Site::current()) {
  cuda_sim::scheduler->issue_copy({shared_target, global_source, bytes}, site);
  cuda_sim::copy_bytes(shared_target, cuda_sim::kNotLanded, bytes);
}

inline void __pipeline_commit() { cuda_sim::scheduler->commit_copies(); }

inline void __pipeline_wait_prior(size_t prior) {
  cuda_sim::AsyncCopy copy;
  while (cuda_sim::scheduler->take_copy(prior, copy)) cuda_sim::copy_bytes(copy.target, copy.source, copy.bytes);
}
