// What a launch must ask the device for.
#pragma once
#include <atomic>

#include "device.h"
#include "kernels.h"

namespace fastcam::cuda {

constexpr int kDevices = 64;  // whose answers are remembered; those with the same remainder are alike

// Lets launches of a kernel on the current device have as much dynamic shared memory as there is, but for static
// arrays: more than 48 KiB must be asked for.
template <auto kKernel>
void allow_shared(size_t bytes) {
  static std::atomic<bool> asked[kDevices];
  if (bytes <= 48 << 10) return;
  int device = 0;
  cudaGetDevice(&device);
  if (asked[device % kDevices].load(std::memory_order_relaxed)) return;
  const int most = static_cast<int>(device_limits().shared_bytes - kStaticShared);
  cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);  // a refusal shows at the launch
  asked[device % kDevices].store(true, std::memory_order_relaxed);
}

}  // namespace fastcam::cuda
