// Windows over an image of up to three axes (depth, height, width), for CPU and CUDA.
#pragma once
#include "arithmetic.h"

namespace fastcam {

FASTCAM_INLINE int64_t least(int64_t one, int64_t other) { return one < other ? one : other; }
FASTCAM_INLINE int64_t most(int64_t one, int64_t other) { return one > other ? one : other; }

struct Range {
  int64_t start, stop;
  FASTCAM_INLINE bool contains(int64_t index) const { return start <= index && index < stop; }
};

// The part of [start, start + size) inside [0, limit).
FASTCAM_INLINE Range clipped(int64_t start, int64_t size, int64_t limit) {
  const int64_t first = least(most(start, 0), limit);
  // Neither sum overflows: the first adds opposite signs, the second stays within `limit`.
  const int64_t stop = start < 0 ? start + size : first + least(size, limit - first);
  return {first, most(first, least(stop, limit))};
}

struct Window {
  int64_t start[3], stop[3];  // clipped to the image

  FASTCAM_INLINE bool empty() const { return start[0] >= stop[0] || start[1] >= stop[1] || start[2] >= stop[2]; }

  FASTCAM_INLINE bool contains(int64_t depth, int64_t height, int64_t width) const {
    return depth >= start[0] && depth < stop[0] && height >= start[1] && height < stop[1] && width >= start[2] &&
           width < stop[2];
  }
};

// `starts_and_sizes` is (2, axes); images of fewer axes than three have length 1 along the first ones.
FASTCAM_INLINE Window clipped_window(const int64_t* starts_and_sizes, int64_t axes, const int64_t (&limits)[3]) {
  Window window{{0, 0, 0}, {1, 1, 1}};
  const int64_t missing = 3 - axes;
  for (int axis = 0; axis < 3; ++axis) {  // a fixed number of turns, so that the window stays in registers
    if (axis < missing) continue;
    const int64_t *start = starts_and_sizes + axis - missing, *size = start + axes;
    const Range range = clipped(*start, most(*size, 0), limits[axis]);
    window.start[axis] = range.start;
    window.stop[axis] = range.stop;
  }
  return window;
}

}  // namespace fastcam
