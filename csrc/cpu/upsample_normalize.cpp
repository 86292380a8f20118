#include "../common/tensors.h"
#include "run.h"

#include <algorithm>
#include <limits>

namespace fastcam {
namespace {

// One axis of bilinear resampling: output i = (1 - fraction) * source[lower] + fraction * source[upper].
template <class Acc>
struct Axis {
  std::vector<int64_t> lower, upper;
  std::vector<Acc> fraction;
  std::vector<int64_t> ends;  // first and last output of each source interval

  Axis(int64_t source, int64_t size) : lower(size), upper(size), fraction(size) {
    const Acc scale = static_cast<Acc>(source) / static_cast<Acc>(size);
    for (int64_t i = 0; i < size; ++i) {
      const Interval<Acc, int64_t> interval = source_interval(i, source, scale);
      lower[i] = interval.lower;
      upper[i] = interval.upper;
      fraction[i] = interval.fraction;
    }
    for (int64_t i = 0; i < size; ++i) {
      const bool first = i == 0 || lower[i] != lower[i - 1];
      const bool last = i + 1 == size || lower[i] != lower[i + 1];
      if (first || last) ends.push_back(i);
    }
  }
};

// Resamples one map. Between two source pixels a bilinear map is monotone along each axis, so its
// extremes lie at the ends of the source intervals: minimum and maximum come from those few
// outputs, and every output is written once.
struct Resample {
  template <class T, class Acc>
  static FASTCAM_INLINE void run(const T* source, const Axis<Acc>& y, const Axis<Acc>& x, int64_t height, int64_t width,
                                 bool normalize, Acc* rows, T* out) {
    const int64_t columns = x.lower.size(), lines = y.lower.size();
    for (int64_t h = 0; h < height; ++h) {
      const T* row = source + h * width;
      for (int64_t j = 0; j < columns; ++j) {
        rows[h * columns + j] =
            mix(static_cast<Acc>(row[x.lower[j]]), static_cast<Acc>(row[x.upper[j]]), x.fraction[j]);
      }
    }
    Acc low = 0, high = 0;
    if (normalize) {
      if (!all_finite(source, height * width)) {
        std::fill_n(out, lines * columns, static_cast<T>(std::numeric_limits<Acc>::quiet_NaN()));
        return;
      }
      find_extremes(y, x, rows, low, high);
      if (is_constant(low, high)) {
        std::fill_n(out, lines * columns, static_cast<T>(Acc(0)));
        return;
      }
    }
    for (int64_t i = 0; i < lines; ++i) {
      const Acc* lower = rows + y.lower[i] * columns;
      const Acc* upper = rows + y.upper[i] * columns;
      const Acc fraction = y.fraction[i];
      T* line = out + i * columns;
      if (normalize) {
#pragma omp simd
        for (int64_t j = 0; j < columns; ++j) {
          line[j] = static_cast<T>(normalized(mix(lower[j], upper[j], fraction), low, high));
        }
      } else {
#pragma omp simd
        for (int64_t j = 0; j < columns; ++j) line[j] = static_cast<T>(mix(lower[j], upper[j], fraction));
      }
    }
  }

  template <class T>
  static FASTCAM_INLINE bool all_finite(const T* source, int64_t count) {
    using Acc = accumulator_t<T>;
    Acc zero = 0;  // a value that is not finite makes it NaN
    for (int64_t i = 0; i < count; ++i) zero += static_cast<Acc>(source[i]) * Acc(0);
    return zero == Acc(0);
  }

  template <class Acc>
  static FASTCAM_INLINE void find_extremes(const Axis<Acc>& y, const Axis<Acc>& x, const Acc* rows, Acc& low,
                                           Acc& high) {
    const int64_t columns = x.lower.size();
    bool first = true;
    for (const int64_t i : y.ends) {
      for (const int64_t j : x.ends) {
        const Acc value = mix(rows[y.lower[i] * columns + j], rows[y.upper[i] * columns + j], y.fraction[i]);
        low = first || value < low ? value : low;
        high = first || value > high ? value : high;
        first = false;
      }
    }
  }
};

template <class T>
void resample_all(const T* maps, int64_t count, int64_t height, int64_t width, int64_t lines, int64_t columns,
                  bool normalize, T* out) {
  using Acc = accumulator_t<T>;
  const Axis<Acc> y(height, lines), x(width, columns);
  const int64_t grain = std::max<int64_t>(1, 32768 / (lines * columns));
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    std::vector<Acc> rows(height * columns);
    for (int64_t i = begin; i < end; ++i) {
      const T* source = maps + i * height * width;
      run<Resample>(source, y, x, height, width, normalize, rows.data(), out + i * lines * columns);
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
    resample_all(maps.const_data_ptr<scalar_t>(), count, height, width, size[0], size[1], normalize,
                 out.mutable_data_ptr<scalar_t>());
  });
  return out;
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("upsample_normalize", TORCH_BOX(&fastcam::upsample_normalize)); }
