// What ThreadSanitizer is told of the order of memory: the launch comes before its threads and they before its end,
// threads that meet at a barrier or __syncwarp come before what follows it. Nothing orders two blocks, and nothing
// that a thread of the simulator does for the bookkeeping orders two threads.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "fiber.h"
#include "vector_types.h"

namespace cuda_sim {

class Ordering {
 public:
  ~Ordering() {
    if (keeper_ != nullptr) tsan_destroy(keeper_);
  }

  FASTCAM_SIM_RUNTIME void begin_launch(Fiber& launcher) {
    if (!kThreadSanitizer) return;
    launcher.tsan = launcher_ = tsan_current();
    if (keeper_ == nullptr) keeper_ = tsan_create();
    release_launcher();
  }
  FASTCAM_SIM_RUNTIME void end_launch() { tsan_acquire(&ended_); }

  // Tokens live as long as the block: what one block released, none acquires in the next.
  FASTCAM_SIM_RUNTIME void begin_block() {
    if (kThreadSanitizer) met_ = static_cast<uint64_t*>(std::calloc(kTokens, sizeof(uint64_t)));
  }
  // Only the keeper knows the end of the block, so what it frees can be allocated again and the next block still comes
  // after no other.
  FASTCAM_SIM_RUNTIME void as_keeper() {
    tsan_become(keeper_);
    tsan_acquire(&ended_);
  }
  FASTCAM_SIM_RUNTIME void end_block() {
    std::free(met_);
    met_ = nullptr;
  }

  FASTCAM_SIM_RUNTIME void begin_thread(const Fiber& fiber, unsigned thread, const uint3& block) {
    if (!kThreadSanitizer) return;
    char name[64];
    std::snprintf(name, sizeof name, "CUDA thread %u of block (%u, %u, %u)", thread, block.x, block.y, block.z);
    tsan_name(fiber.tsan, name);
    acquire_launcher();
  }
  FASTCAM_SIM_RUNTIME void end_thread() { tsan_release(&ended_); }

  FASTCAM_SIM_RUNTIME void as(const Fiber& fiber) { tsan_become(fiber.tsan); }
  FASTCAM_SIM_RUNTIME void as_launcher() { tsan_become(launcher_); }
  FASTCAM_SIM_RUNTIME void release_launcher() { tsan_release(&begun_); }
  FASTCAM_SIM_RUNTIME void acquire_launcher() { tsan_acquire(&begun_); }

  // For every fiber that takes part in a meeting, then for every one again. Meeting 0 is that of the block.
  FASTCAM_SIM_RUNTIME void meet(const Fiber& fiber, unsigned meeting) {
    if (!kThreadSanitizer) return;
    as(fiber);
    tsan_release(reinterpret_cast<char*>(met_ + meeting));
  }
  FASTCAM_SIM_RUNTIME void part(const Fiber& fiber, unsigned meeting) {
    if (!kThreadSanitizer) return;
    as(fiber);
    tsan_acquire(reinterpret_cast<char*>(met_ + meeting));
  }

 private:
  static constexpr unsigned kTokens = 33;  // the block and its warps
  void *launcher_ = nullptr, *keeper_ = nullptr;
  alignas(8) char begun_ = 0;
  alignas(8) char ended_ = 0;
  uint64_t* met_ = nullptr;
};

}  // namespace cuda_sim
