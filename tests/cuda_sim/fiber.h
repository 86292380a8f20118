// A fiber: a stack of its own and the place where its code goes on. One processor thread runs them in turn.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

// The simulator itself is not what a sanitizer is to look at, and inlined it would be.
#define CUDA_SIM_RUNTIME __attribute__((noinline, no_sanitize("thread"), no_sanitize("address"))) inline

// Keeps the registers that a function must preserve on the stack of one fiber and takes them from that of another.
extern "C" void cuda_sim_switch(void** from, void* to);

#if defined(__x86_64__)
asm(R"(
.text
.weak cuda_sim_switch
.type cuda_sim_switch, @function
cuda_sim_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size cuda_sim_switch, . - cuda_sim_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.weak cuda_sim_switch
.type cuda_sim_switch, %function
cuda_sim_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size cuda_sim_switch, . - cuda_sim_switch
)");
#else
#error "the CUDA simulator has fibers for x86-64 and aarch64; add cuda_sim_switch for this processor"
#endif

namespace cuda_sim {

struct Fiber {
  static constexpr size_t kStackBytes = 64 * 1024;

  void* stack_pointer = nullptr;
  void* stack = nullptr;  // none: the stack of the processor thread
  size_t stack_bytes = kStackBytes;
  void* address_state = nullptr;  // what AddressSanitizer keeps of a fiber that waits
  void* thread_state = nullptr;   // the fiber as ThreadSanitizer knows it
  bool ended = false;

  // Makes the next switch to this fiber call `entry`, which must never return.
  CUDA_SIM_RUNTIME void start(void (*entry)()) {
    if (stack == nullptr) stack = std::aligned_alloc(64, kStackBytes);
    ended = false;
    address_state = nullptr;
    auto** top = reinterpret_cast<void**>(static_cast<char*>(stack) + kStackBytes - 64);
#if defined(__x86_64__)
    *--top = nullptr;                         // where `entry` would return to
    *--top = reinterpret_cast<void*>(entry);  // where cuda_sim_switch returns to
    top -= 6;                                 // the six registers it takes
#else
    top -= 20;
    std::memset(top, 0, 160);
    top[11] = reinterpret_cast<void*>(entry);  // x30, where cuda_sim_switch returns to
#endif
    stack_pointer = top;
  }
};

CUDA_SIM_RUNTIME void switch_fiber(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to.thread_state, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(from.ended ? nullptr : &from.address_state, to.stack, to.stack_bytes);
#endif
  cuda_sim_switch(&from.stack_pointer, to.stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.address_state, nullptr, nullptr);
#endif
}

}  // namespace cuda_sim
