// Bilinear resampling of maps on the device. The extremes of a map come from the few outputs at the ends of its
// source intervals (see cpu/resample.h).
#pragma once
#include "channel_reduction.h"

namespace fastcam::cuda {

// One axis of the resampling: `source` positions to `size` outputs.
template <class Acc>
struct Axis {
  int source, size;
  Acc scale;

  Axis(int source, int size) : source(source), size(size), scale(static_cast<Acc>(source) / static_cast<Acc>(size)) {}

  FASTCAM_DEVICE Interval<Acc, int> at(int output) const { return source_interval(output, source, scale); }

  // The first output that lies at source position `position` or after it: an estimate, then exactly.
  FASTCAM_DEVICE int first_output(int position) const {
    auto output = static_cast<int>((static_cast<Acc>(position) + Acc(0.5)) / scale - Acc(0.5));
    output = output < 0 ? 0 : (output > size ? size : output);
    while (output > 0 && at(output - 1).lower >= position) --output;
    while (output < size && at(output).lower < position) ++output;
    return output;
  }

  // The first (`end` = 0) or last (1) output of a source interval; some output where the interval has none.
  FASTCAM_DEVICE int interval_end(int position, int end) const {
    const int output = end == 0 ? first_output(position) : first_output(position + 1) - 1;
    return output < 0 ? 0 : (output < size ? output : size - 1);
  }
};

// The source row `row`, resampled at one column.
template <class T, class Acc>
FASTCAM_DEVICE Acc across(const T* map, int row, const Axis<Acc>& x, int column) {
  const T* line = map + static_cast<int64_t>(row) * x.source;
  const Interval<Acc, int> between = x.at(column);
  return mix(Acc(widen(line[between.lower])), Acc(widen(line[between.upper])), between.fraction);
}

// Lowest and highest value of the block's threads; every thread gets them.
template <class Acc>
FASTCAM_DEVICE void block_extremes(Acc& low, Acc& high) {
  FASTCAM_SHARED(Acc, lows, [kThreads]);
  FASTCAM_SHARED(Acc, highs, [kThreads]);
  __syncthreads();  // those of an earlier map may still be read
  lows[threadIdx.x] = low;
  highs[threadIdx.x] = high;
  for (unsigned width = kThreads / 2; width > 0; width /= 2) {
    __syncthreads();
    if (threadIdx.x < width) {
      lows[threadIdx.x] = lows[threadIdx.x] < lows[threadIdx.x + width] ? lows[threadIdx.x] : lows[threadIdx.x + width];
      highs[threadIdx.x] =
          highs[threadIdx.x] > highs[threadIdx.x + width] ? highs[threadIdx.x] : highs[threadIdx.x + width];
    }
  }
  __syncthreads();
  low = lows[0];
  high = highs[0];
}

// Lowest and highest output of a map, found by the whole block; NaN where a source value is not finite. A warp takes a
// row of the source, each lane some of its columns, and looks at the four corners of their intervals.
template <class T, class Acc>
FASTCAM_DEVICE void find_block_extremes(const T* map, const Axis<Acc>& y, const Axis<Acc>& x, Acc& low, Acc& high) {
  Acc zero = 0;
  low = std::numeric_limits<Acc>::infinity();
  high = -low;
  for (int row = threadIdx.x / kWarp; row < y.source; row += kWarps) {
    for (int column = threadIdx.x % kWarp; column < x.source; column += kWarp) {
      zero += Acc(widen(map[static_cast<int64_t>(row) * x.source + column])) * Acc(0);  // NaN if not finite
      for (int corner = 0; corner < 4; ++corner) {
        const int line = y.interval_end(row, corner / 2), at = x.interval_end(column, corner % 2);
        const Interval<Acc, int> rows = y.at(line);
        const Acc value = mix(across(map, rows.lower, x, at), across(map, rows.upper, x, at), rows.fraction);
        low = value < low ? value : low;
        high = value > high ? value : high;
      }
    }
  }
  zero = block_sum(zero);
  block_extremes(low, high);
  low += zero;
  high += zero;
}

// (count, 2): the extremes of every map.
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    find_extremes(const T* __restrict__ maps, accumulator_t<T>* __restrict__ extremes, int64_t count,
                  const Axis<accumulator_t<T>> y, const Axis<accumulator_t<T>> x) {
  for (int64_t index = blockIdx.x; index < count; index += gridDim.x) {
    accumulator_t<T> low, high;
    find_block_extremes(maps + index * y.source * x.source, y, x, low, high);
    if (threadIdx.x == 0) {
      extremes[2 * index] = low;
      extremes[2 * index + 1] = high;
    }
  }
}

// What becomes of the values of a map: they stay where there are no extremes.
template <class Acc>
FASTCAM_DEVICE MinMax<Acc> min_max_of(const Acc* extremes, int64_t index) {
  if (extremes == nullptr) return {};
  return {extremes[2 * index], extremes[2 * index + 1]};
}

// The same in a kernel that writes outputs: of a small map every block finds the extremes itself, those of a larger one
// are in memory.
template <bool kIsSmall, class T, class Acc>
FASTCAM_DEVICE MinMax<Acc> min_max_of(const T* map, const Axis<Acc>& y, const Axis<Acc>& x, const Acc* extremes,
                                      int64_t index) {
  if constexpr (!kIsSmall) return min_max_of(extremes, index);
  Acc low, high;
  find_block_extremes(map, y, x, low, high);
  return {low, high};
}

constexpr int kLines = 8;  // of a strip: those that a thread writes, one under the other

// A thread's columns of a map, down the lines of its strip: a source row is resampled across once, as long as the
// lines stay between the same two rows.
template <class Acc, int kSize>
struct Strip {
  Acc above[kSize], below[kSize];
  int row = -1;

  // values[k]: the map at `line` and column_of(k).
  template <class T, class Column>
  FASTCAM_DEVICE void resample(const T* map, const Axis<Acc>& y, const Axis<Acc>& x, int line, const Column& column_of,
                               Acc (&values)[kSize]) {
    const Interval<Acc, int> rows = y.at(line);
    if (rows.lower != row) {
      row = rows.lower;
#pragma unroll
      for (int k = 0; k < kSize; ++k) {
        above[k] = across(map, rows.lower, x, column_of(k));
        below[k] = across(map, rows.upper, x, column_of(k));
      }
    }
#pragma unroll
    for (int k = 0; k < kSize; ++k) values[k] = mix(above[k], below[k], rows.fraction);
  }
};

}  // namespace fastcam::cuda
