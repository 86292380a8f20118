#include "channel_reduction.h"

namespace fastcam {

Tensor grad_cam_pp(Tensor activations, Tensor gradients, bool relu) {
  return reduce_elements<RuleWeights>(activations, gradients, "gradients", GradCamPPRule{}, relu);
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("grad_cam_pp", TORCH_BOX(&fastcam::grad_cam_pp)); }
