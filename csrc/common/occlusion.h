// What occlusion works on: tensors checked and in one memory layout, the copies allocated.
#pragma once
#include "images.h"

namespace fastcam {

// The baseline as an image (or N images) in the memory layout of the images.
inline Tensor baseline_images(const Tensor& images, const Tensor& baseline, bool last) {
  const int64_t axes = images.dim();
  std::vector<int64_t> shape(axes, 1);
  bool fits = baseline.dim() <= 1 || baseline.dim() == axes - 1 || baseline.dim() == axes;
  if (fits && baseline.dim() == 1) shape[1] = baseline.size(0);
  for (int64_t i = 0; fits && baseline.dim() > 1 && i < baseline.dim(); ++i) {
    shape[axes - baseline.dim() + i] = baseline.size(i);
  }
  for (int64_t i = 0; fits && i < axes; ++i) fits = shape[i] == 1 || shape[i] == images.size(i);
  STD_TORCH_CHECK(fits, "`baseline` must be a number () or have shape (C,), (C, ...) or (N, C, ...) for images ",
                  shape_text(images), ", got ", shape_text(baseline));
  Tensor view = torch::stable::reshape(baseline, shape);
  std::vector<int64_t> full(axes);
  for (int64_t i = 0; i < axes; ++i) full[i] = i == 0 ? shape[0] : images.size(i);
  Tensor out = new_images(images, full, 1, last);
  return torch::stable::copy_(out, view);
}

struct OcclusionOperands {
  Tensor images, windows, baseline, copies;
  bool last;          // the channels of a position lie side by side
  int64_t limits[3];  // depth, height, width
  int64_t axes() const { return images.dim() - 2; }
  int64_t planes() const { return last ? 1 : images.size(1); }
  int64_t channels_inside() const { return last ? images.size(1) : 1; }
};

inline OcclusionOperands occlusion_operands(Tensor images, Tensor windows, const Tensor& baseline) {
  const int64_t axes = images.dim() - 2;
  STD_TORCH_CHECK(axes >= 1 && axes <= 3, "`images` must have shape (N, C, ...) with 1 to 3 spatial axes, got ",
                  shape_text(images));
  STD_TORCH_CHECK(windows.dim() == 3 && windows.size(1) == 2 && windows.size(2) == axes &&
                      windows.scalar_type() == ScalarType::Long && same_device(images, windows),
                  "`windows` must be int64 of shape (M, 2, ", axes, ") on the device of the images, got shape ",
                  shape_text(windows));
  STD_TORCH_CHECK(baseline.scalar_type() == images.scalar_type() && same_device(images, baseline),
                  "`baseline` must have the dtype and device of `images`");
  const bool last = !images.is_contiguous() && is_channels_last(images);
  if (!last) images = torch::stable::contiguous(images);
  std::vector<int64_t> shape{images.size(0), windows.size(0)};
  for (int64_t i = 1; i < images.dim(); ++i) shape.push_back(images.size(i));
  OcclusionOperands found{images,
                          torch::stable::contiguous(windows),
                          baseline_images(images, baseline, last),
                          new_images(images, shape, 2, last),
                          last,
                          {1, 1, 1}};
  for (int64_t i = 0; i < axes; ++i) found.limits[3 - axes + i] = images.size(2 + i);
  return found;
}

}  // namespace fastcam
