// The shape and the strides of a channel reduction, in elements: (N, K, C, P), positions flattened.
#pragma once
#include "arithmetic.h"

namespace fastcam {

struct Strides {
  int64_t image, target, channel, position;
};

struct Sizes {
  int64_t images, targets, channels, positions;
  FASTCAM_INLINE int64_t rows() const { return images * targets; }
};

}  // namespace fastcam
