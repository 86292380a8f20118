// Bilinear resampling and min-max normalisation: every output is written once. The extremes of small maps are found on
// the way, those of larger ones before.
#include "resample.h"

namespace fastcam::cuda {
namespace {

// A thread keeps its columns (one pack) and goes down the lines of a strip.
template <bool kIsSmall, class T>
__global__ void __launch_bounds__(kThreads, 2)
    resample(const T* __restrict__ maps, T* __restrict__ out, const accumulator_t<T>* __restrict__ extremes,
             int64_t count, const Axis<accumulator_t<T>> y, const Axis<accumulator_t<T>> x, bool aligned) {
  using Acc = accumulator_t<T>;
  constexpr int kSize = Pack<T>::size;
  const unsigned packs = (x.size + kSize - 1) / kSize, strips = (y.size + kLines - 1) / kLines;
  const unsigned inside = blockIdx.x * kThreads + threadIdx.x;
  const bool has_outputs = inside < packs * strips;
  if (!kIsSmall && !has_outputs) return;  // of small maps the whole block finds the extremes
  const int column = inside % packs * kSize, first = inside / packs * kLines;
  const int left = x.size - column, last = first + kLines < y.size ? first + kLines : y.size;
  const auto column_of = [=](int k) { return k < left ? column + k : column; };
  for (int64_t index = blockIdx.y; index < count; index += gridDim.y) {
    const T* map = maps + index * y.source * x.source;
    const MinMax<Acc> min_max = min_max_of<kIsSmall>(map, y, x, extremes, index);
    if (!has_outputs) continue;
    Strip<Acc, kSize> strip;
    for (int line = first; line < last; ++line) {
      Acc values[kSize];
      strip.resample(map, y, x, line, column_of, values);
      Pack<T> pack;
#pragma unroll
      for (int k = 0; k < kSize; ++k) narrow(min_max(values[k]), pack.v[k]);
      store_pack(out + (index * y.size + line) * x.size + column, pack, left, aligned);
    }
  }
}

}  // namespace

void upsample_normalize(const Resampling& resampling, Stream opaque) {
  auto stream = static_cast<cudaStream_t>(opaque);
  dispatch(resampling.dtype, [&](auto zero) {
    using T = decltype(zero);
    using Acc = accumulator_t<T>;
    const Axis<Acc> y(static_cast<int>(resampling.height), static_cast<int>(resampling.lines));
    const Axis<Acc> x(static_cast<int>(resampling.width), static_cast<int>(resampling.columns));
    const auto* maps = static_cast<const T*>(resampling.maps);
    auto* out = static_cast<T*>(resampling.out);
    auto* extremes = static_cast<Acc*>(resampling.extremes);
    if (extremes != nullptr) {
      FASTCAM_LAUNCH((find_extremes<T>), grid_size(resampling.count), kThreads, 0, stream, maps, extremes,
                     resampling.count, y, x);
    }
    const bool aligned = reinterpret_cast<uintptr_t>(out) % 16 == 0 && resampling.columns % Pack<T>::size == 0;
    const int64_t packs = (resampling.columns + Pack<T>::size - 1) / Pack<T>::size;
    const int64_t threads = packs * ((resampling.lines + kLines - 1) / kLines);
    const dim3 grid(static_cast<unsigned>((threads + kThreads - 1) / kThreads), grid_size(resampling.count));
    if (resampling.normalize && is_small_map(resampling.height, resampling.width)) {
      FASTCAM_LAUNCH((resample<true, T>), grid, kThreads, 0, stream, maps, out, static_cast<const Acc*>(extremes),
                     resampling.count, y, x, aligned);
    } else {
      FASTCAM_LAUNCH((resample<false, T>), grid, kThreads, 0, stream, maps, out, static_cast<const Acc*>(extremes),
                     resampling.count, y, x, aligned);
    }
  });
}

}  // namespace fastcam::cuda
