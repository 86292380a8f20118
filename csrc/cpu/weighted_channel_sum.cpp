#include "channel_reduction.h"

namespace fastcam {
namespace {

void check_channel_weights(const Tensor& activations, const Tensor& weights) {
  const int64_t last = weights.dim() - 1;
  const bool fits = (weights.dim() == 2 || weights.dim() == 3) && weights.size(0) == activations.size(0) &&
                    weights.size(last) == activations.size(1);
  STD_TORCH_CHECK(fits, "`weights` must have shape (N, C), (N, K, C), that of `activations` ", shape_text(activations),
                  ", or that with an axis K after N, got ", shape_text(weights));
  STD_TORCH_CHECK(
      weights.scalar_type() == activations.scalar_type() || weights.scalar_type() == accumulation_dtype(activations),
      "`weights` must have the dtype of `activations` or its accumulation dtype");
  STD_TORCH_CHECK(weights.is_cpu(), "`weights` must be on the device of `activations`, the CPU");
}

// Up to so many maps of an image come from the chunked kernel, whose bits depend on nothing but the image.
constexpr int64_t kFewTargets = 8;

// Many maps are a matrix product, (N, K, C) x (N, C, P), for which the library's own is the fastest.
Tensor sum_targets(const Tensor& activations, const Tensor& weights, bool relu) {
  const ScalarType dtype = accumulation_dtype(activations);
  const Sizes sizes{activations.size(0), weights.size(1), activations.size(1), position_count(activations)};
  Tensor flat = torch::stable::reshape(activations, {sizes.images, sizes.channels, sizes.positions});
  Tensor maps = torch::stable::matmul(torch::stable::to(weights, dtype), torch::stable::to(flat, dtype));
  if (relu) {
    FASTCAM_DISPATCH(dtype, [&] {
      auto* out = maps.mutable_data_ptr<scalar_t>();
      torch::stable::parallel_for(0, maps.numel(), 32768, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) out[i] = rectify(out[i]);
      });
    });
  }
  return torch::stable::reshape(maps, map_shape(activations, sizes.targets));
}

Tensor sum_channels(Tensor activations, Tensor weights, bool relu) {
  weights = torch::stable::to(weights, accumulation_dtype(activations));
  std::optional<int64_t> targets;
  if (weights.dim() == 3) targets = weights.size(1);
  const Sizes sizes{activations.size(0), targets.value_or(1), activations.size(1), position_count(activations)};
  Tensor maps = torch::stable::new_empty(activations, map_shape(activations, targets), accumulation_dtype(activations));
  if (maps.numel() == 0) return maps;
  if (activations.numel() == 0) return torch::stable::zero_(maps);

  auto as = strides_of(activations, false);
  const bool planes = as && sizes.positions > 1 && as->position == 1;
  const bool rows = as && !planes && (sizes.channels == 1 || as->channel == 1);
  if (!planes && !rows) {
    activations = torch::stable::contiguous(activations);
    as = strides_of(activations, false);
  }
  const Strides ws{weights.stride(0), targets ? weights.stride(1) : 0, weights.stride(weights.dim() - 1), 1};
  FASTCAM_DISPATCH(activations.scalar_type(), [&] {
    const auto* a = activations.const_data_ptr<scalar_t>();
    const auto* w = weights.const_data_ptr<accumulator_t<scalar_t>>();
    auto* out = maps.mutable_data_ptr<accumulator_t<scalar_t>>();
    if (rows) {
      reduce_chunks<ChannelWeights::Rows>(ElementWeightRule{}, a, *as, w, ws, sizes, relu, out);
    } else {
      reduce_chunks<ChannelWeights::Planes>(ElementWeightRule{}, a, *as, w, ws, sizes, relu, out);
    }
  });
  return maps;
}

bool are_element_weights(const Tensor& activations, const Tensor& weights) {
  if (weights.dim() > activations.dim()) return true;
  if (weights.dim() != activations.dim()) return false;
  for (int64_t i = 0; i < weights.dim(); ++i) {
    if (weights.size(i) != activations.size(i)) return weights.dim() > 3;
  }
  return true;
}

}  // namespace

Tensor weighted_channel_sum(Tensor activations, Tensor weights, bool relu) {
  check_activations(activations);
  if (are_element_weights(activations, weights)) {
    return reduce_elements<ElementWeights>(activations, weights, "weights", ElementWeightRule{}, relu);
  }
  check_channel_weights(activations, weights);
  const bool many = weights.dim() == 3 && weights.size(1) > kFewTargets;
  return many ? sum_targets(activations, weights, relu) : sum_channels(activations, weights, relu);
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) {
  m.impl("weighted_channel_sum", TORCH_BOX(&fastcam::weighted_channel_sum));
}
