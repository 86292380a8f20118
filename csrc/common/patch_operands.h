// What gathering patches works on: tensors checked and in one memory layout, the windows allocated.
#pragma once
#include "tensors.h"

namespace fastcam {

inline void check_indices(const Tensor& clean, const Tensor& indices, const char* label, int64_t count, bool pairs) {
  STD_TORCH_CHECK(indices.dim() == (pairs ? 2 : 1) && indices.size(0) == count && (!pairs || indices.size(1) == 2) &&
                      indices.scalar_type() == ScalarType::Long && same_device(clean, indices),
                  "`", label, "` must be int64 of shape (", count, pairs ? ", 2)" : ",)",
                  " on the device of `clean`, got shape ", shape_text(indices));
}

inline void check_patches(const Tensor& clean, const Tensor& patches) {
  check_floating(clean, "clean");
  STD_TORCH_CHECK(clean.dim() == 4, "`clean` must have shape (N, C, H, W), got ", shape_text(clean));
  STD_TORCH_CHECK(patches.dim() == 4 && patches.size(1) == clean.size(1), "`patches` must have shape (M, ",
                  clean.size(1), ", h, w), got ", shape_text(patches));
  STD_TORCH_CHECK(patches.scalar_type() == clean.scalar_type() && same_device(clean, patches),
                  "`patches` must have the dtype and device of `clean`");
}

// (N, C, H, W) as (N, H, W, C), without a copy.
inline Tensor with_channels_last(const Tensor& tensor) {
  return torch::stable::transpose(torch::stable::transpose(tensor, 1, 2), 2, 3);
}

// Planes of rows: C planes for NCHW, one plane with C elements a pixel for NHWC.
struct PatchOperands {
  Tensor clean, images, patches, origins, windows, memory, out;  // `out` is `memory` as (M, C, height, width)
  int64_t planes, values;                                        // elements of a pixel
};

inline PatchOperands patch_operands(Tensor clean, Tensor images, Tensor patches, Tensor origins, Tensor windows,
                                    const std::vector<int64_t>& size) {
  check_patches(clean, patches);
  STD_TORCH_CHECK(size.size() == 2 && size[0] > 0 && size[1] > 0,
                  "`size` must be two positive numbers (height, width)");
  const int64_t count = patches.size(0), channels = clean.size(1);
  check_indices(clean, images, "images", count, false);
  check_indices(clean, origins, "origins", count, true);
  check_indices(clean, windows, "windows", count, true);
  const bool last = !clean.is_contiguous() && with_channels_last(clean).is_contiguous();
  Tensor memory = last ? torch::stable::new_empty(clean, {count, size[0], size[1], channels})
                       : torch::stable::new_empty(clean, {count, channels, size[0], size[1]});
  Tensor out = last ? torch::stable::transpose(torch::stable::transpose(memory, 2, 3), 1, 2) : memory;
  return {last ? clean : torch::stable::contiguous(clean),
          torch::stable::contiguous(images),
          torch::stable::contiguous(last ? with_channels_last(patches) : patches),
          torch::stable::contiguous(origins),
          torch::stable::contiguous(windows),
          memory,
          out,
          last ? 1 : channels,
          last ? channels : 1};
}

}  // namespace fastcam
