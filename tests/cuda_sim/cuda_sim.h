// CUDA's names on the CPU, for tests: a .cu file compiles with g++ -x c++ -std=c++20, and its kernels run as fibers.
// What this models and what it does not is told in README.md beside it.
#pragma once
#include <cmath>
#include <cstdint>
#include <tuple>
#include <type_traits>
#include <utility>

#include "scheduler.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

using cudaStream_t = void*;
namespace cuda_sim {

template <class T>
inline T shuffle(unsigned mask, T value, unsigned source, int line) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = warp_operation(WarpOperation::shuffle, mask, bits, source, line);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Where a lane reads: its own value where the source would lie outside its segment of `width` lanes.
inline unsigned lane() { return launch_state.current->lane; }
inline unsigned source_down(unsigned delta, unsigned width) {
  return lane() % width + delta < width ? lane() + delta : lane();
}
inline unsigned source_up(unsigned delta, unsigned width) { return lane() % width >= delta ? lane() - delta : lane(); }
inline unsigned source_xor(unsigned bits, unsigned width) {
  const unsigned other = lane() ^ bits;
  return other / width <= lane() / width ? other : lane();
}
inline unsigned source_index(unsigned index, unsigned width) { return lane() / width * width + index % width; }

template <class... Parameters, class... Given>
inline void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_bytes,
                   cudaStream_t, Given&&... given) {
  using Call = std::pair<void (*)(Parameters...), std::tuple<Parameters...>>;
  Call call{kernel, std::tuple<Parameters...>(std::forward<Given>(given)...)};
  const auto run_thread = [](void* argument) {
    auto& [function, values] = *static_cast<Call*>(argument);
    std::apply(function, values);
  };
  run(name, grid, block, dynamic_bytes, run_thread, &call);
}

}  // namespace cuda_sim

#define threadIdx (::cuda_sim::launch_state.current->index)
#define blockIdx (::cuda_sim::launch_state.block_index)
#define blockDim (::cuda_sim::launch_state.block)
#define gridDim (::cuda_sim::launch_state.grid)

#define CUDA_SIM_FIRST(first, ...) (first)
#define CUDA_SIM_SHUFFLE(source, mask, value, where, width, ...) \
  ::cuda_sim::shuffle((mask), (value), ::cuda_sim::source((where), (width)), __LINE__)

#define __syncthreads() ::cuda_sim::barrier(__LINE__)
#define __syncwarp(...)                                             \
  (void)::cuda_sim::warp_operation(::cuda_sim::WarpOperation::sync, \
                                   CUDA_SIM_FIRST(__VA_ARGS__ __VA_OPT__(, ) 0xffffffffu), 0, 0, __LINE__)
#define __shfl_sync(mask, value, ...) CUDA_SIM_SHUFFLE(source_index, mask, value, __VA_ARGS__, 32, 0)
#define __shfl_down_sync(mask, value, ...) CUDA_SIM_SHUFFLE(source_down, mask, value, __VA_ARGS__, 32, 0)
#define __shfl_up_sync(mask, value, ...) CUDA_SIM_SHUFFLE(source_up, mask, value, __VA_ARGS__, 32, 0)
#define __shfl_xor_sync(mask, value, ...) CUDA_SIM_SHUFFLE(source_xor, mask, value, __VA_ARGS__, 32, 0)
#define __ballot_sync(mask, vote) \
  ((unsigned)::cuda_sim::warp_operation(::cuda_sim::WarpOperation::ballot, (mask), !!(vote), 0, __LINE__))
#define __any_sync(mask, vote) (__ballot_sync(mask, vote) != 0)
#define __all_sync(mask, vote) (__ballot_sync(mask, !(vote)) == 0)

// The same names as in csrc/cuda/device.h, where nvcc finds them.
#define FASTCAM_SHARED(T, name, ...) \
  using name##_type = T __VA_ARGS__; \
  static char name##_key;            \
  auto& name = *static_cast<name##_type*>(::cuda_sim::shared_variable(&name##_key, sizeof(name##_type)))
#define FASTCAM_DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(::cuda_sim::launch_state.dynamic_memory)
#define FASTCAM_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::cuda_sim::launch(#kernel, kernel, (grid), (block), (shared_bytes), (stream), __VA_ARGS__)
