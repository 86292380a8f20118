// Images (N, C, *S) as they lie in memory: contiguous, or with the channels of a position side by side.
#pragma once
#include <algorithm>

#include "tensors.h"

namespace fastcam {

inline bool is_channels_last(const Tensor& images) {
  int64_t expected = images.size(1);
  if (images.size(1) > 1 && images.stride(1) != 1) return false;
  for (int64_t i = images.dim() - 1; i >= 2; --i) {
    if (images.size(i) > 1 && images.stride(i) != expected) return false;
    expected *= images.size(i);
  }
  return images.size(0) <= 1 || images.stride(0) == expected;
}

// (..., C, *S) over new memory laid out as (..., *S, C) where `last`, `lead` axes before C.
inline Tensor new_images(const Tensor& like, std::vector<int64_t> shape, int64_t lead, bool last) {
  if (!last) return torch::stable::new_empty(like, shape);
  std::rotate(shape.begin() + lead, shape.begin() + lead + 1, shape.end());
  Tensor images = torch::stable::new_empty(like, shape);
  const int64_t end = images.dim() - 1;
  for (int64_t i = lead; i < end; ++i) images = torch::stable::transpose(images, i, end);
  return images;
}

}  // namespace fastcam
