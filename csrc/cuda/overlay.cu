// Colours of maps over pictures, in bytes: a thread blends four pixels, twelve bytes in three words.
#include "channel_reduction.h"

namespace fastcam::cuda {
namespace {

constexpr int kPixels = 4, kColors = 256 * 3;

// The bytes of four pixels: three words where they are aligned to words, else one byte at a time.
struct alignas(4) Pixels {
  static constexpr int size = 3 * kPixels;
  uint8_t v[size];
};

FASTCAM_DEVICE Pixels load_pixels(const uint8_t* source, int64_t bytes, bool aligned) {
  if (aligned && bytes >= Pixels::size) return *reinterpret_cast<const Pixels*>(source);
  Pixels pixels;
#pragma unroll
  for (int i = 0; i < Pixels::size; ++i) pixels.v[i] = i < bytes ? source[i] : 0;
  return pixels;
}

FASTCAM_DEVICE void store_pixels(uint8_t* target, const Pixels& pixels, int64_t bytes, bool aligned) {
  if (aligned && bytes >= Pixels::size) {
    *reinterpret_cast<Pixels*>(target) = pixels;
    return;
  }
#pragma unroll
  for (int i = 0; i < Pixels::size; ++i) {
    if (i < bytes) target[i] = pixels.v[i];
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    overlay_pixels(const uint8_t* __restrict__ images, const T* __restrict__ maps, const uint8_t* __restrict__ colors,
                   float alpha, int64_t count, uint8_t* __restrict__ out, bool aligned) {
  FASTCAM_SHARED(uint8_t, table, [kColors]);
  for (int i = threadIdx.x; i < kColors; i += kThreads) table[i] = colors[i];
  __syncthreads();
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kPixels;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kPixels; i < count; i += step) {
    const int64_t bytes = 3 * (count - i);
    const Pixels before = load_pixels(images + 3 * i, bytes, aligned);
    Pixels after;
#pragma unroll
    for (int k = 0; k < kPixels; ++k) {
      const float value = i + k < count ? static_cast<float>(widen(maps[i + k])) : 0.0F;
      overlay_pixel(before.v + 3 * k, value, table, alpha, after.v + 3 * k);
    }
    store_pixels(out + 3 * i, after, bytes, aligned);
  }
}

}  // namespace

void overlay(Dtype dtype, const uint8_t* images, const void* maps, const uint8_t* colors, float alpha, int64_t count,
             uint8_t* out, Stream opaque) {
  auto stream = static_cast<cudaStream_t>(opaque);
  const bool aligned = (reinterpret_cast<uintptr_t>(images) | reinterpret_cast<uintptr_t>(out)) % 4 == 0;
  dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    FASTCAM_LAUNCH((overlay_pixels<T>), grid_size((count + kThreads * kPixels - 1) / (kThreads * kPixels)), kThreads, 0,
                   stream, images, static_cast<const T*>(maps), colors, alpha, count, out, aligned);
  });
}

}  // namespace fastcam::cuda
