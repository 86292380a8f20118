#include "../common/tensors.h"
#include "resample.h"

#include <algorithm>

namespace fastcam {
namespace {

// Resamples one map: every output is written once.
struct Resample {
  template <class T, class Acc>
  static FASTCAM_INLINE void run(const T* map, const Resampling<Acc>& by, bool normalize, Acc* rows, T* out) {
    resample_rows(map, by, rows);
    const MinMax<Acc> min_max = min_max_of(map, by, rows, normalize);
    for (int64_t i = 0; i < by.lines; ++i) resample_line(rows, by, i, min_max, out + i * by.columns);
  }
};

template <class T>
void resample_all(const T* maps, int64_t count, const Resampling<accumulator_t<T>>& by, bool normalize, T* out) {
  const int64_t grain = std::max<int64_t>(1, 32768 / (by.lines * by.columns));
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    std::vector<accumulator_t<T>> rows(by.height * by.columns);
    for (int64_t i = begin; i < end; ++i) {
      run<Resample>(maps + i * by.height * by.width, by, normalize, rows.data(), out + i * by.lines * by.columns);
    }
  });
}

}  // namespace

Tensor upsample_normalize(Tensor maps, std::vector<int64_t> size, bool normalize) {
  const Tensor out = new_resampled(maps, size);
  if (out.numel() == 0) return out;
  const int64_t height = maps.size(maps.dim() - 2), width = maps.size(maps.dim() - 1);
  const int64_t count = out.numel() / (size[0] * size[1]);
  maps = torch::stable::contiguous(maps);
  FASTCAM_DISPATCH(maps.scalar_type(), [&] {
    const Resampling<accumulator_t<scalar_t>> by(height, width, size[0], size[1]);
    resample_all(maps.const_data_ptr<scalar_t>(), count, by, normalize, out.mutable_data_ptr<scalar_t>());
  });
  return out;
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("upsample_normalize", TORCH_BOX(&fastcam::upsample_normalize)); }
