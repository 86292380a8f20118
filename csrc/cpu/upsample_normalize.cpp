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

void upsample_normalize_into(Tensor maps, bool normalize, Tensor out) {
  check_resampled(maps, out);
  if (out.numel() == 0) return;
  const int64_t axes = maps.dim();
  const int64_t height = maps.size(axes - 2), width = maps.size(axes - 1);
  const int64_t lines = out.size(axes - 2), columns = out.size(axes - 1);
  const int64_t count = out.numel() / (lines * columns);
  maps = torch::stable::contiguous(maps);
  FASTCAM_DISPATCH(maps.scalar_type(), [&] {
    const Resampling<accumulator_t<scalar_t>> by(height, width, lines, columns);
    resample_all(maps.const_data_ptr<scalar_t>(), count, by, normalize, out.mutable_data_ptr<scalar_t>());
  });
}

Tensor upsample_normalize(Tensor maps, std::vector<int64_t> size, bool normalize) {
  const Tensor out = new_resampled(maps, size);
  upsample_normalize_into(maps, normalize, out);
  return out;
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) {
  m.impl("upsample_normalize", TORCH_BOX(&fastcam::upsample_normalize));
  m.impl("upsample_normalize_into", TORCH_BOX(&fastcam::upsample_normalize_into));
}
