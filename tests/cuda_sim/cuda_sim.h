// CUDA for tests, on the CPU: sources of kernels compile with g++ as C++20 and run with one fiber per CUDA thread.
// README.md beside this file says what is modelled, what is not, and which tool finds which bug.
#pragma once
#include <atomic>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstring>
#include <type_traits>

#include "runtime/launch.h"
#include "runtime/pipeline.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

// A static shared array, FASTCAM_SHARED(float, tile, [32][33]), and the launch's dynamic one. Static ones are told
// apart by the address of a variable at the place of their declaration.
#define FASTCAM_SHARED(T, name, ...)              \
  static char name##_key;                         \
  using name##_type = T __VA_ARGS__;              \
  name##_type& name = *static_cast<name##_type*>( \
      ::cuda_sim::scheduler->shared_array(&name##_key, sizeof(name##_type), alignof(name##_type)))
#define FASTCAM_DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(::cuda_sim::scheduler->dynamic_array())

#define FASTCAM_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::cuda_sim::launch(#kernel, kernel, grid, block, shared_bytes, stream __VA_OPT__(, ) __VA_ARGS__)

inline constexpr int warpSize = cuda_sim::kWarpSize;

// Barriers and warp operations know where they were called.
inline void __syncthreads(cuda_sim::Site site = cuda_sim::Site::current()) { cuda_sim::scheduler->barrier(site); }

inline void __syncwarp(unsigned mask = 0xffffffff, cuda_sim::Site site = cuda_sim::Site::current()) {
  cuda_sim::scheduler->warp_operation(cuda_sim::Operation::sync, mask, 0, 0, site);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, cuda_sim::Site site = cuda_sim::Site::current()) {
  return cuda_sim::scheduler->warp_operation(cuda_sim::Operation::ballot, mask, predicate != 0, 0, site);
}
inline int __any_sync(unsigned mask, int predicate, cuda_sim::Site site = cuda_sim::Site::current()) {
  return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, cuda_sim::Site site = cuda_sim::Site::current()) {
  return __ballot_sync(mask, predicate == 0, site) == 0;
}

namespace cuda_sim {

// The value of lane `source`, which is a lane of the whole warp.
template <class T>
T shuffle(unsigned mask, T value, int source, const Site& site) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "a shuffle moves up to 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = scheduler->warp_operation(Operation::shuffle, mask, bits, source, site);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The last lane of the caller's group of `width` lanes.
inline int last_of_group(int width) {
  if (width < 1 || width > warpSize || !std::has_single_bit(static_cast<unsigned>(width))) {
    scheduler->fail("a shuffle has width %d; a power of two up to 32 is allowed", width);
  }
  return static_cast<int>(scheduler->lane()) | (width - 1);
}

}  // namespace cuda_sim

// A lane whose source would lie outside its group gets its own value.
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = warpSize, cuda_sim::Site site = cuda_sim::Site::current()) {
  const int last = cuda_sim::last_of_group(width);
  return cuda_sim::shuffle(mask, value, last - (width - 1) + (lane & (width - 1)), site);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   cuda_sim::Site site = cuda_sim::Site::current()) {
  const int last = cuda_sim::last_of_group(width), own = cuda_sim::scheduler->lane();
  return cuda_sim::shuffle(mask, value, delta <= static_cast<unsigned>(last - own) ? own + delta : own, site);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                 cuda_sim::Site site = cuda_sim::Site::current()) {
  const int first = cuda_sim::last_of_group(width) - (width - 1), own = cuda_sim::scheduler->lane();
  return cuda_sim::shuffle(mask, value, delta <= static_cast<unsigned>(own - first) ? own - delta : own, site);
}

// Groups before the caller's can be read, too.
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize,
                  cuda_sim::Site site = cuda_sim::Site::current()) {
  const int last = cuda_sim::last_of_group(width), own = cuda_sim::scheduler->lane(), other = own ^ lane_mask;
  return cuda_sim::shuffle(mask, value, other >= 0 && other <= last ? other : own, site);
}

// Relaxed, as on the device: ThreadSanitizer takes them for no order of other memory. The types are CUDA's.
template <class T>
concept AtomicInteger = std::same_as<T, int> || std::same_as<T, unsigned> || std::same_as<T, unsigned long long>;
template <class T>
concept AtomicNumber = AtomicInteger<T> || std::same_as<T, float> || std::same_as<T, double>;

template <AtomicNumber T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return std::atomic_ref<T>(*address).fetch_add(value, std::memory_order_relaxed);
}

template <AtomicInteger T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  std::atomic_ref<T> target(*address);
  T old = target.load(std::memory_order_relaxed);
  while (old < value && !target.compare_exchange_weak(old, value, std::memory_order_relaxed)) continue;
  return old;
}

template <AtomicInteger T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  std::atomic_ref<T> target(*address);
  T old = target.load(std::memory_order_relaxed);
  while (value < old && !target.compare_exchange_weak(old, value, std::memory_order_relaxed)) continue;
  return old;
}

template <class T>
T __ldg(const T* address) {
  return *address;
}

// Of integers of any two types, as CUDA has them; of floating point the one that is not NaN.
template <std::integral A, std::integral B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <std::integral A, std::integral B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }
inline float rsqrtf(float x) { return 1.0F / std::sqrt(x); }
