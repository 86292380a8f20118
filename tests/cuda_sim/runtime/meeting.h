// Where threads meet: __syncthreads, and the operations of the lanes of a warp.
#pragma once
#include "scheduler.h"

namespace cuda_sim {

FASTCAM_SIM_RUNTIME void Scheduler::wait(State state, const Site& site) {
  current_->state = state;
  current_->site = site;
  ready_.remove(current_->place);
}

FASTCAM_SIM_RUNTIME void Scheduler::barrier(const Site& site) {
  wait(State::at_barrier, site);
  current_->mask = 0;
  if (++at_barrier_ == live_) open_barrier();
  go_on();
}

// As on the device, the barrier does not wait for threads that have ended.
FASTCAM_SIM_RUNTIME void Scheduler::open_barrier() {
  const Thread* first = nullptr;
  for (Thread* thread = threads_; thread != threads_ + count_; ++thread) {
    if (thread->state != State::at_barrier) continue;
    if (first == nullptr) first = thread;
    if (!same_site(thread->site, first->site)) fail("threads of one block wait at different __syncthreads");
    ordering_.meet(*thread->fiber, 0);
  }
  for (Thread* thread = threads_; thread != threads_ + count_; ++thread) {
    if (thread->state != State::at_barrier) continue;
    ordering_.part(*thread->fiber, 0);
    make_ready(*thread);
  }
  ordering_.as(*running_);
  at_barrier_ = 0;
}

FASTCAM_SIM_RUNTIME uint64_t Scheduler::warp_operation(Operation operation, unsigned mask, uint64_t value, int source,
                                                       const Site& site) {
  Thread& me = *current_;
  me.operation = operation;
  me.mask = mask;
  me.value = value;
  me.source = source;
  wait(State::at_warp_operation, site);
  if (!(mask >> me.lane() & 1)) {
    fail("lane %u of warp %u calls a warp operation with the mask 0x%08x, which leaves it out", me.lane(), me.warp(),
         mask);
  }
  warps_[me.warp()].waiting |= 1u << me.lane();
  complete(me);
  go_on();
  return me.result;
}

// Serves and frees the lanes that meet with `lane`, if all of them are there. Lanes that have ended are not waited for.
FASTCAM_SIM_RUNTIME void Scheduler::complete(Thread& lane) {
  Warp& warp = warps_[lane.warp()];
  Thread* lanes = threads_ + lane.warp() * kWarpSize;
  const unsigned members = lane.mask & warp.live, meeting = 1 + lane.warp();
  const bool orders = kThreadSanitizer && lane.operation == Operation::sync;
  if ((members & ~warp.waiting) != 0) return;
  for (unsigned left = members; left != 0; left &= left - 1) {
    if (lanes[__builtin_ctz(left)].mask != lane.mask) return;  // waits for other lanes first
  }
  check_lanes(lane, members);
  const bool shuffles = lane.operation == Operation::shuffle;
  const uint64_t found = lane.operation == Operation::ballot ? votes(lanes, members) : 0;
  for (unsigned left = members; orders && left != 0; left &= left - 1) {
    ordering_.meet(*lanes[__builtin_ctz(left)].fiber, meeting);
  }
  for (unsigned left = members; left != 0; left &= left - 1) {
    Thread& member = lanes[__builtin_ctz(left)];
    if (orders) ordering_.part(*member.fiber, meeting);
    member.result = shuffles ? lanes[member.source].value : found;
    make_ready(member);
  }
  if (orders) ordering_.as(*running_);
  warp.waiting &= ~members;
}

FASTCAM_SIM_RUNTIME void Scheduler::check_lanes(const Thread& lane, unsigned members) {
  const Thread* lanes = threads_ + lane.warp() * kWarpSize;
  for (unsigned left = members; left != 0; left &= left - 1) {
    const Thread& member = lanes[__builtin_ctz(left)];
    if (member.operation != lane.operation || !same_site(member.site, lane.site)) {
      fail("lanes of warp %u with the same mask 0x%08x are at different warp operations", lane.warp(), lane.mask);
    }
    if (member.operation == Operation::shuffle && !(members >> member.source & 1)) {
      fail("lane %u of warp %u reads lane %d, which takes no part in the shuffle", member.lane(), member.warp(),
           member.source);
    }
  }
}

// The lanes that voted for it, as bits.
FASTCAM_SIM_RUNTIME unsigned Scheduler::votes(const Thread* lanes, unsigned members) {
  unsigned found = 0;
  for (unsigned left = members; left != 0; left &= left - 1) {
    const unsigned lane = __builtin_ctz(left);
    if (lanes[lane].value != 0) found |= 1u << lane;
  }
  return found;
}

}  // namespace cuda_sim
