// Sums of rows, one block a row: shuffles inside the warps, shared memory between them.
#include "../cuda_sim.h"

__device__ float warp_sum(float value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffff, value, offset);
  return value;
}

__global__ void __launch_bounds__(128)
    row_sums(const float* __restrict__ in, float* __restrict__ out, int rows, int columns) {
  FASTCAM_SHARED(float, parts, [4]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    float sum = 0;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += in[row * columns + i];
#if defined(BUG_EXITED_LANES)
    if (lane >= 24) return;
#elif defined(BUG_WAITS_FOR_BOTH)
    if (lane >= 24) __syncthreads();
#elif defined(BUG_MASK_WITHOUT_CALLER)
    __syncwarp(0x00ffffff);
#elif defined(BUG_TWO_OPERATIONS)
    if (lane < 16) sum += __shfl_xor_sync(0xffffffff, sum, 1);
#endif
    sum = warp_sum(sum);
    if (lane == 0) parts[warp] = sum;
#if defined(BUG_DIVERGENT_BARRIER)
    if (warp < 2)
      __syncthreads();
    else
#endif
#if !defined(BUG_MISSING_BARRIER)
      __syncthreads();
#endif
    if (warp == 0) {
      sum = warp_sum(lane < 4 ? parts[lane] : 0.0F);
#if defined(BUG_ONE_OUTPUT)
      if (lane == 0) out[row / 2] = sum;
#else
      if (lane == 0) out[row] = sum;
#endif
    }
#if !defined(BUG_MISSING_LAST_BARRIER)
    __syncthreads();  // the parts are written again
#endif
  }
}

inline void launch_row_sums(const float* in, float* out, int rows, int columns) {
  FASTCAM_LAUNCH(row_sums, (rows + 1) / 2, 128, 0, nullptr, in, out, rows, columns);
}
