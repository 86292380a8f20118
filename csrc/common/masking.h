// What masking works on: tensors checked and in one memory layout, the copies allocated.
#pragma once
#include "images.h"

namespace fastcam {

inline void check_masking(const Tensor& images, const Tensor& maps) {
  check_floating(images, "images");
  STD_TORCH_CHECK(images.dim() == 4, "`images` must have shape (N, C, H, W), got ", shape_text(images));
  STD_TORCH_CHECK(maps.dim() == 4 && maps.size(0) == images.size(0) && maps.size(2) > 0 && maps.size(3) > 0,
                  "`maps` must have shape (", images.size(0), ", K, h, w) with at least one position, for images ",
                  shape_text(images), ", got ", shape_text(maps));
  STD_TORCH_CHECK(maps.scalar_type() == images.scalar_type() || maps.scalar_type() == accumulation_dtype(images),
                  "`maps` must have the dtype of `images` or its accumulation dtype");
  STD_TORCH_CHECK(same_device(images, maps), "`maps` must be on the device of `images`");
}

// Planes of lines: C planes for NCHW, one plane with C elements a pixel for NHWC.
struct MaskOperands {
  Tensor images, maps, copies;  // maps in the accumulation dtype
  int64_t planes, values;       // elements of a pixel
  int64_t count() const { return maps.size(1); }
  int64_t lines() const { return images.size(2); }
  int64_t columns() const { return images.size(3); }
};

inline MaskOperands mask_operands(const Tensor& images, const Tensor& maps) {
  check_masking(images, maps);
  const bool last = !images.is_contiguous() && is_channels_last(images);
  const int64_t channels = images.size(1);
  return {last ? images : torch::stable::contiguous(images),
          torch::stable::contiguous(torch::stable::to(maps, accumulation_dtype(images))),
          new_images(images, {images.size(0), maps.size(1), channels, images.size(2), images.size(3)}, 2, last),
          last ? 1 : channels, last ? channels : 1};
}

}  // namespace fastcam
