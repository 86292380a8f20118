#include "launch_limits.h"

namespace fastcam::cuda {

// Asked for once a device: the answers never change.
DeviceLimits device_limits() {
  static std::atomic<int> multiprocessors[kDevices], shared_bytes[kDevices];
  int device = 0;
  cudaGetDevice(&device);
  const int place = device % kDevices;
  if (multiprocessors[place].load(std::memory_order_acquire) == 0) {
    int count = 0, bytes = 0;
    cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
    shared_bytes[place].store(bytes, std::memory_order_relaxed);
    multiprocessors[place].store(count, std::memory_order_release);
  }
  return {multiprocessors[place].load(std::memory_order_relaxed), shared_bytes[place].load(std::memory_order_relaxed)};
}

}  // namespace fastcam::cuda
