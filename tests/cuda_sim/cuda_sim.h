// CUDA's execution model on the CPU, for tests. Blocks run one after another; each CUDA thread of a
// block is a fiber that switches only at barriers and warp operations.
//   FASTCAM_SIM_ORDER=fwd|rev|<seed>   order in which ready threads run (a missing barrier changes results)
//   -fsanitize=address            bounds of global buffers and of every FASTCAM_SHARED variable
//   -fsanitize=alignment          misaligned float4/uint4 accesses
//   -fsanitize=thread             data races: barriers and __syncwarp order memory, shuffles do not,
//                                 nothing orders two blocks
// Always checked: deadlock, divergent __syncthreads, lanes of one mask at different warp operations,
// a shuffle that reads a lane that takes no part. Shared memory starts as NaN bytes.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define FASTCAM_TSAN_(...) __VA_ARGS__
#else
#define FASTCAM_TSAN_(...)
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#define FASTCAM_ASAN_(...) __VA_ARGS__
#else
#define FASTCAM_ASAN_(...)
#endif
#define FASTCAM_RT __attribute__((noinline, no_sanitize("thread"), no_sanitize("address"))) inline
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
struct dim3 { unsigned x, y, z; __attribute__((no_sanitize("thread"))) constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {} };
struct uint3 { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
inline float4 make_float4(float a, float b, float c, float d) { return {a, b, c, d}; }
using cudaStream_t = void*;
template <class T> inline T __ldg(const T* p) { return *p; }
using std::max;
using std::min;
inline float rsqrtf(float v) { return 1.f / std::sqrt(v); }

namespace cusim {
enum State : uint8_t { READY, AT_BLOCK, AT_WARP, DONE };
enum Op { SYNC, SHFL, BALLOT };
struct Thread {
  void *sp, *stack, *tsan, *fake;
  uint3 tid;
  unsigned lane, warp, mask;
  int line, op, src;  // what it waits for; the lane a shuffle reads
  uint64_t val, res;  // what it gives to, and got from, a warp operation
  State state;
};
constexpr size_t kStack = 64 * 1024;
struct Sim {
  Thread *pool[1024], *th[1024], *cur, main;
  unsigned order[1024], n, live, at_block, pos, npool, nshared;
  uint3 bid;
  dim3 bdim, gdim;
  struct { const void* key; void* p; } shared[64];
  void* dyn;
  uint64_t start, end, *tok;  // TSan: tok[0] the block barrier, tok[1] shared variables, tok[2+w] warp w
  void (*body)(void*);
  void* arg;
  const char* name;
  size_t main_stack;
  long switches;
};
inline thread_local Sim S{};

[[noreturn]] FASTCAM_RT void fail(const char* why) {
  const char* st[] = {"ready", "at __syncthreads", "at warp op", "exited"};
  std::fprintf(stderr, "cusim: %s\n  in %s, block (%u,%u,%u)\n", why, S.name, S.bid.x, S.bid.y, S.bid.z);
  for (unsigned i = 0, k = 0; i < S.n && k < 40; i++)
    if (S.th[i]->line && S.th[i]->state != DONE)
      k++, std::fprintf(stderr, "  thread %u: %s, line %d, mask %08x\n", i, st[S.th[i]->state], S.th[i]->line, S.th[i]->mask);
  std::abort();
}
extern "C" void cusim_switch(void** save, void* to);
#if defined(__x86_64__)
#define FASTCAM_REGS_ 6
asm(".text\n.weak cusim_switch\n.type cusim_switch,@function\ncusim_switch:\n"
    "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
    "  mov %rsp,(%rdi)\n  mov %rsi,%rsp\n"
    "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n  ret\n"
    ".size cusim_switch,.-cusim_switch\n");
#else
#error "cusim: write cusim_switch for this processor"
#endif
FASTCAM_RT void jump(Thread* from, Thread* to) {
  S.switches++;
  S.cur = to;
  FASTCAM_TSAN_(__tsan_switch_to_fiber(to->tsan, __tsan_switch_to_fiber_no_sync);)
  FASTCAM_ASAN_(__sanitizer_start_switch_fiber(from->state == DONE ? nullptr : &from->fake, to->stack, to == &S.main ? S.main_stack : kStack);)
  cusim_switch(&from->sp, to->sp);
  FASTCAM_ASAN_(__sanitizer_finish_switch_fiber(from->fake, nullptr, nullptr);)
}
FASTCAM_RT void yield() {  // to the next ready thread, or to the launcher if there is none
  Thread* me = S.cur;
  for (unsigned k = 0; k < S.n; k++) {
    if (++S.pos >= S.n) S.pos = 0;
    Thread* t = S.th[S.order[S.pos]];
    if (t->state != READY) continue;
    if (t != me) jump(me, t);
    return;
  }
  jump(me, &S.main);
}
FASTCAM_RT void block_arrive() {
  if (S.at_block < S.live) return;
  int line = 0;
  for (unsigned i = 0; i < S.n; i++) {
    Thread* t = S.th[i];
    if (t->state != AT_BLOCK) continue;
    if (line && t->line != line) fail("threads of one block wait at different __syncthreads");
    line = t->line;
    t->state = READY;
  }
  S.at_block = 0;
}
FASTCAM_RT void warp_arrive(Thread* me) {  // once every live lane of the mask is here, serve and release all
  Thread** w = S.th + me->warp * 32;
  unsigned nl = S.n - me->warp * 32 < 32 ? S.n - me->warp * 32 : 32, here = 0, bits = 0;
  for (unsigned l = 0; l < nl; l++) {
    if (!(me->mask >> l & 1) || w[l]->state == DONE) continue;
    if (w[l]->state != AT_WARP || w[l]->mask != me->mask) return;
    here |= 1u << l;
    if (w[l]->val) bits |= 1u << l;
  }
  for (unsigned l = 0; l < nl; l++) {
    if (!(here >> l & 1)) continue;
    Thread* t = w[l];
    if (t->line != me->line) fail("lanes of one mask are at different warp operations");
    if (t->op == BALLOT) t->res = bits;
    if (t->op == SHFL) {
      if (!(here >> t->src & 1)) fail("a shuffle reads a lane that takes no part in it");
      t->res = w[t->src]->val;
    }
  }
  for (unsigned l = 0; l < nl; l++) if (here >> l & 1) w[l]->state = READY;
}
FASTCAM_RT uint64_t warp_op(int op, unsigned mask, uint64_t val, int src, int line) {
  Thread* me = S.cur;
  me->line = line; me->mask = mask; me->op = op; me->val = val; me->src = src;
  if (!(mask >> me->lane & 1)) fail("a lane calls a warp operation whose mask leaves it out");
  me->state = AT_WARP;
  FASTCAM_TSAN_(if (op == SYNC) __tsan_release(S.tok + 2 + me->warp);)
  warp_arrive(me);
  if (me->state != READY) yield();
  FASTCAM_TSAN_(if (op == SYNC) __tsan_acquire(S.tok + 2 + me->warp);)
  return me->res;
}
FASTCAM_RT void syncthreads(int line) {
  Thread* me = S.cur;
  me->line = line; me->state = AT_BLOCK; S.at_block++;
  FASTCAM_TSAN_(__tsan_release(S.tok);)
  block_arrive();
  yield();
  FASTCAM_TSAN_(__tsan_acquire(S.tok);)
}
FASTCAM_RT void entry() {
  FASTCAM_ASAN_(const void* b; size_t sz; __sanitizer_finish_switch_fiber(nullptr, &b, &sz);
           if (!S.main_stack) { S.main.stack = (void*)b; S.main_stack = sz; })
  Thread* me = S.cur;
  FASTCAM_TSAN_(__tsan_acquire(&S.start);)
  S.body(S.arg);
  FASTCAM_TSAN_(__tsan_release(&S.end);)
  me->state = DONE;
  S.live--;
  if (S.live) block_arrive();
  for (unsigned l = me->warp * 32; l < S.n && l < me->warp * 32 + 32; l++)
    if (S.th[l]->state == AT_WARP) warp_arrive(S.th[l]);
  yield();
  std::abort();
}
FASTCAM_RT void* shared_var(const void* key, size_t bytes) {
  unsigned i = 0;
  while (i < S.nshared && S.shared[i].key != key) i++;
  if (i == S.nshared) {
    if (i == 64) fail("too many shared variables");
    void* p = std::malloc(bytes);
    std::memset(p, 0xff, bytes);
    S.shared[S.nshared++] = {key, p};
    FASTCAM_TSAN_(__tsan_release(S.tok + 1);)
  }
  FASTCAM_TSAN_(__tsan_acquire(S.tok + 1);)
  return S.shared[i].p;
}
#ifdef __SANITIZE_THREAD__
#define FASTCAM_GET FASTCAM_RT
#else
#define FASTCAM_GET inline
#endif
FASTCAM_GET unsigned lane() { return S.cur->lane; }
FASTCAM_GET uint3 tid() { return S.cur->tid; }
FASTCAM_GET uint3 bid() { return S.bid; }
FASTCAM_GET dim3 bdim() { return S.bdim; }
FASTCAM_GET dim3 gdim() { return S.gdim; }
FASTCAM_GET void* dyn() { return S.dyn; }
template <class T> inline T shfl(unsigned m, T v, int src, int line) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t b = 0;
  std::memcpy(&b, &v, sizeof v);
  b = warp_op(SHFL, m, b, src, line);
  std::memcpy(&v, &b, sizeof v);
  return v;
}
template <class T> inline T shfl_down(unsigned m, T v, unsigned d, int w, int line) { int l = lane(); return shfl(m, v, l % w + (int)d < w ? l + (int)d : l, line); }
template <class T> inline T shfl_up(unsigned m, T v, unsigned d, int w, int line) { int l = lane(); return shfl(m, v, l % w >= (int)d ? l - (int)d : l, line); }
template <class T> inline T shfl_xor(unsigned m, T v, int x, int w, int line) { int l = lane(); return shfl(m, v, (l ^ x) / w == l / w ? l ^ x : l, line); }
template <class T> inline T shfl_idx(unsigned m, T v, int i, int w, int line) { int l = lane(); return shfl(m, v, l / w * w + i % w, line); }

FASTCAM_RT void run(const char* name, dim3 g, dim3 b, size_t dyn, void (*body)(void*), void* arg) {
  S.n = b.x * b.y * b.z;
  if (!S.n || S.n > 1024 || dyn > 227 * 1024 || g.y > 65535 || g.z > 65535) { std::fprintf(stderr, "cusim: CUDA would refuse this launch of %s\n", name); std::abort(); }
  S.name = name; S.gdim = g; S.bdim = b; S.body = body; S.arg = arg;
  for (; S.npool < S.n; S.npool++) {
    Thread* t = S.pool[S.npool] = new Thread{};
    t->stack = std::aligned_alloc(64, kStack);
  }
  FASTCAM_TSAN_(S.main.tsan = __tsan_get_current_fiber();)
  const char* o = std::getenv("FASTCAM_SIM_ORDER");
  const bool rev = o && !std::strcmp(o, "rev"), rnd = o && *o >= '0' && *o <= '9';
  std::mt19937 rng(rnd ? std::atoi(o) : 0);
  std::vector<unsigned> blocks(g.x * g.y * g.z);
  for (unsigned i = 0; i < blocks.size(); i++) blocks[i] = rev ? blocks.size() - 1 - i : i;
  for (unsigned i = 0; i < S.n; i++) S.order[i] = rev ? S.n - 1 - i : i;
  if (rnd) std::shuffle(blocks.begin(), blocks.end(), rng);
  std::vector<void*> old;
  FASTCAM_TSAN_(static thread_local std::vector<void*> fibers; unsigned used = 0;)
  for (unsigned blk : blocks) {
    S.bid = {blk % g.x, blk / g.x % g.y, blk / (g.x * g.y)};
    S.live = S.n; S.at_block = S.nshared = 0; S.pos = S.n - 1; S.dyn = nullptr;
    if (rnd) std::shuffle(S.order, S.order + S.n, rng);
    if (dyn) { S.dyn = std::malloc(dyn); std::memset(S.dyn, 0xff, dyn); }
    for (unsigned i = 0; i < S.n; i++) {
      Thread* t = S.th[i] = S.pool[i];
      t->tid = {i % b.x, i / b.x % b.y, i / (b.x * b.y)};
      t->lane = i % 32; t->warp = i / 32; t->line = 0; t->mask = 0; t->fake = nullptr; t->state = READY;
      void** sp = (void**)((char*)t->stack + kStack - 64);
      *--sp = nullptr; *--sp = (void*)&entry;
      for (int r = 0; r < FASTCAM_REGS_; r++) *--sp = nullptr;
      t->sp = sp;
      // TSan orders whatever one of its fibers does, so the first 1024 threads get one each (0.9 MB apiece)
      FASTCAM_TSAN_(if (used >= fibers.size() && used < 1024) fibers.push_back(__tsan_create_fiber(0)); t->tsan = fibers[used++ % fibers.size()];)
    }
    FASTCAM_TSAN_(old.push_back(S.tok = (uint64_t*)std::calloc(34, 8)); __tsan_release(&S.start);)
    S.main.state = READY; S.cur = &S.main;
    yield();
    if (S.live) fail("deadlock: no thread can go on");
    for (unsigned i = 0; i < S.nshared; i++) old.push_back(S.shared[i].p);
    if (dyn) old.push_back(S.dyn);
#ifndef __SANITIZE_THREAD__  // there, a free would order the blocks or be reported as a race
    for (void* p : old) std::free(p);
    old.clear();
#endif
  }
  FASTCAM_TSAN_(__tsan_acquire(&S.end); for (void* p : old) std::free(p);)
}
template <class... P, class... A> inline void launch(const char* name, void (*k)(P...), dim3 g, dim3 b, size_t dyn, cudaStream_t, A&&... a) {
  auto pack = std::make_tuple(k, std::tuple<P...>(std::forward<A>(a)...));
  run(name, g, b, dyn, [](void* p) { auto& t = *(decltype(pack)*)p; std::apply(std::get<0>(t), std::get<1>(t)); }, &pack);
}
}  // namespace cusim
#define threadIdx (::cusim::tid())
#define blockIdx (::cusim::bid())
#define blockDim (::cusim::bdim())
#define gridDim (::cusim::gdim())
#define __syncthreads() ::cusim::syncthreads(__LINE__)
#define FASTCAM_FIRST_(a, ...) (a)
#define __syncwarp(...) (void)::cusim::warp_op(::cusim::SYNC, FASTCAM_FIRST_(__VA_ARGS__ __VA_OPT__(,) 0xffffffffu), 0, 0, __LINE__)
#define FASTCAM_SHFL_(f, m, v, s, w, ...) ::cusim::f((m), (v), (s), (w), __LINE__)
#define __shfl_sync(m, v, ...) FASTCAM_SHFL_(shfl_idx, m, v, __VA_ARGS__, 32, 0)
#define __shfl_down_sync(m, v, ...) FASTCAM_SHFL_(shfl_down, m, v, __VA_ARGS__, 32, 0)
#define __shfl_up_sync(m, v, ...) FASTCAM_SHFL_(shfl_up, m, v, __VA_ARGS__, 32, 0)
#define __shfl_xor_sync(m, v, ...) FASTCAM_SHFL_(shfl_xor, m, v, __VA_ARGS__, 32, 0)
#define __ballot_sync(m, p) ((unsigned)::cusim::warp_op(::cusim::BALLOT, (m), !!(p), 0, __LINE__))
#define __any_sync(m, p) (__ballot_sync(m, p) != 0)
#define __all_sync(m, p) (__ballot_sync(m, !(p)) == 0)
template <class T> inline T atomicAdd(T* p, T v) { return std::atomic_ref<T>(*p).fetch_add(v, std::memory_order_relaxed); }
template <class T> inline T atomicMax(T* p, T v) {
  std::atomic_ref<T> a(*p);
  T o = a.load(std::memory_order_relaxed);
  while (o < v && !a.compare_exchange_weak(o, v, std::memory_order_relaxed)) {}
  return o;
}
#define FASTCAM_SHARED(T, name, ...)    \
  using name##_t_ = T __VA_ARGS__; \
  static char name##_k_;           \
  name##_t_& name = *reinterpret_cast<name##_t_*>(::cusim::shared_var(&name##_k_, sizeof(name##_t_)))
#define FASTCAM_DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(::cusim::dyn())
#define FASTCAM_LAUNCH(kern, grid, block, smem, stream, ...) ::cusim::launch(#kern, kern, (grid), (block), (smem), (stream), __VA_ARGS__)
