// A block's sum, right and with planted bugs: planted <name> prints the sum of 0 .. 199 for each of three blocks.
#include <cstdio>
#include <cstring>
#include <vector>

#include "cuda_sim.h"

namespace {

constexpr int kThreads = 64, kCount = 200, kBlocks = 3;

enum class Bug {
  none,
  missing_barrier,
  divergent_barrier,
  global_overrun,
  shared_overrun,
  misaligned,
  wrong_mask,
  absent_lane,
  different_operations,
  one_output,
  race,
  uninitialised,
  deadlock,
  too_many_threads,
  too_much_shared,
  empty_grid,
  large_grid,
};

constexpr const char* kNames[] = {
    "none",       "missing_barrier",  "divergent_barrier",    "global_overrun", "shared_overrun", "misaligned",
    "wrong_mask", "absent_lane",      "different_operations", "one_output",     "race",           "uninitialised",
    "deadlock",   "too_many_threads", "too_much_shared",      "empty_grid",     "large_grid",
};

struct alignas(16) Four {
  float v[4];
};

__device__ float warp_sum(float value, unsigned mask) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(mask, value, offset);
  return value;
}

template <Bug bug>
__global__ void block_sums(const float* values, float* out) {
  FASTCAM_DYNAMIC_SHARED(float, staged);
  FASTCAM_SHARED(float, parts, [kThreads / 32]);
  const int thread = threadIdx.x, lane = thread % 32, end = kCount + (bug == Bug::global_overrun ? 1 : 0);
  for (int i = thread; i < end; i += kThreads) staged[i < kCount ? i : 0] = values[i];
  if constexpr (bug == Bug::shared_overrun) staged[kCount + thread] = 0;
  if constexpr (bug == Bug::divergent_barrier) {
    if (thread < 32) __syncthreads();
  }
  if constexpr (bug != Bug::missing_barrier) __syncthreads();
  float sum = 0;
  if constexpr (bug == Bug::misaligned) sum += 0 * reinterpret_cast<const Four*>(values + thread % 2)->v[0];
  for (int i = thread; i < kCount; i += kThreads) {
    sum += staged[bug == Bug::missing_barrier ? kCount - 1 - i : i];  // what another thread has staged
  }
  if constexpr (bug == Bug::absent_lane) {
    if (lane < 16) sum += 0 * __shfl_sync(0x0000ffffu, sum, 20);
  } else if constexpr (bug == Bug::different_operations) {
    if (lane < 16) __syncwarp();
    if (lane >= 16) __syncwarp();
  } else if constexpr (bug == Bug::deadlock) {
    if (lane == 0) __syncwarp();
  }
  if constexpr (bug == Bug::deadlock) __syncthreads();
  sum = warp_sum(sum, bug == Bug::wrong_mask ? 0x7fffffffu : 0xffffffffu);
  if (lane == 0 && (bug != Bug::uninitialised || thread == 0)) parts[thread / 32] = sum;
  if constexpr (bug != Bug::race) __syncthreads();
  if (thread == 0) out[bug == Bug::one_output ? 0 : blockIdx.x] = parts[0] + parts[1];
}

template <Bug bug>
void run() {
  std::vector<float> values(kCount), out(kBlocks, -1);
  for (int i = 0; i < kCount; ++i) values[i] = static_cast<float>(i);
  const dim3 grid(bug == Bug::empty_grid ? 0 : kBlocks, bug == Bug::large_grid ? 65536 : 1);
  const int threads = bug == Bug::too_many_threads ? 1025 : kThreads;
  const size_t bytes = bug == Bug::too_much_shared ? 64 * 1024 : kCount * sizeof(float);
  FASTCAM_LAUNCH((block_sums<bug>), grid, threads, bytes, nullptr, values.data(), out.data());
  for (const float sum : out) std::printf("%g ", sum);
}

template <int... bugs>
bool run_named(const char* name, std::integer_sequence<int, bugs...>) {
  return ((std::strcmp(name, kNames[bugs]) == 0 ? (run<static_cast<Bug>(bugs)>(), true) : false) || ...);
}

}  // namespace

int main(int count, char** arguments) {
  constexpr int kBugs = sizeof(kNames) / sizeof(kNames[0]);
  return count == 2 && run_named(arguments[1], std::make_integer_sequence<int, kBugs>()) ? 0 : 2;
}
