// The threads and warps of the block that runs, what they wait for, and how that reads in an error.
#pragma once
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <source_location>

#include "async_copies.h"
#include "fiber.h"
#include "order.h"
#include "shared_memory.h"
#include "vector_types.h"

namespace cuda_sim {

using Site = std::source_location;

constexpr unsigned kWarpSize = 32;

enum class State : uint8_t { ready, at_barrier, at_warp_operation, ended };
enum class Operation : uint8_t { sync, shuffle, ballot };

struct Thread {
  uint3 index;
  uint16_t number = 0, place = 0;  // in the block, in the order
  State state = State::ready;
  Operation operation = Operation::sync;
  Fiber* fiber = nullptr;  // from its beginning to its end
  Site site;               // of the last barrier or warp operation
  unsigned mask = 0;
  int source = 0;                  // the lane that a shuffle reads
  uint64_t value = 0, result = 0;  // what it gives to, and gets from, a warp operation
  CopyQueue copies;

  FASTCAM_SIM_RUNTIME unsigned lane() const { return number % kWarpSize; }
  FASTCAM_SIM_RUNTIME unsigned warp() const { return number / kWarpSize; }
};

struct Launch {
  const char* kernel;
  dim3 grid, block;
  size_t dynamic_bytes;
  SharedLimits shared_limits;
  void (*body)(void*);  // one thread of the kernel
  void* arguments;
};

// Lanes as bits.
struct Warp {
  unsigned live = 0, waiting = 0;  // not ended; at a warp operation
};

FASTCAM_SIM_RUNTIME bool same_site(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() && a.file_name() == b.file_name();
}

// What an error says, on several lines.
class Report {
 public:
  FASTCAM_SIM_RUNTIME void add(const char* format, ...) __attribute__((format(printf, 2, 3))) {
    va_list values;
    va_start(values, format);
    add_values(format, values);
    va_end(values);
  }

  FASTCAM_SIM_RUNTIME void add_values(const char* format, va_list values) {
    const int length = std::vsnprintf(text_ + used_, sizeof text_ - used_, format, values);
    used_ = used_ + length < sizeof text_ ? used_ + length : sizeof text_ - 1;
  }

  FASTCAM_SIM_RUNTIME void add_launch(const Launch& launch, const uint3& block) {
    add("\n  kernel %s, block (%u, %u, %u) of a grid (%u, %u, %u) of blocks (%u, %u, %u)", launch.kernel, block.x,
        block.y, block.z, launch.grid.x, launch.grid.y, launch.grid.z, launch.block.x, launch.block.y, launch.block.z);
  }

  // The threads of a block; those that follow each other in the same state share a line.
  FASTCAM_SIM_RUNTIME void add_threads(const Thread* threads, unsigned count) {
    unsigned lines = 0;
    for (unsigned first = 0, next; first < count; first = next) {
      next = first + 1;
      while (next < count && alike(threads[first], threads[next])) ++next;
      if (++lines > kMostLines) return add("\n  ...");
      if (next - first == 1) {
        add("\n  thread %u ", first);
      } else {
        add("\n  threads %u to %u ", first, next - 1);
      }
      add_state(threads[first], next - first > 1);
    }
  }

  FASTCAM_SIM_RUNTIME const char* text() const { return text_; }

 private:
  static constexpr unsigned kMostLines = 40;

  FASTCAM_SIM_RUNTIME static bool waits(const Thread& thread) {
    return thread.state == State::at_barrier || thread.state == State::at_warp_operation;
  }

  FASTCAM_SIM_RUNTIME static bool alike(const Thread& a, const Thread& b) {
    if (a.state != b.state || a.mask != b.mask) return false;
    return (a.fiber == nullptr) == (b.fiber == nullptr) && (a.site.line() == 0 || same_site(a.site, b.site));
  }

  FASTCAM_SIM_RUNTIME void add_state(const Thread& thread, bool several) {
    if (thread.state == State::ended) {
      add(several ? "have ended" : "has ended");
    } else if (thread.state == State::ready) {
      add(thread.fiber == nullptr ? "not begun yet" : several ? "can go on" : "runs or can go on");
    } else if (thread.state == State::at_barrier) {
      add("%s at __syncthreads", several ? "wait" : "waits");
    } else {
      static const char* const kNames[] = {"__syncwarp", "a shuffle", "a vote"};
      add("%s at %s of lanes 0x%08x", several ? "wait" : "waits", kNames[static_cast<int>(thread.operation)],
          thread.mask);
    }
    if (thread.site.line() == 0 || thread.state == State::ended) return;
    add(", %s%s:%u", waits(thread) ? "" : "last seen at ", thread.site.file_name(), thread.site.line());
  }

  char text_[8192] = {};
  size_t used_ = 0;
};

}  // namespace cuda_sim
