// Bilinear resampling of maps on the CPU: the rows of a map across first, then two of them for every output line.
#pragma once
#include <algorithm>
#include <limits>
#include <vector>

#include "run.h"

namespace fastcam {

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

// Maps of height x width to lines x columns.
template <class Acc>
struct Resampling {
  int64_t height, width, lines, columns;
  Axis<Acc> y, x;

  Resampling(int64_t height, int64_t width, int64_t lines, int64_t columns)
      : height(height), width(width), lines(lines), columns(columns), y(height, lines), x(width, columns) {}
};

// (height, columns): every row of a map at the columns of the output.
template <class T, class Acc>
FASTCAM_INLINE void resample_rows(const T* map, const Resampling<Acc>& by, Acc* rows) {
  for (int64_t h = 0; h < by.height; ++h) {
    const T* row = map + h * by.width;
    for (int64_t j = 0; j < by.columns; ++j) {
      rows[h * by.columns + j] =
          mix(static_cast<Acc>(row[by.x.lower[j]]), static_cast<Acc>(row[by.x.upper[j]]), by.x.fraction[j]);
    }
  }
}

template <class T>
FASTCAM_INLINE bool all_finite(const T* values, int64_t count) {
  using Acc = accumulator_t<T>;
  Acc zero = 0;  // a value that is not finite makes it NaN
  for (int64_t i = 0; i < count; ++i) zero += static_cast<Acc>(values[i]) * Acc(0);
  return zero == Acc(0);
}

// What becomes of the lines of a map. Between two source pixels a bilinear map is monotone along each axis, so its
// extremes lie at the ends of the source intervals: minimum and maximum come from those few outputs.
template <class T, class Acc>
FASTCAM_INLINE MinMax<Acc> min_max_of(const T* map, const Resampling<Acc>& by, const Acc* rows, bool normalize) {
  if (!normalize) return {};
  if (!all_finite(map, by.height * by.width)) {
    return {std::numeric_limits<Acc>::quiet_NaN(), std::numeric_limits<Acc>::quiet_NaN()};
  }
  Acc low = 0, high = 0;
  bool first = true;
  for (const int64_t i : by.y.ends) {
    const Acc *lower = rows + by.y.lower[i] * by.columns, *upper = rows + by.y.upper[i] * by.columns;
    for (const int64_t j : by.x.ends) {
      const Acc value = mix(lower[j], upper[j], by.y.fraction[i]);
      low = first || value < low ? value : low;
      high = first || value > high ? value : high;
      first = false;
    }
  }
  return {low, high};
}

// One line of the output. What is the same for the whole line is decided before the loops, so that they vectorise.
template <class T, class Acc>
FASTCAM_INLINE void resample_line(const Acc* rows, const Resampling<Acc>& by, int64_t i, const MinMax<Acc>& min_max,
                                  T* line) {
  const Acc *lower = rows + by.y.lower[i] * by.columns, *upper = rows + by.y.upper[i] * by.columns;
  const Acc fraction = by.y.fraction[i];
  const int64_t columns = by.columns;
  if (!min_max.normalize) {
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) line[j] = static_cast<T>(mix(lower[j], upper[j], fraction));
  } else if (min_max.constant) {
    std::fill_n(line, columns, static_cast<T>(Acc(0)));
  } else {
    const Acc low = min_max.low, high = min_max.high;
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) {
      line[j] = static_cast<T>(normalized(mix(lower[j], upper[j], fraction), low, high));
    }
  }
}

}  // namespace fastcam
