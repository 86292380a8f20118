#include "channel_reduction.h"

namespace fastcam::cuda {

void layer_cam(const Reduction& reduction, Stream stream) {
  reduce_weighted<Weighting::element>(reduction, LayerCamRule{}, stream);
}

}  // namespace fastcam::cuda
