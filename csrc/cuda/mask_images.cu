// Copies of images, each under one map: every output is written once, and no mask is ever in memory. The extremes of
// small maps are found on the way, those of larger ones before.
#include "resample.h"

namespace fastcam::cuda {
namespace {

// One line of one plane, times the mask.
template <class T, class Acc, int kSize>
FASTCAM_DEVICE void mask_pack(const T* line, const Acc (&mask)[kSize], T* out, int left, bool aligned) {
  Pack<T> pack = load_pack(line, left, aligned);
#pragma unroll
  for (int k = 0; k < kSize; ++k) narrow(mask[k] * Acc(widen(pack.v[k])), pack.v[k]);
  store_pack(out, pack, left, aligned);
}

// A thread keeps its place in a line (one pack) and goes down the lines of a strip, each line in every plane.
template <bool kIsSmall, class T>
__global__ void __launch_bounds__(kThreads, 2)
    mask_planes(const T* __restrict__ images, const accumulator_t<T>* __restrict__ maps,
                const accumulator_t<T>* __restrict__ extremes, T* __restrict__ copies, const Masking m,
                const Axis<accumulator_t<T>> y, const Axis<accumulator_t<T>> x, bool aligned) {
  using Acc = accumulator_t<T>;
  constexpr int kSize = Pack<T>::size;
  const int values = static_cast<int>(m.values), length = x.size * values;
  const unsigned packs = (length + kSize - 1) / kSize, strips = (y.size + kLines - 1) / kLines;
  const unsigned inside = blockIdx.x * kThreads + threadIdx.x;
  const bool has_outputs = inside < packs * strips;
  if (!kIsSmall && !has_outputs) return;  // of small maps the whole block finds the extremes
  const int place = inside % packs * kSize, first = inside / packs * kLines;
  const int left = length - place, last = first + kLines < y.size ? first + kLines : y.size;
  const auto column_of = [=](int k) { return (k < left ? place + k : place) / values; };
  const int64_t plane = static_cast<int64_t>(y.size) * length;
  for (int64_t index = blockIdx.y; index < m.image_count * m.count; index += gridDim.y) {
    const Acc* map = maps + index * y.source * x.source;
    const MinMax<Acc> min_max = min_max_of<kIsSmall>(map, y, x, extremes, index);
    if (!has_outputs) continue;
    Strip<Acc, kSize> strip;
    for (int line = first; line < last; ++line) {
      Acc mask[kSize];
      strip.resample(map, y, x, line, column_of, mask);
#pragma unroll
      for (int k = 0; k < kSize; ++k) mask[k] = min_max(mask[k]);
      const int64_t start = static_cast<int64_t>(line) * length + place;
      const T* source = images + index / m.count * m.planes * plane + start;
      T* target = copies + index * m.planes * plane + start;
      for (int64_t p = 0; p < m.planes; ++p) mask_pack(source + p * plane, mask, target + p * plane, left, aligned);
    }
  }
}

template <class T>
void launch_masks(const Masking& m, cudaStream_t stream) {
  using Acc = accumulator_t<T>;
  const Axis<Acc> y(static_cast<int>(m.height), static_cast<int>(m.lines));
  const Axis<Acc> x(static_cast<int>(m.width), static_cast<int>(m.columns));
  const auto *maps = static_cast<const Acc*>(m.maps), *extremes = static_cast<const Acc*>(m.extremes);
  if (m.extremes != nullptr) {
    FASTCAM_LAUNCH((find_extremes<Acc>), grid_size(m.image_count * m.count), kThreads, 0, stream, maps,
                   static_cast<Acc*>(m.extremes), m.image_count * m.count, y, x);
  }
  const int64_t length = m.columns * m.values, packs = (length + Pack<T>::size - 1) / Pack<T>::size;
  const int64_t threads = packs * ((m.lines + kLines - 1) / kLines);
  const dim3 grid(static_cast<unsigned>((threads + kThreads - 1) / kThreads), grid_size(m.image_count * m.count));
  const bool aligned = length % Pack<T>::size == 0 && reinterpret_cast<uintptr_t>(m.images) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(m.copies) % 16 == 0;
  const auto* images = static_cast<const T*>(m.images);
  auto* copies = static_cast<T*>(m.copies);
  if (m.normalize && is_small_map(m.height, m.width)) {
    FASTCAM_LAUNCH((mask_planes<true, T>), grid, kThreads, 0, stream, images, maps, extremes, copies, m, y, x, aligned);
  } else {
    FASTCAM_LAUNCH((mask_planes<false, T>), grid, kThreads, 0, stream, images, maps, extremes, copies, m, y, x,
                   aligned);
  }
}

}  // namespace

void mask_images(const Masking& masking, Stream opaque) {
  auto stream = static_cast<cudaStream_t>(opaque);
  dispatch(masking.dtype, [&](auto zero) { launch_masks<decltype(zero)>(masking, stream); });
}

}  // namespace fastcam::cuda
