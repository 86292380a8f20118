// Channel reductions where the channels of a position lie side by side in memory (NHWC). A lane takes one pack of
// channels, kRowLanes of them a position's chunk of 128 bytes, and a block all positions of the chunk: narrow chunks
// make many blocks, and all of them together keep enough on its way from memory.
#pragma once
#include "reduction.h"

namespace fastcam::cuda {

// Positions that a block takes at a time.
constexpr int kSlots = kThreads / kRowLanes;

// Adds what the threads summed over their positions, for every channel of the chunk, of which kLanes threads side by
// side have kSize each; in a fixed order.
template <int kLanes, class Acc, int kSize>
FASTCAM_DEVICE void add_positions(Acc (&values)[kSize]) {
  FASTCAM_SHARED(Acc, parts, [kWarps][kLanes * kSize]);
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kWarp;
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
#pragma unroll
    for (int offset = kLanes; offset < kWarp; offset *= 2) {
      values[i] += __shfl_xor_sync(0xffffffffu, values[i], offset);
    }
  }
  __syncthreads();  // the parts of an earlier sum may still be read
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    if (threadIdx.x % kWarp < kLanes) parts[warp][i * kLanes + lane] = values[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    values[i] = 0;
    for (int other = 0; other < kWarps; ++other) values[i] += parts[other][i * kLanes + lane];
  }
}

// The rule's weights of the lane's channels; 0 past the end, where the rule might divide 0 by 0.
template <bool kAligned, class Rule, class T, class Acc, int kSize>
FASTCAM_DEVICE void row_rule(const Rule& rule, const Arguments<T, T>& arguments, const T* a, const T* w, int64_t count,
                             Acc (&weights)[kSize]) {
  const int64_t positions = arguments.sizes.positions, slot = threadIdx.x / kRowLanes;
  const auto activations = [&](int64_t p) { return load_pack<kAligned>(a + p * arguments.as.position, count); };
  const auto gradients = [&](int64_t p) { return load_pack<kAligned>(w + p * arguments.ws.position, count); };
  Acc sums[kSize] = {}, totals[kSize] = {};
  const auto add_term = [&](const Pack<T>& values, const Pack<T>& gradient) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      totals[i] += rule.term(Acc(widen(values.v[i])), Acc(widen(gradient.v[i])), sums[i]);
    }
  };
  if constexpr (Rule::kReadsActivations) {
    for_loaded<8>(slot, positions, kSlots, activations, [&](int64_t, const Pack<T>& values) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) sums[i] += widen(values.v[i]);
    });
    add_positions<kRowLanes>(sums);
    const auto both = [&](int64_t p) { return Loaded<Pack<T>, Pack<T>>{activations(p), gradients(p)}; };
    for_loaded<4>(slot, positions, kSlots, both, [&](int64_t, const auto& at) { add_term(at.a, at.w); });
  } else {
    for_loaded<8>(slot, positions, kSlots, gradients,
                  [&](int64_t, const Pack<T>& gradient) { add_term(Pack<T>{}, gradient); });
  }
  add_positions<kRowLanes>(totals);
#pragma unroll
  for (int i = 0; i < kSize; ++i) weights[i] = i < count ? rule.weight(totals[i], sums[i], positions) : Acc(0);
}

// out[p] = sum of the chunk's weighted channels.
template <Weighting weighting, bool kAligned, class Rule, class T, class W, class Acc, int kSize>
FASTCAM_DEVICE void add_rows(const Rule& rule, const Arguments<T, W>& arguments, const T* a, const W* w, int64_t count,
                             const Acc (&weights)[kSize], Acc* out) {
  const int64_t positions = arguments.sizes.positions, slot = threadIdx.x / kRowLanes;
  // Lanes add to each other's sums, so that those past the end go along, at the last position.
  const auto place = [&](int64_t first) { return first + slot < positions ? first + slot : positions - 1; };
  const auto activations = [&](int64_t p) { return load_pack<kAligned>(a + p * arguments.as.position, count); };
  const auto write = [&](int64_t first, Acc sum) {
#pragma unroll
    for (int offset = kRowLanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    const int64_t p = first + slot;
    if (p < positions && threadIdx.x % kRowLanes == 0) out[p] = arguments.relu ? rectify(sum) : sum;
  };
  if constexpr (weighting == Weighting::element) {
    const auto load = [&](int64_t first) {
      const int64_t p = place(first);
      return Loaded<Pack<T>, Pack<W>>{activations(p), load_pack<kAligned>(w + p * arguments.ws.position, count)};
    };
    for_loaded<4>(0, positions, kSlots, load, [&](int64_t first, const auto& at) {
      Acc sum = 0;
#pragma unroll
      for (int i = 0; i < kSize; ++i) sum += rule.element(Acc(widen(at.a.v[i])), Acc(widen(at.w.v[i])));
      write(first, sum);
    });
  } else {
    const auto load = [&](int64_t first) { return activations(place(first)); };
    for_loaded<8>(0, positions, kSlots, load, [&](int64_t first, const Pack<T>& values) {
      Acc sum = 0;
#pragma unroll
      for (int i = 0; i < kSize; ++i) sum += weights[i] * Acc(widen(values.v[i]));
      write(first, sum);
    });
  }
}

// One chunk; `kAligned` for all lanes or none.
template <Weighting weighting, bool kAligned, class Rule, class T, class W>
FASTCAM_DEVICE void add_row_chunk(const Rule& rule, const Arguments<T, W>& arguments, const Task& task) {
  using Acc = accumulator_t<T>;
  constexpr int kSize = Pack<T>::size;
  const int64_t positions = arguments.sizes.positions, channel = threadIdx.x % kRowLanes * kSize;
  const int64_t count = task.count - channel;  // channels of this lane; none where it is not positive
  const T* a = activations_of(arguments, task) + channel * arguments.as.channel;
  const W* w = weights_of(arguments, task) + channel * arguments.ws.channel;
  Acc weights[kSize] = {};
  if constexpr (weighting == Weighting::given) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) weights[i] = i < count ? w[i * arguments.ws.channel] : Acc(0);
  }
  if constexpr (from_plane(weighting)) row_rule<kAligned>(rule, arguments, a, w, count, weights);
  if constexpr (weighting == Weighting::only) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      if (threadIdx.x < kRowLanes && i < count) weight_results(arguments, task)[channel + i] = weights[i];
    }
  } else {
    add_rows<weighting, kAligned>(rule, arguments, a, w, count, weights, arguments.out + task.part * positions);
  }
}

template <Weighting weighting, class Rule, class T, class W>
__global__ void __launch_bounds__(kThreads, 2) rows(const Arguments<T, W> arguments, const Rule rule) {
  constexpr bool kReadsBoth = reads_activations<weighting, Rule>() && weighting != Weighting::given;
  const bool aligned = kReadsBoth                      ? arguments.a_aligned && arguments.w_aligned
                       : weighting == Weighting::given ? arguments.a_aligned
                                                       : arguments.w_aligned;
  for (unsigned index = blockIdx.x; index < arguments.tasks(); index += gridDim.x) {
    const Task task = task_at(arguments, index);
    if (aligned && task.count == kRowLanes * Pack<T>::size) {
      add_row_chunk<weighting, true>(rule, arguments, task);
    } else {
      add_row_chunk<weighting, false>(rule, arguments, task);
    }
  }
}

}  // namespace fastcam::cuda
