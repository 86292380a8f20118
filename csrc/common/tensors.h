// Tensors as the channel reductions see them: (N, K, C, P), positions flattened, strides in elements.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Dispatch_v2.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <string>
#include <vector>

#include "sizes.h"

#define FASTCAM_DISPATCH(TYPE, ...)                                                            \
  THO_DISPATCH_V2(TYPE, "fastcam", AT_WRAP(__VA_ARGS__), torch::headeronly::ScalarType::Float, \
                  torch::headeronly::ScalarType::Double, torch::headeronly::ScalarType::Half,  \
                  torch::headeronly::ScalarType::BFloat16)

namespace fastcam {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline std::string shape_text(const Tensor& tensor) {
  std::string text = "(";
  for (int64_t i = 0; i < tensor.dim(); ++i) text += (i ? ", " : "") + std::to_string(tensor.size(i));
  return text + ")";
}

inline ScalarType accumulation_dtype(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// The stride of the flattened axes [first, dim), or nothing where they do not flatten without a copy.
inline std::optional<int64_t> flattened_stride(const Tensor& tensor, int64_t first) {
  std::optional<int64_t> inner;
  int64_t expected = 0;
  for (int64_t i = tensor.dim() - 1; i >= first; --i) {
    if (tensor.size(i) == 1) continue;
    if (!inner) {
      inner = tensor.stride(i);
    } else if (tensor.stride(i) != expected) {
      return std::nullopt;
    }
    expected = tensor.stride(i) * tensor.size(i);
  }
  return inner.value_or(1);
}

// `tensor` is (N, C, *S), or (N, K, C, *S) with `has_targets`.
inline std::optional<Strides> strides_of(const Tensor& tensor, bool has_targets) {
  const int64_t channel = has_targets ? 2 : 1;
  const std::optional<int64_t> position = flattened_stride(tensor, channel + 1);
  if (!position) return std::nullopt;
  return Strides{tensor.stride(0), has_targets ? tensor.stride(1) : 0, tensor.stride(channel), *position};
}

// (N, [K,] *S): the shape of the maps that come from activations (N, C, *S).
inline std::vector<int64_t> map_shape(const Tensor& activations, std::optional<int64_t> targets) {
  std::vector<int64_t> shape{activations.size(0)};
  if (targets) shape.push_back(*targets);
  for (int64_t i = 2; i < activations.dim(); ++i) shape.push_back(activations.size(i));
  return shape;
}

inline int64_t position_count(const Tensor& activations) {
  int64_t count = 1;
  for (int64_t i = 2; i < activations.dim(); ++i) count *= activations.size(i);
  return count;
}

inline bool same_device(const Tensor& one, const Tensor& other) {
  return one.is_cpu() == other.is_cpu() && one.get_device_index() == other.get_device_index();
}

inline void check_floating(const Tensor& tensor, const char* label) {
  const ScalarType dtype = tensor.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
                      dtype == ScalarType::BFloat16,
                  "fastcam: `", label, "` must be float32, float64, float16 or bfloat16, got ",
                  torch::headeronly::toString(dtype));
}

inline void check_activations(const Tensor& activations) {
  check_floating(activations, "activations");
  STD_TORCH_CHECK(activations.dim() >= 3,
                  "`activations` must have shape (N, C, ...) with at least one spatial axis, got ",
                  shape_text(activations));
}

// `other` (named `label`) must be (N, C, *S) like the activations, or (N, K, C, *S).
inline void check_like_activations(const Tensor& activations, const Tensor& other, const char* label) {
  const int64_t extra = other.dim() - activations.dim();
  bool same = extra == 0 || extra == 1;
  for (int64_t i = 0; same && i < activations.dim(); ++i) {
    same = activations.size(i) == other.size(i == 0 ? 0 : i + extra);
  }
  STD_TORCH_CHECK(same, "`", label, "` must have the shape of `activations` ", shape_text(activations),
                  " or one more axis K after N, got ", shape_text(other));
  STD_TORCH_CHECK(activations.scalar_type() == other.scalar_type(), "`", label,
                  "` must have the dtype of `activations`");
  STD_TORCH_CHECK(same_device(activations, other), "`", label, "` must be on the device of `activations`");
}

inline void check_channel_weights(const Tensor& activations, const Tensor& weights) {
  const int64_t last = weights.dim() - 1;
  const bool fits = (weights.dim() == 2 || weights.dim() == 3) && weights.size(0) == activations.size(0) &&
                    weights.size(last) == activations.size(1);
  STD_TORCH_CHECK(fits, "`weights` must have shape (N, C), (N, K, C), that of `activations` ", shape_text(activations),
                  ", or that with an axis K after N, got ", shape_text(weights));
  STD_TORCH_CHECK(
      weights.scalar_type() == activations.scalar_type() || weights.scalar_type() == accumulation_dtype(activations),
      "`weights` must have the dtype of `activations` or its accumulation dtype");
  STD_TORCH_CHECK(same_device(activations, weights), "`weights` must be on the device of `activations`");
}

// Whether `weights` are (N, C, *S) or (N, K, C, *S), one per element, and not (N, C) or (N, K, C).
inline bool are_element_weights(const Tensor& activations, const Tensor& weights) {
  if (weights.dim() > activations.dim()) return true;
  if (weights.dim() != activations.dim()) return false;
  for (int64_t i = 0; i < weights.dim(); ++i) {
    if (weights.size(i) != activations.size(i)) return weights.dim() > 3;
  }
  return true;
}

// The result of resampling maps (..., h, w) to `size`, both checked.
inline Tensor new_resampled(const Tensor& maps, const std::vector<int64_t>& size) {
  check_floating(maps, "maps");
  const int64_t axes = maps.dim();
  STD_TORCH_CHECK(axes >= 3, "`maps` must have shape (N, h, w) or (N, K, h, w), got ", shape_text(maps));
  STD_TORCH_CHECK(size.size() == 2 && size[0] > 0 && size[1] > 0, "`size` must be two positive numbers (H, W)");
  STD_TORCH_CHECK(maps.size(axes - 2) > 0 && maps.size(axes - 1) > 0, "`maps` must have at least one position, got ",
                  shape_text(maps));
  std::vector<int64_t> shape;
  for (int64_t i = 0; i + 2 < axes; ++i) shape.push_back(maps.size(i));
  shape.insert(shape.end(), size.begin(), size.end());
  return torch::stable::new_empty(maps, shape);
}

// Maps (N, [K,] h, w) and where they are to be written resampled, (N, [K,] H, W).
inline void check_resampled(const Tensor& maps, const Tensor& out) {
  check_floating(maps, "maps");
  const int64_t axes = maps.dim();
  STD_TORCH_CHECK(axes >= 3 && maps.size(axes - 2) > 0 && maps.size(axes - 1) > 0,
                  "`maps` must have shape (N, h, w) or (N, K, h, w) with at least one position, got ",
                  shape_text(maps));
  bool fits = out.dim() == axes && out.size(axes - 2) > 0 && out.size(axes - 1) > 0;
  for (int64_t i = 0; fits && i + 2 < axes; ++i) fits = out.size(i) == maps.size(i);
  STD_TORCH_CHECK(fits, "`out` must have the shape of `maps` ", shape_text(maps), " but for height and width, got ",
                  shape_text(out));
  STD_TORCH_CHECK(out.scalar_type() == maps.scalar_type() && same_device(out, maps),
                  "`out` must have the dtype and be on the device of `maps`");
  STD_TORCH_CHECK(out.is_contiguous(), "`out` must be contiguous");
}

// Pictures (..., H, W, 3) to lay the colours of maps (..., H, W) over.
inline void check_overlay(const Tensor& images, const Tensor& maps, const Tensor& colors, double alpha) {
  check_floating(maps, "maps");
  bool fits = images.dim() == maps.dim() + 1 && images.size(maps.dim()) == 3;
  for (int64_t i = 0; fits && i < maps.dim(); ++i) fits = images.size(i) == maps.size(i);
  STD_TORCH_CHECK(fits, "`images` must have shape (..., H, W, 3) for maps (..., H, W), got ", shape_text(images),
                  " and ", shape_text(maps));
  STD_TORCH_CHECK(images.scalar_type() == ScalarType::Byte && same_device(images, maps),
                  "`images` must be uint8 and on the device of `maps`");
  STD_TORCH_CHECK(colors.dim() == 2 && colors.size(0) == 256 && colors.size(1) == 3 &&
                      colors.scalar_type() == ScalarType::Byte && same_device(images, colors),
                  "`colors` must be uint8 of shape (256, 3) on the device of `images`, got shape ", shape_text(colors));
  STD_TORCH_CHECK(alpha >= 0 && alpha <= 1, "`alpha` must lie in [0, 1], got ", alpha);
}

}  // namespace fastcam
