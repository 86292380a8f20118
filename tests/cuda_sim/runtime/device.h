// What the host asks of the device, and what it allows a kernel.
#pragma once
#include <cstdlib>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>

#include "scheduler.h"

// With CUDA's numbers.
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidDevice = 101 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };

namespace cuda_sim {

FASTCAM_SIM_STATE cudaError_t last_error = cudaSuccess;

inline cudaError_t refused(cudaError_t error) { return last_error = error; }

// The bytes of dynamic shared memory that kernels were allowed, by their address; of all threads of the host.
class DynamicLimits {
 public:
  void set(const void* kernel, size_t bytes) {
    const std::lock_guard lock(mutex_);
    limits_[kernel] = bytes;
  }

  SharedLimits find(const void* kernel) {
    const std::lock_guard lock(mutex_);
    const auto found = limits_.find(kernel);
    if (found == limits_.end()) return {kMostShared, kMostShared};
    return {found->second, kMostSharedOptIn};
  }

 private:
  std::mutex mutex_;
  std::map<const void*, size_t> limits_;
};

inline DynamicLimits& dynamic_limits() {
  static DynamicLimits limits;
  return limits;
}

// FASTCAM_SIM_MULTIPROCESSORS, or as few as make a kernel that divides its work by them divide it.
inline int multiprocessors() {
  const char* text = std::getenv("FASTCAM_SIM_MULTIPROCESSORS");
  if (text == nullptr || *text == 0) return 2;
  char* end = nullptr;
  const long count = std::strtol(text, &end, 10);
  if (*end == 0 && count >= 1 && count <= 1024) return static_cast<int>(count);
  throw std::runtime_error(
      std::string("fastcam simulator: FASTCAM_SIM_MULTIPROCESSORS must be a number from 1 to 1024, not ") + text);
}

}  // namespace cuda_sim

// What CUDA refuses of a launch never comes back from it, so that is no error to ask for.
inline cudaError_t cudaGetLastError() {
  const cudaError_t error = cuda_sim::last_error;
  cuda_sim::last_error = cudaSuccess;
  return error;
}

inline const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaSuccess) return "no error";
  return error == cudaErrorInvalidValue ? "invalid argument" : "invalid device ordinal";
}

template <class T>
cudaError_t cudaFuncSetAttribute(T* kernel, cudaFuncAttribute attribute, int value) {
  const bool known = kernel != nullptr && attribute == cudaFuncAttributeMaxDynamicSharedMemorySize;
  if (!known || value < 0 || static_cast<size_t>(value) > cuda_sim::kMostSharedOptIn) {
    return cuda_sim::refused(cudaErrorInvalidValue);
  }
  cuda_sim::dynamic_limits().set(reinterpret_cast<const void*>(kernel), value);
  return cudaSuccess;
}

// There is one device.
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return cuda_sim::refused(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = cuda_sim::multiprocessors();
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(cuda_sim::kMostSharedOptIn);
      return cudaSuccess;
  }
  return cuda_sim::refused(cudaErrorInvalidValue);
}
