// Windows of activations with a changed patch pasted in: where each element comes from, for CPU and CUDA.
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

// One axis of a window, in its own indices: which lie in the map, and which of these in the patch.
struct WindowAxis {
  Range map{0, 0}, patch{0, 0};
  int64_t clean_start = 0, patch_start = 0;  // coordinates of map.start in the map, of patch.start in the patch

  FASTCAM_INLINE WindowAxis(int64_t window, int64_t size, int64_t origin, int64_t extent, int64_t limit) {
    const Range inside = clipped(window, size, limit);
    if (inside.start >= inside.stop) return;
    map = {inside.start - window, inside.stop - window};
    clean_start = inside.start;
    const Range changed = clipped(origin, extent, limit);
    const Range both{most(inside.start, changed.start), least(inside.stop, changed.stop)};
    if (both.start >= both.stop) return;
    patch = {both.start - window, both.stop - window};
    patch_start = both.start - origin;
  }
};

}  // namespace fastcam
