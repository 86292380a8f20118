// Who sums planes whose channels lie side by side, where they are too large for a thread.
#pragma once
#include "plane_owners.h"
#include "rows.h"

namespace fastcam::cuda {

// Planes whose channels lie side by side (NHWC): a lane owns a word of channels, one or two, and a warp every eighth
// position. For planes of up to kColumnPlane positions.
template <class T>
struct ColumnOwner {
  using Acc = accumulator_t<T>;
  static constexpr bool kRows = true;
  static constexpr int kBlock = kThreads, kBlocks = 2;
  static constexpr int kSlots = kColumnPlane / kWarps, kWord = sizeof(T) == 2 ? 2 : 1, kPlanes = kWarp * kWord;
  struct alignas(kWord * sizeof(T)) Word {
    T v[kWord];
  };

  Acc map[kSlots];

  static Tile tile(int positions) { return {kPlanes, 1, kPlanes, kPlanes * positions}; }
  static int scratch(int) { return 0; }

  FASTCAM_DEVICE void clear() {
#pragma unroll
    for (int k = 0; k < kSlots; ++k) map[k] = 0;
  }

  // The lane's word at a position; zeros where the tile has no such channel.
  FASTCAM_DEVICE static Word word_at(const T* tensor, int p, int count) {
    const int c = threadIdx.x % kWarp * kWord;
    Word word = *reinterpret_cast<const Word*>(tensor + p * kPlanes + c);
#pragma unroll
    for (int i = 0; i < kWord; ++i) {
      if (c + i >= count) word.v[i] = T{};
    }
    return word;
  }

  template <Weighting weighting, class Rule, class W>
  FASTCAM_DEVICE void add(const Rule& rule, const Planes<T, W>& planes, Acc* weights_out) {
    const int warp = threadIdx.x / kWarp, c = threadIdx.x % kWarp * kWord;
    Acc weights[kWord] = {};
    if constexpr (weighting == Weighting::given) {
#pragma unroll
      for (int i = 0; i < kWord; ++i) {
        if (c + i < planes.count) weights[i] = planes.w[(c + i) * planes.given];
      }
    }
    if constexpr (from_plane(weighting)) find_weights(rule, planes, weights);
    if constexpr (weighting == Weighting::only) {
#pragma unroll
      for (int i = 0; i < kWord; ++i) {
        if (warp == 0 && c + i < planes.count) weights_out[c + i] = weights[i];
      }
    } else {
#pragma unroll
      for (int k = 0; k < kSlots; ++k) {
        const int p = warp + k * kWarps;
        if (p >= planes.positions) continue;
        const Word a = word_at(planes.a, p, planes.count);
        if constexpr (weighting == Weighting::element) {
          const Word w = word_at(planes.w, p, planes.count);
#pragma unroll
          for (int i = 0; i < kWord; ++i) map[k] += rule.element(Acc(widen(a.v[i])), Acc(widen(w.v[i])));
        } else {
#pragma unroll
          for (int i = 0; i < kWord; ++i) map[k] += weights[i] * Acc(widen(a.v[i]));
        }
      }
    }
  }

  template <class Rule>
  FASTCAM_DEVICE static void find_weights(const Rule& rule, const Planes<T, T>& planes, Acc (&weights)[kWord]) {
    const int warp = threadIdx.x / kWarp, c = threadIdx.x % kWarp * kWord;
    Acc sums[kWord] = {}, totals[kWord] = {};
    if constexpr (Rule::kReadsActivations) {
#pragma unroll 4
      for (int p = warp; p < planes.positions; p += kWarps) {
        const Word a = word_at(planes.a, p, planes.count);
#pragma unroll
        for (int i = 0; i < kWord; ++i) sums[i] += widen(a.v[i]);
      }
      add_positions<kWarp>(sums);
    }
#pragma unroll 4
    for (int p = warp; p < planes.positions; p += kWarps) {
      const Word w = word_at(planes.w, p, planes.count);
      Word a{};
      if constexpr (Rule::kReadsActivations) a = word_at(planes.a, p, planes.count);
#pragma unroll
      for (int i = 0; i < kWord; ++i) totals[i] += rule.term(Acc(widen(a.v[i])), Acc(widen(w.v[i])), sums[i]);
    }
    add_positions<kWarp>(totals);
#pragma unroll
    for (int i = 0; i < kWord; ++i) {  // past the end the rule might divide 0 by 0
      if (c + i < planes.count) weights[i] = rule.weight(totals[i], sums[i], static_cast<int64_t>(planes.positions));
    }
  }

  template <class Emit>
  FASTCAM_DEVICE void finish(int positions, Acc*, const Emit& emit) {
    constexpr int kEach = kSlots / kWarp;
    transposed_sums(map);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int slot = threadIdx.x % kWarp * kEach + i, p = threadIdx.x / kWarp + slot * kWarps;
      if (p < positions) emit(p, map[i]);
    }
  }
};

}  // namespace fastcam::cuda
