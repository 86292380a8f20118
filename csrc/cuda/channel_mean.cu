#include "channel_reduction.h"

namespace fastcam::cuda {

// The mean is Grad-CAM's weight of what is averaged.
void channel_mean(const Reduction& reduction, Stream stream) { reduce_to_weights(reduction, GradCamRule{}, stream); }

}  // namespace fastcam::cuda
