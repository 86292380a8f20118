#include "channel_reduction.h"

namespace fastcam::cuda {

void xgrad_cam(const Reduction& reduction, double eps, Stream stream) {
  reduce_by_rule(reduction, XGradCamRule{eps}, stream);
}

}  // namespace fastcam::cuda
