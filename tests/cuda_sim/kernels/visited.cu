// Where each thread of a grid with three axes finds itself; and kernels with a bug of their own.
#include "../cuda_sim.h"

__global__ void visited(int* out) {
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] += 1 + block * 10000 + thread;
}

__global__ void fills_shared() {
  FASTCAM_SHARED(char, filled, [32 * 1024]);
  FASTCAM_DYNAMIC_SHARED(char, more);
  filled[threadIdx.x] = more[threadIdx.x] = 1;
}

__global__ void has_large_array() {
  FASTCAM_SHARED(char, filled, [48 * 1024 + 1]);
  filled[threadIdx.x] = 1;
}

// A block writes where the shared memory of the one before it lay.
__global__ void keeps_shared(char** kept) {
  FASTCAM_SHARED(char, own, [16]);
  if (*kept != nullptr) **kept = 1;
  *kept = own;
}

__global__ void reads_misaligned(float4* out) {
  FASTCAM_SHARED(float, values, [8]);
  for (int i = 0; i < 8; ++i) values[i] = i;
  *out = *reinterpret_cast<const float4*>(values);  // nothing aligns an array of floats to 16 bytes
}

__global__ void copies_misaligned(const float4* in) {
  FASTCAM_SHARED(float, values, [8]);
  __pipeline_memcpy_async(values, in, 16);  // as above
}

__global__ void shuffles_by_twelve(int* out) { out[threadIdx.x] = __shfl_down_sync(0xffffffff, 1, 1, 12); }

__global__ void launches(int* out) { FASTCAM_LAUNCH(visited, 1, 1, 0, nullptr, out); }
