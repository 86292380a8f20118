#include "channel_reduction.h"

namespace fastcam::cuda {

void grad_cam(const Reduction& reduction, Stream stream) { reduce_by_rule(reduction, GradCamRule{}, stream); }

}  // namespace fastcam::cuda
