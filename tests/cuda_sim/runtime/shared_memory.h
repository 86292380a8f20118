// The shared memory of the block that runs: every array an allocation of its own, so that AddressSanitizer knows its
// bounds and its end.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "sanitizers.h"

namespace cuda_sim {

constexpr size_t kMostShared = 48 * 1024;
constexpr size_t kMostSharedOptIn = 227 * 1024;  // for a kernel that asked for it

// For one kernel, in bytes.
struct SharedLimits {
  size_t dynamic, total;
};

class SharedMemory {
 public:
  ~SharedMemory() { release(); }

  // The array declared at `key`, or nullptr before it has one.
  FASTCAM_SIM_RUNTIME void* find(const void* key) const {
    for (unsigned i = 0; i < count_; ++i) {
      if (arrays_[i].key == key) return arrays_[i].data;
    }
    return nullptr;
  }

  // A new array; nullptr if there is no room for its description. It lies at a multiple of its alignment and, where
  // that is less than 16, not of 16: what CUDA does not promise does not come true by accident either.
  FASTCAM_SIM_RUNTIME void* add(const void* key, size_t bytes, size_t alignment) {
    if (count_ == kMost) return nullptr;
    const size_t before = alignment < kAlignment ? kAlignment / 2 : 0;
    void* allocation = nullptr;
    if (posix_memalign(&allocation, alignment > kAlignment ? alignment : kAlignment, before + bytes) != 0) {
      throw std::bad_alloc();
    }
    std::memset(allocation, 0xff, before + bytes);  // NaN: CUDA promises no value
    asan_forbid(allocation, before);
    bytes_ = (bytes_ + alignment - 1) / alignment * alignment + bytes;
    arrays_[count_] = {key, allocation, static_cast<char*>(allocation) + before, bytes};
    return arrays_[count_++].data;
  }

  // Whether these bytes lie inside one array.
  FASTCAM_SIM_RUNTIME bool holds(const void* memory, size_t bytes) const {
    const auto address = reinterpret_cast<uintptr_t>(memory);
    for (unsigned i = 0; i < count_; ++i) {
      const auto begin = reinterpret_cast<uintptr_t>(arrays_[i].data);
      if (address >= begin && address + bytes <= begin + arrays_[i].bytes) return true;
    }
    return false;
  }

  FASTCAM_SIM_RUNTIME void release() {
    for (unsigned i = 0; i < count_; ++i) std::free(arrays_[i].allocation);
    count_ = 0;
    bytes_ = 0;
  }

  FASTCAM_SIM_RUNTIME size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kAlignment = 16;  // of the dynamic array, and of the widest load
  static constexpr unsigned kMost = 64;
  struct Array {
    const void* key;
    void *allocation, *data;
    size_t bytes;
  };
  Array arrays_[kMost] = {};
  unsigned count_ = 0;
  size_t bytes_ = 0;
};

}  // namespace cuda_sim
