// What a channel reduction works on: tensors checked, brought to a memory layout that runs as it is, maps allocated.
#pragma once
#include "moments.h"
#include "tensors.h"

namespace fastcam {

// Up to so many maps of an image come from the chunked kernels, whose bits depend on nothing but the image.
constexpr int64_t kFewTargets = 8;

struct Operands {
  Tensor activations, weights, maps;
  Strides as{}, ws{};
  Sizes sizes{};
  bool rows = false;   // the channels of a position lie side by side (NHWC); otherwise the positions of a channel do
  bool empty = false;  // nothing to read: the maps are what they must be

  // Chooses between the two layouts; a tensor in neither is copied once. Channel weights have no positions.
  void choose_layout(bool has_targets, bool per_element) {
    const auto flatten = [&] {
      const auto a = strides_of(activations, false);
      const auto w = per_element ? strides_of(weights, has_targets)
                                 : Strides{weights.stride(0), has_targets ? weights.stride(1) : 0,
                                           weights.stride(weights.dim() - 1), 1};
      if (!a || !w) return false;
      as = *a;
      ws = *w;
      return true;
    };
    const bool flat = flatten();
    const bool planes = flat && sizes.positions > 1 && as.position == 1 && (ws.position == 1 || ws.position == 0);
    rows = flat && !planes && (sizes.channels == 1 || (as.channel == 1 && (ws.channel == 1 || !per_element)));
    if (planes || rows) return;
    activations = torch::stable::contiguous(activations);
    if (per_element) weights = torch::stable::contiguous(weights);
    flatten();
  }
};

inline Operands operands(Tensor activations, Tensor weights, bool has_targets, bool per_element) {
  Operands found{activations, weights, activations};
  found.sizes = {activations.size(0), has_targets ? weights.size(1) : 1, activations.size(1),
                 position_count(activations)};
  std::optional<int64_t> targets;
  if (has_targets) targets = found.sizes.targets;
  found.maps = torch::stable::new_empty(activations, map_shape(activations, targets), accumulation_dtype(activations));
  found.empty = found.maps.numel() == 0 || activations.numel() == 0;
  if (found.empty) {
    if (found.maps.numel() > 0) found.maps = torch::stable::zero_(found.maps);
  } else {
    found.choose_layout(has_targets, per_element);
  }
  return found;
}

// Activations (N, C, *S) and gradients or element weights of that shape or (N, K, C, *S).
inline Operands element_operands(Tensor activations, Tensor weights, const char* label) {
  check_activations(activations);
  check_like_activations(activations, weights, label);
  return operands(activations, weights, weights.dim() > activations.dim(), true);
}

// Activations (N, C, *S) and channel weights (N, C) or (N, K, C), which are brought to the accumulation dtype.
inline Operands channel_operands(Tensor activations, Tensor weights) {
  weights = torch::stable::to(weights, accumulation_dtype(activations));
  return operands(activations, weights, weights.dim() == 3, false);
}

// Maps of many targets, before their ReLU: a matrix product, (N, K, C) x (N, C, P), for which the library's own is
// the fastest.
inline Tensor target_products(const Tensor& activations, const Tensor& weights) {
  const ScalarType dtype = accumulation_dtype(activations);
  const Tensor flat =
      torch::stable::reshape(activations, {activations.size(0), activations.size(1), position_count(activations)});
  const Tensor maps = torch::stable::matmul(torch::stable::to(weights, dtype), torch::stable::to(flat, dtype));
  return torch::stable::reshape(maps, map_shape(activations, weights.size(1)));
}

// Activations (N, C, *S) alone, of whose planes there is one number, or several: the maps are of `shape`.
inline Operands plane_operands(Tensor activations, const std::vector<int64_t>& shape) {
  Operands found{activations, activations, activations};
  found.sizes = {activations.size(0), 1, activations.size(1), position_count(activations)};
  STD_TORCH_CHECK(found.sizes.positions > 0, "`activations` must have at least one position, got ",
                  shape_text(activations));
  found.maps = torch::stable::new_empty(activations, shape, accumulation_dtype(activations));
  found.empty = found.maps.numel() == 0;
  if (!found.empty) {
    found.choose_layout(false, true);
    found.weights = found.activations;
    found.ws = found.as;
  }
  return found;
}

// For the mean of each channel, (N, C).
inline Operands mean_operands(Tensor activations) {
  check_activations(activations);
  return plane_operands(activations, {activations.size(0), activations.size(1)});
}

// For the moments of each plane, (kMoments, N, C).
inline Operands moment_operands(Tensor activations) {
  check_activations(activations);
  const int64_t positions = position_count(activations);
  STD_TORCH_CHECK(positions <= (int64_t{1} << 24), "a plane must have at most 2^24 positions, got ", positions);
  return plane_operands(activations, {kMoments, activations.size(0), activations.size(1)});
}

}  // namespace fastcam
