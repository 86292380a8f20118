// Tiles of planes in shared memory: while one is summed, the next is on its way.
#pragma once
#include "reduction.h"

namespace fastcam::cuda {

constexpr int kStages = 2;

// How the planes of one tensor lie in shared memory: element (c, p) at c * channel + p * position.
struct Tile {
  int planes, channel, position, room;  // room: elements of the tile, whole packs
};

template <class T>
int whole_packs(int elements) {
  constexpr int kSize = Pack<T>::size;
  return (elements + kSize - 1) / kSize * kSize;
}

// The distance of planes of which 32 threads read one position each: where it is a multiple of four banks, four threads
// and more would wait for each other, and a word more helps.
template <class T>
int padded(int positions) {
  constexpr int kWord = sizeof(T) == 2 ? 2 : 1;  // elements
  const bool is_spread = positions % kWord != 0 || positions / kWord % 4 != 0;
  return is_spread ? positions : positions + kWord;
}

// The widest asynchronous copy that everything in `bits`, addresses and distances in bytes, is a multiple of.
FASTCAM_DEVICE int copy_width(uintptr_t bits) {
  return bits % 16 == 0 ? 16 : bits % 8 == 0 ? 8 : bits % 4 == 0 ? 4 : 0;
}

// Copies `kBytes` at a time, by the threads `first`, `first + step`, ...; returns the elements that were copied.
template <int kBytes, class T>
FASTCAM_DEVICE int copy_words(const T* source, T* target, int length, int first, int step) {
  constexpr int kSize = kBytes / static_cast<int>(sizeof(T));
  const int words = length / kSize;
#pragma unroll 2
  for (int i = first; i < words; i += step) copy_async<kBytes>(target + i * kSize, source + i * kSize);
  return words * kSize;
}

template <class T>
FASTCAM_DEVICE void copy_line(const T* source, T* target, int length, int width, int first, int step) {
  int copied = 0;
  if (width == 16) {
    copied = copy_words<16>(source, target, length, first, step);
  } else if (width == 8) {
    copied = copy_words<8>(source, target, length, first, step);
  } else if constexpr (sizeof(T) <= 4) {
    if (width == 4) copied = copy_words<4>(source, target, length, first, step);
  }
  for (int i = copied + first; i < length; i += step) target[i] = source[i];
}

// Copies `lines` runs of `length` elements: one by the whole block, several by as many lanes each as find something to
// do.
template <int kBlock, class T>
FASTCAM_DEVICE void copy_lines(const T* source, int64_t source_step, T* target, int target_step, int lines,
                               int length) {
  const auto addresses = reinterpret_cast<uintptr_t>(source) | reinterpret_cast<uintptr_t>(target);
  if (lines == 1) return copy_line(source, target, length, copy_width(addresses), threadIdx.x, kBlock);
  const auto steps = static_cast<uintptr_t>(source_step | target_step) * sizeof(T);
  const int width = copy_width(addresses | steps), words = width == 0 ? length : length * int(sizeof(T)) / width;
  int lanes = kWarp;
  while (lanes > 1 && lanes / 2 >= words) lanes /= 2;
  for (int line = threadIdx.x / lanes; line < lines; line += kBlock / lanes) {
    copy_line(source + line * source_step, target + line * target_step, length, width, threadIdx.x % lanes, lanes);
  }
}

// Begins to bring `count` planes to shared memory.
template <int kBlock, bool kRows, class T>
FASTCAM_DEVICE void fetch(const T* source, const Strides& strides, const Tile& tile, int count, int positions,
                          T* room) {
  if (kRows && strides.channel == 1) {
    return copy_lines<kBlock>(source, strides.position, room, tile.position, positions, count);
  }
  if (!kRows && strides.position == 1) {
    const bool one_run = strides.channel == positions && tile.channel == positions;
    if (one_run) return copy_lines<kBlock>(source, 0, room, 0, 1, count * positions);
    return copy_lines<kBlock>(source, strides.channel, room, tile.channel, count, positions);
  }
  for (int i = threadIdx.x; i < count * positions; i += kBlock) {  // such as a gradient that is the same everywhere
    const int c = i / positions, p = i % positions;
    room[c * tile.channel + p * tile.position] = source[c * strides.channel + p * strides.position];
  }
}

}  // namespace fastcam::cuda
