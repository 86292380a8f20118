// Who sums the planes of a tile, and keeps the map in registers: a thread, a warp or the block a plane, or a lane a
// few.
#pragma once
#include "staging.h"

namespace fastcam::cuda {

// The staged planes of a tile. Weights that are given stay in memory.
template <class T, class W>
struct Planes {
  const T* a;
  const W* w;
  Tile tile;
  int count, positions;
  int64_t given;  // distance of the given weights

  FASTCAM_DEVICE int at(int c, int p) const { return c * tile.channel + p * tile.position; }
};

// What a rule adds at one position; activations that it does not read are not there.
template <class Rule, class T, class Acc>
FASTCAM_DEVICE Acc staged_term(const Rule& rule, const Planes<T, T>& planes, int at, Acc activation_sum) {
  const Acc activation = Rule::kReadsActivations ? Acc(widen(planes.a[at])) : Acc(0);
  return rule.term(activation, Acc(widen(planes.w[at])), activation_sum);
}

// The sums over the lanes of `kCount` values each: lane l gets those of the values l * kCount / 32 and the following,
// in values[0] and the following.
template <int kCount, class Acc>
FASTCAM_DEVICE void transposed_sums(Acc (&values)[kCount]) {
  static_assert(kCount % kWarp == 0, "whole values for every lane");
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int half = kCount / 2, offset = kWarp / 2; offset > 0; half /= 2, offset /= 2) {
    const bool upper = lane & offset;
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      if (i >= half) break;
      const Acc sent = upper ? values[i] : values[i + half], kept = upper ? values[i + half] : values[i];
      values[i] = kept + __shfl_xor_sync(0xffffffffu, sent, offset);
    }
  }
}

// A thread owns a channel: inside a tile no thread waits for another. For planes of up to kThreadPlane positions.
template <class T, bool kChannelsInside>
struct ThreadOwner {
  using Acc = accumulator_t<T>;
  static constexpr bool kRows = kChannelsInside;
  static constexpr int kBlock = sizeof(T) == 8 ? 32 : 64, kBlocks = sizeof(T) == 8 ? 8 : 6;
  static constexpr int kMost = kThreadPlane, kWarpsHere = kBlock / kWarp;

  Acc map[kMost];

  static Tile tile(int positions) {
    if (kRows) return {kBlock, 1, kBlock, kBlock * positions};
    const int pitch = padded<T>(positions);
    return {kBlock, pitch, 1, whole_packs<T>(kBlock * pitch)};
  }
  static int scratch(int) { return kWarpsHere * kMost; }  // of Acc

  FASTCAM_DEVICE void clear() {
#pragma unroll
    for (int p = 0; p < kMost; ++p) map[p] = 0;
  }

  template <Weighting weighting, class Rule, class W>
  FASTCAM_DEVICE void add(const Rule& rule, const Planes<T, W>& planes, Acc* weights) {
    const int c = threadIdx.x, step = kRows ? kBlock : 1;
    if (c >= planes.count) return;
    const int first = planes.at(c, 0);
    Acc weight = 0;
    if constexpr (weighting == Weighting::given) weight = planes.w[c * planes.given];
    if constexpr (from_plane(weighting)) {
      Acc sum = 0, total = 0;
      if constexpr (Rule::kReadsActivations) {
#pragma unroll 8
        for (int p = 0; p < planes.positions; ++p) sum += Acc(widen(planes.a[first + p * step]));
      }
#pragma unroll 8
      for (int p = 0; p < planes.positions; ++p) total += staged_term(rule, planes, first + p * step, sum);
      weight = rule.weight(total, sum, static_cast<int64_t>(planes.positions));
    }
    if constexpr (weighting == Weighting::only) {
      weights[c] = weight;
    } else {
#pragma unroll
      for (int p = 0; p < kMost; ++p) {
        if (p >= planes.positions) continue;
        const Acc activation = widen(planes.a[first + p * step]);
        if constexpr (weighting == Weighting::element) {
          map[p] += rule.element(activation, Acc(widen(planes.w[first + p * step])));
        } else {
          map[p] += weight * activation;
        }
      }
    }
  }

  // Calls `emit(p, sum)` for every position, in one thread.
  template <class Emit>
  FASTCAM_DEVICE void finish(int positions, Acc* scratch, const Emit& emit) {
    constexpr int kEach = kMost / kWarp;
    transposed_sums(map);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      scratch[threadIdx.x / kWarp * kMost + threadIdx.x % kWarp * kEach + i] = map[i];
    }
    __syncthreads();
    for (int p = threadIdx.x; p < positions; p += kBlock) {
      Acc sum = 0;
#pragma unroll
      for (int warp = 0; warp < kWarpsHere; ++warp) sum += scratch[warp * kMost + p];
      emit(p, sum);
    }
  }
};

// A warp owns a channel, a lane every 32nd position. For planes of up to 32 * kSlots positions.
template <class T, int kSlots>
struct WarpOwner {
  using Acc = accumulator_t<T>;
  static constexpr bool kRows = false;
  static constexpr int kBlock = kThreads, kBlocks = 2;

  Acc map[kSlots];

  static Tile tile(int positions) {
    int planes = 64;
    while (planes > 1 && planes * positions * static_cast<int64_t>(sizeof(T)) > kTileBytes) planes /= 2;
    return {planes, positions, 1, whole_packs<T>(planes * positions)};
  }
  static int scratch(int positions) { return positions; }

  FASTCAM_DEVICE void clear() {
#pragma unroll
    for (int k = 0; k < kSlots; ++k) map[k] = 0;
  }

  template <Weighting weighting, class Rule, class W>
  FASTCAM_DEVICE void add(const Rule& rule, const Planes<T, W>& planes, Acc* weights) {
    const int lane = threadIdx.x % kWarp;
    for (int c = threadIdx.x / kWarp; c < planes.count; c += kWarps) {
      const int first = planes.at(c, lane);
      const int left = planes.positions - lane;
      Acc weight = 0;
      if constexpr (weighting == Weighting::given) weight = planes.w[c * planes.given];
      if constexpr (from_plane(weighting)) {
        Acc sum = 0, total = 0;
        if constexpr (Rule::kReadsActivations) {
#pragma unroll 8
          for (int p = 0; p < left; p += kWarp) sum += Acc(widen(planes.a[first + p]));
          sum = warp_sum(sum);
        }
#pragma unroll 8
        for (int p = 0; p < left; p += kWarp) total += staged_term(rule, planes, first + p, sum);
        total = warp_sum(total);
        weight = rule.weight(total, sum, static_cast<int64_t>(planes.positions));
      }
      if constexpr (weighting == Weighting::only) {
        if (lane == 0) weights[c] = weight;
      } else {
#pragma unroll
        for (int k = 0; k < kSlots; ++k) {
          if (k * kWarp >= left) continue;
          const Acc activation = widen(planes.a[first + k * kWarp]);
          if constexpr (weighting == Weighting::element) {
            map[k] += rule.element(activation, Acc(widen(planes.w[first + k * kWarp])));
          } else {
            map[k] += weight * activation;
          }
        }
      }
    }
  }

  template <class Emit>
  FASTCAM_DEVICE void finish(int positions, Acc* scratch, const Emit& emit) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    for (int turn = 0; turn < kWarps; ++turn) {  // the warps' maps are added in order
      if (warp == turn) {
#pragma unroll
        for (int k = 0; k < kSlots; ++k) {
          const int p = lane + k * kWarp;
          if (p < positions) scratch[p] = turn == 0 ? map[k] : scratch[p] + map[k];
        }
      }
      __syncthreads();
    }
    for (int p = threadIdx.x; p < positions; p += kBlock) emit(p, scratch[p]);
  }
};

// The block owns a channel, a thread every 256th position. For planes of up to 256 * kSlots positions, and for rules
// that read activations and gradients of a whole plane.
template <class T, int kSlots>
struct BlockOwner {
  using Acc = accumulator_t<T>;
  static constexpr bool kRows = false;
  static constexpr int kBlock = kThreads, kBlocks = kSlots > 16 ? 1 : 2;

  Acc map[kSlots];

  static Tile tile(int positions) {
    int planes = 4;
    while (planes > 1 && planes * positions * static_cast<int64_t>(sizeof(T)) > kTileBytes) planes /= 2;
    return {planes, positions, 1, whole_packs<T>(planes * positions)};
  }
  static int scratch(int) { return 0; }

  FASTCAM_DEVICE void clear() {
#pragma unroll
    for (int k = 0; k < kSlots; ++k) map[k] = 0;
  }

  template <Weighting weighting, class Rule, class W>
  FASTCAM_DEVICE void add(const Rule& rule, const Planes<T, W>& planes, Acc* weights) {
    static_assert(needs_activations_first<weighting, Rule>(), "other large planes need no block of their own");
    const int left = planes.positions - static_cast<int>(threadIdx.x);
    for (int c = 0; c < planes.count; ++c) {
      const int first = planes.at(c, threadIdx.x);
      Acc sum = 0, total = 0;
#pragma unroll 4
      for (int p = 0; p < left; p += kBlock) sum += Acc(widen(planes.a[first + p]));
      sum = block_sum(sum);
#pragma unroll 4
      for (int p = 0; p < left; p += kBlock) total += staged_term(rule, planes, first + p, sum);
      total = block_sum(total);
      const Acc weight = rule.weight(total, sum, static_cast<int64_t>(planes.positions));
      if constexpr (weighting == Weighting::only) {
        if (threadIdx.x == 0) weights[c] = weight;
      } else {
#pragma unroll
        for (int k = 0; k < kSlots; ++k) {
          if (k * kBlock < left) map[k] += weight * Acc(widen(planes.a[first + k * kBlock]));
        }
      }
    }
  }

  template <class Emit>
  FASTCAM_DEVICE void finish(int positions, Acc*, const Emit& emit) {
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
      const int p = threadIdx.x + k * kBlock;
      if (p < positions) emit(p, map[k]);
    }
  }
};

}  // namespace fastcam::cuda
