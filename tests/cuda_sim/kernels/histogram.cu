// How often each of `bins` values occurs: dynamic shared memory, atomics of a block and of the grid.
#include "../cuda_sim.h"

__global__ void histogram(const int* __restrict__ in, unsigned* counts, int count, int bins) {
  FASTCAM_DYNAMIC_SHARED(unsigned, local);
#if !defined(BUG_UNINITIALISED)
  for (int i = threadIdx.x; i < bins; i += blockDim.x) local[i] = 0;
#endif
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
#if defined(BUG_NO_ATOMIC)
    ++local[in[i]];
#else
    atomicAdd(local + in[i], 1);
#endif
  }
  __syncthreads();
#if defined(BUG_BLOCKS_RACE)
  for (int i = threadIdx.x; i < bins; i += blockDim.x) counts[i] += local[i];
#else
  for (int i = threadIdx.x; i < bins; i += blockDim.x) atomicAdd(counts + i, local[i]);
#endif
}

inline void launch_histogram(const int* in, unsigned* counts, int count, int bins) {
  FASTCAM_LAUNCH(histogram, 5, 96, bins * sizeof(unsigned), nullptr, in, counts, count, bins);
}
