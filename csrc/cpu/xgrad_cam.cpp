#include "channel_reduction.h"

namespace fastcam {

Tensor xgrad_cam(Tensor activations, Tensor gradients, double eps, bool relu) {
  return reduce_elements<RuleWeights>(activations, gradients, "gradients", XGradCamRule{eps}, relu);
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("xgrad_cam", TORCH_BOX(&fastcam::xgrad_cam)); }
