#include "channel_reduction.h"

namespace fastcam {
namespace {

Tensor sum_targets(const Tensor& activations, const Tensor& weights, bool relu) {
  const Tensor maps = target_products(activations, weights);
  if (!relu) return maps;
  FASTCAM_DISPATCH(maps.scalar_type(), [&] {
    auto* out = maps.mutable_data_ptr<scalar_t>();
    torch::stable::parallel_for(0, maps.numel(), 32768, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) out[i] = rectify(out[i]);
    });
  });
  return maps;
}

Tensor sum_channels(Tensor activations, Tensor weights, bool relu) {
  const Operands found = channel_operands(activations, weights);
  if (found.empty) return found.maps;
  FASTCAM_DISPATCH(found.activations.scalar_type(), [&] {
    const auto* a = found.activations.const_data_ptr<scalar_t>();
    const auto* w = found.weights.const_data_ptr<accumulator_t<scalar_t>>();
    auto* out = found.maps.mutable_data_ptr<accumulator_t<scalar_t>>();
    if (found.rows) {
      reduce_chunks<ChannelWeights::Rows>(ElementWeightRule{}, a, found.as, w, found.ws, found.sizes, relu, out);
    } else {
      reduce_chunks<ChannelWeights::Planes>(ElementWeightRule{}, a, found.as, w, found.ws, found.sizes, relu, out);
    }
  });
  return found.maps;
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
