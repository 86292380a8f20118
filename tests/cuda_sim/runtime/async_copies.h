// The asynchronous copies that CUDA threads have issued and not yet waited for.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "sanitizers.h"

namespace cuda_sim {

struct AsyncCopy {
  void* target;
  const void* source;
  size_t bytes;
};

// Of one CUDA thread, in the order of issue: where AsyncCopies holds the first and the last.
struct CopyQueue {
  static constexpr uint32_t kNone = UINT32_MAX;
  uint32_t first = kNone, last = kNone;
  uint64_t committed = 0;  // groups, empty ones counted
};

// The copies of all threads of a block, in one array: places of copies that have landed are used again.
class AsyncCopies {
 public:
  AsyncCopies() = default;
  AsyncCopies(const AsyncCopies&) = delete;
  AsyncCopies& operator=(const AsyncCopies&) = delete;
  ~AsyncCopies() { std::free(entries_); }

  FASTCAM_SIM_RUNTIME bool full() const { return free_ == CopyQueue::kNone && used_ == room_; }

  FASTCAM_SIM_RUNTIME void grow() {
    room_ = room_ == 0 ? 1024 : 2 * room_;
    void* grown = std::realloc(entries_, room_ * sizeof(Entry));
    if (grown == nullptr) throw std::bad_alloc();
    entries_ = static_cast<Entry*>(grown);
  }

  // Forgets every copy; the queues of the threads must be begun anew.
  FASTCAM_SIM_RUNTIME void clear() {
    free_ = CopyQueue::kNone;
    used_ = 0;
  }

  // Needs room.
  FASTCAM_SIM_RUNTIME void add(CopyQueue& queue, const AsyncCopy& copy) {
    const uint32_t place = free_ != CopyQueue::kNone ? free_ : used_++;
    Entry& entry = entries_[place];
    if (place == free_) free_ = entry.next;
    entry.copy = copy;
    entry.group = queue.committed;
    entry.next = CopyQueue::kNone;
    (queue.first == CopyQueue::kNone ? queue.first : entries_[queue.last].next) = place;
    queue.last = place;
  }

  // Takes the oldest copy out of the queue if its group is committed and not among the latest `prior` ones.
  FASTCAM_SIM_RUNTIME bool take(CopyQueue& queue, size_t prior, AsyncCopy& copy) {
    if (queue.first == CopyQueue::kNone || queue.committed <= prior) return false;
    const uint32_t place = queue.first;
    Entry& entry = entries_[place];
    if (entry.group >= queue.committed - prior) return false;
    copy = entry.copy;
    queue.first = entry.next;
    entry.next = free_;
    free_ = place;
    return true;
  }

 private:
  struct Entry {
    AsyncCopy copy;
    uint64_t group;  // by number; one that is not committed yet has the number of groups that are
    uint32_t next;   // of the same thread, or the next free place
  };
  Entry* entries_ = nullptr;
  uint32_t free_ = CopyQueue::kNone, used_ = 0, room_ = 0;
};

}  // namespace cuda_sim
