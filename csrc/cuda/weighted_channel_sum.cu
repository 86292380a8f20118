#include "channel_reduction.h"

namespace fastcam::cuda {
namespace {

template <class Acc>
__global__ void __launch_bounds__(kThreads, 2) rectify_values(Acc* values, int64_t count) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    values[i] = rectify(values[i]);
  }
}

template <class Acc>
void launch_rectify(void* values, int64_t count, cudaStream_t stream) {
  FASTCAM_LAUNCH((rectify_values<Acc>), grid_size((count + kThreads - 1) / kThreads), kThreads, 0, stream,
                 static_cast<Acc*>(values), count);
}

}  // namespace

void weighted_channel_sum(const Reduction& reduction, bool per_element, Stream stream) {
  if (per_element) return reduce_weighted<Weighting::element>(reduction, ElementWeightRule{}, stream);
  reduce_weighted<Weighting::given>(reduction, ElementWeightRule{}, stream);
}

void rectify_in_place(Dtype dtype, void* values, int64_t count, Stream opaque) {
  auto stream = static_cast<cudaStream_t>(opaque);
  if (dtype == Dtype::float64) return launch_rectify<double>(values, count, stream);
  launch_rectify<float>(values, count, stream);
}

}  // namespace fastcam::cuda
