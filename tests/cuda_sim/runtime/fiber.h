// Fibers: stacks that one thread of the host runs in turns. A fiber is a loop that runs one CUDA thread after the
// other, so it is set up once and lives as long as the pool.
#pragma once
#include <sys/mman.h>

#include <cstdint>
#include <new>

#include "sanitizers.h"

// Pushes the registers that a call must preserve, stores the stack pointer in *save, takes `stack_pointer`
// instead and pops. A new stack holds zeros for the registers and the address of a function to return to.
extern "C" void fastcam_sim_switch(void** save, void* stack_pointer);

#if defined(__x86_64__)
asm(R"(
  .text
  .weak fastcam_sim_switch
  .hidden fastcam_sim_switch
  .type fastcam_sim_switch, @function
fastcam_sim_switch:
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
  .size fastcam_sim_switch, .-fastcam_sim_switch
)");
#elif defined(__aarch64__)
asm(R"(
  .text
  .weak fastcam_sim_switch
  .hidden fastcam_sim_switch
  .type fastcam_sim_switch, %function
fastcam_sim_switch:
  sub sp, sp, #160
  stp x19, x20, [sp]
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
  ldp x19, x20, [sp]
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
  .size fastcam_sim_switch, .-fastcam_sim_switch
)");
#else
#error "The CUDA simulator switches stacks on x86-64 and aarch64 only; write fastcam_sim_switch for this processor."
#endif

namespace cuda_sim {

struct Fiber {
  void* stack_pointer = nullptr;  // while it does not run
  const void* stack = nullptr;    // lowest address
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // where AddressSanitizer keeps the fiber's locals, if it does
  void* tsan = nullptr;        // the thread that ThreadSanitizer takes the fiber for
};

// What fastcam_sim_switch pops from a new stack: registers, then where it returns to.
FASTCAM_SIM_RUNTIME void* first_frame(char* top, void (*entry)()) {
  void** frame = reinterpret_cast<void**>(top);
#if defined(__x86_64__)
  *--frame = nullptr;  // the caller of `entry`: there is none
  *--frame = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--frame = nullptr;
#else
  frame -= 20;
  for (int i = 0; i < 20; ++i) frame[i] = nullptr;
  frame[11] = reinterpret_cast<void*>(entry);  // x30
#endif
  return frame;
}

constexpr size_t kPage = 65536;  // no processor has larger ones
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kStackBytes = 4 * kPage;  // frames are larger there
#else
constexpr size_t kStackBytes = kPage;
#endif

// Tops of stacks lie at different offsets in their pages: at the same offset, they would all fall into a few sets
// of the first cache.
FASTCAM_SIM_RUNTIME Fiber* new_fiber(unsigned number, void (*entry)()) {
  void* memory =
      mmap(nullptr, kPage + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, kPage, PROT_NONE);  // a stack that overflows ends the program
  auto* fiber = new Fiber;
  char* top = static_cast<char*>(memory) + kPage + kStackBytes - 64 - number % 32 * 128;
  fiber->stack = static_cast<char*>(memory) + kPage;
  fiber->stack_bytes = kStackBytes;
  fiber->stack_pointer = first_frame(top, entry);
  fiber->tsan = tsan_create();
  return fiber;
}

FASTCAM_SIM_RUNTIME void delete_fiber(Fiber* fiber) {
  auto* stack = static_cast<char*>(const_cast<void*>(fiber->stack));
  asan_allow(stack, kStackBytes);  // its last functions may not have returned
  munmap(stack - kPage, kPage + kStackBytes);
  tsan_destroy(fiber->tsan);
  delete fiber;
}

// As many fibers as CUDA threads were ever under way at once. A thread that meets no barrier hands its fiber to the
// next one, on the same warm stack. Under ThreadSanitizer, which holds whatever one fiber does for ordered, the
// fibers take turns instead, and there are enough for two blocks: neighbours share none.
class FiberPool {
 public:
  static constexpr unsigned kMost = kThreadSanitizer ? 2048 : 1024;

  explicit FiberPool(void (*entry)()) : entry_(entry) {}
  FiberPool(const FiberPool&) = delete;
  FiberPool& operator=(const FiberPool&) = delete;
  ~FiberPool() { clear(); }

  FASTCAM_SIM_RUNTIME void prepare(unsigned threads) {
    while (kThreadSanitizer && count_ < 2 * threads) add();
  }

  FASTCAM_SIM_RUNTIME Fiber* take() {
    if (kThreadSanitizer) return fibers_[turn_++ % count_];
    if (idle_count_ == 0) add();
    return idle_[--idle_count_];
  }

  FASTCAM_SIM_RUNTIME void give_back(Fiber* fiber) {
    if (!kThreadSanitizer) idle_[idle_count_++] = fiber;
  }

  FASTCAM_SIM_RUNTIME void clear() {
    for (unsigned i = 0; i < count_; ++i) delete_fiber(fibers_[i]);
    count_ = idle_count_ = turn_ = 0;
  }

 private:
  FASTCAM_SIM_RUNTIME void add() {
    Fiber* fiber = fibers_[count_] = new_fiber(count_, entry_);
    ++count_;
    give_back(fiber);
  }

  void (*entry_)();
  Fiber *fibers_[kMost] = {}, *idle_[kMost] = {};
  unsigned count_ = 0, idle_count_ = 0, turn_ = 0;
};

}  // namespace cuda_sim
