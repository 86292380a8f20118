// Windows of activations with a changed patch pasted in: where each element comes from, for CPU and CUDA.
#pragma once
#include "windows.h"

namespace fastcam {

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
