// out = factor * in, 16 bytes at a time: no barrier, no shared memory.
#include "../cuda_sim.h"

__global__ void scaled(const float* __restrict__ in, float* __restrict__ out, int count, float factor) {
  const int first = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
  if (first >= count) return;
#if defined(BUG_MISALIGNED)
  const float4 v = __ldg(reinterpret_cast<const float4*>(in + first + (first == 8)));
#else
  const float4 v = __ldg(reinterpret_cast<const float4*>(in + first));
#endif
  *reinterpret_cast<float4*>(out + first) = make_float4(factor * v.x, factor * v.y, factor * v.z, factor * v.w);
}

inline void launch_scaled(const float* in, float* out, int count, double factor) {
  FASTCAM_LAUNCH(scaled, (count / 4 + 63) / 64, 64, 0, nullptr, in, out, count, factor);
}
