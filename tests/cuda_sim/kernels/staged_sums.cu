// Sums of rows, one block a row, through two stages of shared memory: copies fill one while the other is summed.
#include "../cuda_sim.h"

// Threads copy 16 bytes each and sum other elements than those.
__device__ void fetch(float* stage, const float* in, int count) {
  for (int i = 4 * threadIdx.x; i < count; i += 4 * blockDim.x) {
#if defined(BUG_COPY_MISALIGNED)
    __pipeline_memcpy_async(stage + i, in + i + 1, 16);
#else
    __pipeline_memcpy_async(stage + i, in + i, 16);
#endif
  }
}

__global__ void staged_sums(const float* __restrict__ in, float* __restrict__ out, int columns, int width) {
  FASTCAM_DYNAMIC_SHARED(float, stages);
  in += blockIdx.x * columns;
  fetch(stages, in, min(width, columns));
  __pipeline_commit();
  float sum = 0;
  for (int first = 0, stage = 0; first < columns; first += width, stage ^= 1) {
    const int next = first + width;
#if defined(BUG_COPY_PAST_SOURCE)
    if (next < columns) fetch(stages + (stage ^ 1) * width, in + next, width);
#else
    if (next < columns) fetch(stages + (stage ^ 1) * width, in + next, min(width, columns - next));
#endif
#if defined(BUG_COPY_OF_TWELVE)
    if (next < columns) __pipeline_memcpy_async(stages + (stage ^ 1) * width, in + next, 12);
#elif defined(BUG_COPY_TO_GLOBAL)
    if (next < columns) __pipeline_memcpy_async(out, in + next, 4);
#endif
#if !defined(BUG_NO_COMMIT)
    __pipeline_commit();  // of no copies after the last stage, so that the wait is the same
#endif
#if defined(BUG_BARRIER_BEFORE_WAIT)
    __syncthreads();
    __pipeline_wait_prior(1);
#elif defined(BUG_WEAK_WAIT)
    __pipeline_wait_prior(2);
#elif !defined(BUG_NO_WAIT)
    __pipeline_wait_prior(1);
#endif
#if !defined(BUG_NO_BARRIER_AFTER_WAIT) && !defined(BUG_BARRIER_BEFORE_WAIT)
    __syncthreads();
#endif
    for (int i = threadIdx.x; i < min(width, columns - first); i += blockDim.x) sum += stages[stage * width + i];
#if !defined(BUG_NO_BARRIER_BEFORE_FETCH)
    __syncthreads();  // the stage is overwritten
#endif
  }
  atomicAdd(out + blockIdx.x, sum);
}

inline void launch_staged_sums(const float* in, float* out, int rows, int columns, int width) {
  size_t bytes = 2 * width * sizeof(float);
#if defined(BUG_COPY_PAST_SHARED)
  bytes -= 8;
#endif
  FASTCAM_LAUNCH(staged_sums, rows, 64, bytes, nullptr, in, out, columns, width);
}
