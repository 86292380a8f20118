// One source, two compilers: nvcc makes CUDA kernels of the .cu files, g++ makes functions of them that
// the simulator of tests/cuda_sim runs on the CPU. Number types, 16-byte packs and launches for both.
#pragma once
#include "../common/arithmetic.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>
#include <cuda_runtime.h>
#define FASTCAM_SHARED(T, name, ...) __shared__ T name __VA_ARGS__
#define FASTCAM_DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char fastcam_dynamic_shared[]; \
  T* name = reinterpret_cast<T*>(fastcam_dynamic_shared)
#define FASTCAM_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#else
#include <cstring>

#include "cuda_sim.h"
#endif

#define FASTCAM_DEVICE __device__ __forceinline__

namespace fastcam::cuda {

constexpr int kThreads = 256;  // of every block; two blocks at least share a multiprocessor: 128 registers a thread
constexpr int kWarp = 32, kWarps = kThreads / kWarp;

// The bits of a 16-bit float; a type of our own, so that no header of CUDA or torch is needed to name it.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using accumulator_t = typename AccumulatorOf<T>::type;

FASTCAM_DEVICE float widen(float x) { return x; }
FASTCAM_DEVICE double widen(double x) { return x; }

#if defined(__CUDACC__)
FASTCAM_DEVICE float widen(Half x) { return __half2float(__ushort_as_half(x.bits)); }
FASTCAM_DEVICE float widen(BFloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
FASTCAM_DEVICE void narrow(float x, Half& out) { out.bits = __half_as_ushort(__float2half_rn(x)); }
FASTCAM_DEVICE void narrow(float x, BFloat16& out) { out.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
#else
inline float widen(Half x) {
  _Float16 half;
  std::memcpy(&half, &x.bits, sizeof half);
  return half;
}
inline float widen(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline void narrow(float x, Half& out) {
  const _Float16 half = x;
  std::memcpy(&out.bits, &half, sizeof half);
}
inline void narrow(float x, BFloat16& out) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const bool is_nan = x != x;
  out.bits = is_nan ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // to nearest, ties to even
}
#endif
FASTCAM_DEVICE void narrow(float x, float& out) { out = x; }
FASTCAM_DEVICE void narrow(double x, double& out) { out = x; }

// As many elements as one load or store of 16 bytes moves.
template <class T>
struct alignas(16) Pack {
  static constexpr int size = 16 / sizeof(T);
  T v[size];
};

// Up to `count` elements, `stride` apart; zeros after them. The elements are the same whether the load is one
// of 16 bytes (`aligned`: they lie side by side from a multiple of 16 on) or several small ones, so that
// alignment never changes a sum.
template <bool kAligned, class T>
FASTCAM_DEVICE Pack<T> load_pack(const T* source, int64_t count, int64_t stride = 1) {
  if constexpr (kAligned) {
    return *reinterpret_cast<const Pack<T>*>(source);
  } else {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < Pack<T>::size; ++i) pack.v[i] = i < count ? source[i * stride] : T{};
    return pack;
  }
}

template <class T>
FASTCAM_DEVICE Pack<T> load_pack(const T* source, int64_t count, bool aligned, int64_t stride = 1) {
  if (aligned && count >= Pack<T>::size) return load_pack<true>(source, count);
  return load_pack<false>(source, count, stride);
}

// What is loaded at one place of two tensors.
template <class A, class W>
struct Loaded {
  A a;
  W w;
};

// Calls `use(i, load(i))` for i = first, first + step, ... below `end`. So many loads are on their way before the first
// of them is used; they must not branch.
template <int kAtOnce, class Load, class Use>
FASTCAM_DEVICE void for_loaded(int64_t first, int64_t end, int64_t step, const Load& load, const Use& use) {
#pragma unroll 1
  for (int64_t i = first; i < end; i += kAtOnce * step) {
    decltype(load(i)) loaded[kAtOnce] = {};
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (i + k * step < end) loaded[k] = load(i + k * step);
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (i + k * step < end) use(i + k * step, loaded[k]);
    }
  }
}

template <class T>
FASTCAM_DEVICE void store_pack(T* target, const Pack<T>& pack, int64_t count, bool aligned) {
  if (aligned && count >= Pack<T>::size) {
    *reinterpret_cast<Pack<T>*>(target) = pack;
    return;
  }
#pragma unroll
  for (int i = 0; i < Pack<T>::size; ++i) {
    if (i < count) target[i] = pack.v[i];
  }
}

// Copies that go on while the thread does: it has them after `wait_for_copies` of the groups before the last one that
// it closed, and the block after the next barrier.
template <int kBytes>
FASTCAM_DEVICE void copy_async(void* shared_target, const void* source) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "what the hardware copies");
  __pipeline_memcpy_async(shared_target, source, kBytes);
}
FASTCAM_DEVICE void close_copies() { __pipeline_commit(); }
FASTCAM_DEVICE void wait_for_copies() { __pipeline_wait_prior(1); }

// Sums in a fixed order: every lane, or every thread of the block, gets the total.
template <class Acc>
FASTCAM_DEVICE Acc warp_sum(Acc value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

template <class Acc>
FASTCAM_DEVICE Acc block_sum(Acc value) {
  FASTCAM_SHARED(Acc, parts, [kWarps]);
  value = warp_sum(value);
  __syncthreads();  // the parts of an earlier sum may still be read
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = value;
  __syncthreads();
  Acc total = 0;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) total += parts[i];
  return total;
}

// Blocks along one axis of a grid for so many tasks: kernels loop over their tasks, so that no launch exceeds
// what a grid may have (65,535 along y and z).
inline unsigned grid_size(int64_t tasks) { return static_cast<unsigned>(tasks < 65535 ? tasks : 65535); }

}  // namespace fastcam::cuda
