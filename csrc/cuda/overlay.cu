// Colours of maps over pictures, in bytes: a thread blends four pixels, twelve bytes in three words.
#include "channel_reduction.h"

namespace fastcam::cuda {
namespace {

constexpr int kPixels = 4, kColors = 256 * 3;

// The bytes of four pixels.
struct alignas(4) Pixels {
  uint8_t v[3 * kPixels];
};

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    overlay_pixels(const uint8_t* __restrict__ images, const T* __restrict__ maps, const uint8_t* __restrict__ colors,
                   float alpha, int64_t count, uint8_t* __restrict__ out, bool aligned) {
  FASTCAM_SHARED(uint8_t, table, [kColors]);
  for (int i = threadIdx.x; i < kColors; i += kThreads) table[i] = colors[i];
  __syncthreads();
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kPixels;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kPixels; i < count; i += step) {
    const bool whole = aligned && i + kPixels <= count;
    Pixels before{}, after;
    if (whole) before = *reinterpret_cast<const Pixels*>(images + 3 * i);
#pragma unroll
    for (int k = 0; k < kPixels; ++k) {
      if (i + k >= count) break;
      const auto value = static_cast<float>(widen(maps[i + k]));
      const uint8_t* pixel = whole ? before.v + 3 * k : images + 3 * (i + k);
      overlay_pixel(pixel, value, table, alpha, whole ? after.v + 3 * k : out + 3 * (i + k));
    }
    if (whole) *reinterpret_cast<Pixels*>(out + 3 * i) = after;
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
