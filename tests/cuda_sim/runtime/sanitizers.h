// What AddressSanitizer and ThreadSanitizer must be told of fibers; nothing in a build without them.
#pragma once
#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

// Before every function of the simulator. All fibers run these functions on the same data, one at a time: to
// ThreadSanitizer, which knows each fiber as a thread, that would be one race after the other.
#define FASTCAM_SIM_RUNTIME inline __attribute__((no_sanitize("thread", "address")))

namespace cuda_sim {

#if defined(__SANITIZE_THREAD__)
constexpr bool kThreadSanitizer = true;
FASTCAM_SIM_RUNTIME void* tsan_current() { return __tsan_get_current_fiber(); }
FASTCAM_SIM_RUNTIME void* tsan_create() { return __tsan_create_fiber(0); }
FASTCAM_SIM_RUNTIME void tsan_destroy(void* fiber) { __tsan_destroy_fiber(fiber); }
// What reports call the fiber.
FASTCAM_SIM_RUNTIME void tsan_name(void* fiber, const char* name) { __tsan_set_fiber_name(fiber, name); }
// What follows is counted as done by `fiber`; no memory is ordered by that.
FASTCAM_SIM_RUNTIME void tsan_become(void* fiber) { __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync); }
// What came before a release of a token comes before what follows a later acquire of it.
FASTCAM_SIM_RUNTIME void tsan_release(char* token) { __tsan_release(token); }
FASTCAM_SIM_RUNTIME void tsan_acquire(char* token) { __tsan_acquire(token); }
#else
constexpr bool kThreadSanitizer = false;
FASTCAM_SIM_RUNTIME void* tsan_current() { return nullptr; }
FASTCAM_SIM_RUNTIME void* tsan_create() { return nullptr; }
FASTCAM_SIM_RUNTIME void tsan_destroy(void*) {}
FASTCAM_SIM_RUNTIME void tsan_name(void*, const char*) {}
FASTCAM_SIM_RUNTIME void tsan_become(void*) {}
FASTCAM_SIM_RUNTIME void tsan_release(char*) {}
FASTCAM_SIM_RUNTIME void tsan_acquire(char*) {}
#endif

#if defined(__SANITIZE_ADDRESS__)
FASTCAM_SIM_RUNTIME void asan_leave(void** fake_stack, const void* stack, size_t bytes) {
  __sanitizer_start_switch_fiber(fake_stack, stack, bytes);
}
FASTCAM_SIM_RUNTIME void asan_arrive(void* fake_stack, const void** left, size_t* left_bytes) {
  __sanitizer_finish_switch_fiber(fake_stack, left, left_bytes);
}
FASTCAM_SIM_RUNTIME void asan_forbid(void* memory, size_t bytes) { __asan_poison_memory_region(memory, bytes); }
FASTCAM_SIM_RUNTIME void asan_allow(void* memory, size_t bytes) { __asan_unpoison_memory_region(memory, bytes); }
#else
FASTCAM_SIM_RUNTIME void asan_leave(void**, const void*, size_t) {}
FASTCAM_SIM_RUNTIME void asan_arrive(void*, const void**, size_t*) {}
FASTCAM_SIM_RUNTIME void asan_forbid(void*, size_t) {}
FASTCAM_SIM_RUNTIME void asan_allow(void*, size_t) {}
#endif

}  // namespace cuda_sim
