// In which order blocks and ready threads run: FASTCAM_SIM_ORDER=forward, reverse, or a number to shuffle by.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "sanitizers.h"

namespace cuda_sim {

constexpr unsigned kMostThreads = 1024;

class Order {
 public:
  // Reads the environment; false if it names no order.
  FASTCAM_SIM_RUNTIME bool read() {
    const char* text = std::getenv("FASTCAM_SIM_ORDER");
    reversed_ = shuffled_ = false;
    if (text == nullptr || *text == 0 || std::strcmp(text, "forward") == 0) return true;
    if (std::strcmp(text, "reverse") == 0) return reversed_ = true;
    char* end = nullptr;
    state_ = std::strtoull(text, &end, 10);
    return shuffled_ = *text >= '0' && *text <= '9' && *end == 0;
  }

  // The first of `count` blocks. Shuffled, the order is start, start + step, ... modulo the count, with a step
  // that is coprime to it: every block once, and no list as long as the grid.
  FASTCAM_SIM_RUNTIME uint64_t first_block(uint64_t count) {
    step_ = reversed_ ? count - 1 : 1;
    if (!shuffled_) return reversed_ ? count - 1 : 0;
    do step_ = 1 + random() % count;
    while (!coprime(step_, count));
    return random() % count;
  }

  FASTCAM_SIM_RUNTIME uint64_t next_block(uint64_t block, uint64_t count) const { return (block + step_) % count; }

  // The threads of a block by their place in the order; called for every block.
  FASTCAM_SIM_RUNTIME void arrange(uint16_t* thread_at, unsigned count, bool first) {
    for (unsigned i = 0; first && i < count; ++i) thread_at[i] = reversed_ ? count - 1 - i : i;
    for (unsigned i = count; shuffled_ && i > 1; --i) {
      const unsigned other = random() % i;
      const uint16_t kept = thread_at[i - 1];
      thread_at[i - 1] = thread_at[other];
      thread_at[other] = kept;
    }
  }

  // From which place on to look for a thread that can run: the first such thread runs as far as it can, unless
  // the order is shuffled.
  FASTCAM_SIM_RUNTIME unsigned place_to_look(unsigned count) { return shuffled_ ? random() % count : 0; }

 private:
  FASTCAM_SIM_RUNTIME static bool coprime(uint64_t a, uint64_t b) {
    while (b != 0) {
      const uint64_t rest = a % b;
      a = b;
      b = rest;
    }
    return a == 1;
  }

  // SplitMix64 (doi:10.1145/2714064.2660195): those of <random> are seen by ThreadSanitizer.
  FASTCAM_SIM_RUNTIME uint64_t random() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }

  bool reversed_ = false, shuffled_ = false;
  uint64_t state_ = 0, step_ = 1;
};

// The places in the order whose threads can run.
class ReadyPlaces {
 public:
  FASTCAM_SIM_RUNTIME void fill(unsigned count) {
    for (unsigned i = 0; i < kWords; ++i) {
      const unsigned first = i * 64;
      words_[i] = count >= first + 64 ? ~uint64_t{0} : count > first ? (uint64_t{1} << (count - first)) - 1 : 0;
    }
  }

  FASTCAM_SIM_RUNTIME void add(unsigned place) { words_[place / 64] |= uint64_t{1} << place % 64; }
  FASTCAM_SIM_RUNTIME void remove(unsigned place) { words_[place / 64] &= ~(uint64_t{1} << place % 64); }

  // The first one from `start` on, round the end; -1 if there is none.
  FASTCAM_SIM_RUNTIME int next(unsigned start) const {
    const uint64_t head = words_[start / 64] & ~uint64_t{0} << start % 64;
    if (head != 0) return start / 64 * 64 + __builtin_ctzll(head);
    for (unsigned i = 1; i <= kWords; ++i) {
      const unsigned word = (start / 64 + i) % kWords;
      if (words_[word] != 0) return word * 64 + __builtin_ctzll(words_[word]);
    }
    return -1;
  }

 private:
  static constexpr unsigned kWords = kMostThreads / 64;
  uint64_t words_[kWords] = {};
};

}  // namespace cuda_sim
