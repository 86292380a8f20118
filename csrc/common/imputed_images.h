// What imputation works on: tensors checked, the result allocated.
#pragma once
#include "images.h"

namespace fastcam {

struct ImputationOperands {
  Tensor images, missing, out;  // the mask contiguous
  int64_t planes() const { return images.size(0) * images.size(1); }
  int64_t lines() const { return images.size(2); }
  int64_t columns() const { return images.size(3); }
};

inline ImputationOperands imputation_operands(const Tensor& images, const Tensor& missing, double tolerance) {
  check_floating(images, "images");
  STD_TORCH_CHECK(images.dim() == 4, "`images` must have shape (N, C, H, W), got ", shape_text(images));
  const bool fits = missing.dim() == 3 && missing.size(0) == images.size(0) && missing.size(1) == images.size(2) &&
                    missing.size(2) == images.size(3);
  STD_TORCH_CHECK(fits, "`missing` must have shape (N, H, W) for images ", shape_text(images), ", got ",
                  shape_text(missing));
  STD_TORCH_CHECK(missing.scalar_type() == ScalarType::Bool && same_device(images, missing),
                  "`missing` must be bool and on the device of `images`");
  STD_TORCH_CHECK(tolerance > 0, "`tolerance` must be above 0, got ", tolerance);
  STD_TORCH_CHECK((images.size(2) + 3) * (images.size(3) + 3) < INT32_MAX,
                  "one plane must have fewer than 2^31 elements, got ", shape_text(images));
  const bool last = !images.is_contiguous() && is_channels_last(images);
  return {images, torch::stable::contiguous(missing),
          new_images(images, {images.size(0), images.size(1), images.size(2), images.size(3)}, 1, last)};
}

}  // namespace fastcam
