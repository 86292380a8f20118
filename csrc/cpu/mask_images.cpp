// Copies of images, each under one map: a line of the mask is resampled, multiplies that line of every plane, and makes
// room for the next. Every output is written once; no mask is ever there as a whole.
#include "../common/masking.h"
#include "resample.h"

#include <algorithm>

namespace fastcam {
namespace {

// Planes of lines: C planes for NCHW, one plane with C elements a pixel for NHWC.
struct Geometry {
  int64_t planes, values;
};

// A line of an image times that of the mask, `values` elements a pixel (known when compiled, or 0).
template <int64_t known, class T, class Acc>
FASTCAM_INLINE void multiply_line(const T* line, const Acc* mask, int64_t columns, int64_t values, T* out) {
  const int64_t count = known > 0 ? known : values;
  for (int64_t j = 0; j < columns; ++j) {
    for (int64_t c = 0; c < count; ++c) {
      out[j * count + c] = static_cast<T>(mask[j] * static_cast<Acc>(line[j * count + c]));
    }
  }
}

template <class T, class Acc>
FASTCAM_INLINE void mask_line(const T* line, const Acc* mask, int64_t columns, int64_t values, T* out) {
  if (values == 1) return multiply_line<1>(line, mask, columns, values, out);
  if (values == 3) return multiply_line<3>(line, mask, columns, values, out);
  multiply_line<0>(line, mask, columns, values, out);
}

// One copy; `rows` and `mask` are room for the resampled rows of the map and one line of the mask.
struct Mask {
  template <class T, class Acc>
  static FASTCAM_INLINE void run(const T* image, const Acc* map, const Resampling<Acc>& by, const Geometry& geometry,
                                 bool normalize, Acc* rows, Acc* mask, T* copy) {
    const int64_t length = by.columns * geometry.values;
    resample_rows(map, by, rows);
    const MinMax<Acc> min_max = min_max_of(map, by, rows, normalize);
    for (int64_t i = 0; i < by.lines; ++i) {
      resample_line(rows, by, i, min_max, mask);
      for (int64_t p = 0; p < geometry.planes; ++p) {
        const int64_t first = (p * by.lines + i) * length;
        mask_line(image + first, mask, by.columns, geometry.values, copy + first);
      }
    }
  }
};

template <class T>
void mask_all(const MaskOperands& found, bool normalize) {
  using Acc = accumulator_t<T>;
  const Resampling<Acc> by(found.maps.size(2), found.maps.size(3), found.lines(), found.columns());
  const Geometry geometry{found.planes, found.values};
  const T* images = found.images.const_data_ptr<T>();
  const Acc* maps = found.maps.const_data_ptr<Acc>();
  T* copies = found.copies.mutable_data_ptr<T>();
  const int64_t count = found.count(), size = found.images.numel() / found.images.size(0);
  const int64_t grain = std::max<int64_t>(1, 32768 / size);
  torch::stable::parallel_for(0, found.maps.size(0) * count, grain, [&](int64_t begin, int64_t end) {
    std::vector<Acc> rows(by.height * by.columns), mask(by.columns);
    for (int64_t i = begin; i < end; ++i) {
      run<Mask>(images + i / count * size, maps + i * by.height * by.width, by, geometry, normalize, rows.data(),
                mask.data(), copies + i * size);
    }
  });
}

}  // namespace

Tensor mask_images(Tensor images, Tensor maps, bool normalize) {
  const MaskOperands found = mask_operands(images, maps);
  if (found.copies.numel() == 0) return found.copies;
  FASTCAM_DISPATCH(images.scalar_type(), [&] { mask_all<scalar_t>(found, normalize); });
  return found.copies;
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("mask_images", TORCH_BOX(&fastcam::mask_images)); }
