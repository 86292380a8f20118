#include "channel_reduction.h"

namespace fastcam {
namespace {

struct MeanPlanes {
  template <class T, class Acc>
  static FASTCAM_INLINE void run(const T* a, int64_t stride, int64_t channels, int64_t positions, Acc* out) {
    sum_rows(channels, positions, out,
             [&](int64_t c) { return [row = a + c * stride](int64_t p) { return static_cast<Acc>(row[p]); }; });
    for (int64_t c = 0; c < channels; ++c) out[c] /= static_cast<Acc>(positions);
  }
};

struct MeanRows {
  template <class T, class Acc>
  static FASTCAM_INLINE void run(const T* a, int64_t stride, int64_t channels, int64_t positions, Acc* out) {
    std::fill_n(out, channels, Acc(0));
    add_rows(positions, channels, out,
             [&](int64_t p) { return [row = a + p * stride](int64_t c) { return static_cast<Acc>(row[c]); }; });
    for (int64_t c = 0; c < channels; ++c) out[c] /= static_cast<Acc>(positions);
  }
};

template <class Kernel, class T, class Acc>
void mean_chunks(const T* a, const Strides& strides, int64_t row_stride, const Sizes& sizes, Acc* out) {
  const int64_t chunks = (sizes.channels + kMaxChunk - 1) / kMaxChunk;
  const int64_t grain = std::max<int64_t>(1, 32768 / (sizes.positions * kMaxChunk));
  torch::stable::parallel_for(0, sizes.images * chunks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / chunks, first = i % chunks * kMaxChunk;
      run<Kernel>(a + n * strides.image + first * strides.channel, row_stride,
                  std::min(kMaxChunk, sizes.channels - first), sizes.positions, out + n * sizes.channels + first);
    }
  });
}

}  // namespace

Tensor channel_mean(Tensor activations) {
  const Operands found = mean_operands(activations);
  if (found.empty) return found.maps;
  FASTCAM_DISPATCH(found.activations.scalar_type(), [&] {
    const auto* a = found.activations.const_data_ptr<scalar_t>();
    auto* out = found.maps.mutable_data_ptr<accumulator_t<scalar_t>>();
    if (found.rows) {
      mean_chunks<MeanRows>(a, found.as, found.as.position, found.sizes, out);
    } else {
      mean_chunks<MeanPlanes>(a, found.as, found.as.channel, found.sizes, out);
    }
  });
  return found.maps;
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("channel_mean", TORCH_BOX(&fastcam::channel_mean)); }
