#include "channel_reduction.h"

namespace fastcam {

Tensor layer_cam(Tensor activations, Tensor gradients, bool relu) {
  return reduce_elements<ElementWeights>(activations, gradients, "gradients", LayerCamRule{}, relu);
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("layer_cam", TORCH_BOX(&fastcam::layer_cam)); }
