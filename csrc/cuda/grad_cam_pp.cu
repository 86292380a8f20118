#include "channel_reduction.h"

namespace fastcam::cuda {

void grad_cam_pp(const Reduction& reduction, Stream stream) { reduce_by_rule(reduction, GradCamPPRule{}, stream); }

}  // namespace fastcam::cuda
