// Channel reductions where the channels of a position lie side by side in memory (NHWC). A lane of a warp
// takes one pack of channels, the warps take turns at the positions, and a block one chunk of channels.
#pragma once
#include "reduction.h"

namespace fastcam::cuda {

// Adds what the warps summed over their positions, for every channel of the chunk, in order.
template <class T, class Acc, int kSize>
FASTCAM_DEVICE void add_warps(Acc (&values)[kSize]) {
  FASTCAM_SHARED(Acc, parts, [kWarps][kWarp * kSize]);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  __syncthreads();  // the parts of an earlier sum may still be read
#pragma unroll
  for (int i = 0; i < kSize; ++i) parts[warp][i * kWarp + lane] = values[i];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    values[i] = 0;
    for (int other = 0; other < kWarps; ++other) values[i] += parts[other][i * kWarp + lane];
  }
}

// The rule's weights of the lane's channels; 0 past the end, where the rule might divide 0 by 0.
template <class Rule, class T, class Acc, int kSize>
FASTCAM_DEVICE void row_rule(const Rule& rule, const Arguments<T, T>& arguments, const T* a, const T* w, int64_t count,
                             Acc (&weights)[kSize]) {
  const int64_t positions = arguments.sizes.positions;
  const int warp = threadIdx.x / kWarp;
  Acc sums[kSize] = {}, totals[kSize] = {};
  if constexpr (Rule::kReadsActivations) {
#pragma unroll 4
    for (int64_t p = warp; p < positions; p += kWarps) {
      const Pack<T> values = load_pack(a + p * arguments.as.position, count, arguments.a_aligned);
#pragma unroll
      for (int i = 0; i < kSize; ++i) sums[i] += widen(values.v[i]);
    }
    add_warps<T>(sums);
  }
#pragma unroll 4
  for (int64_t p = warp; p < positions; p += kWarps) {
    const Pack<T> gradients = load_pack(w + p * arguments.ws.position, count, arguments.w_aligned);
    Pack<T> values{};
    if constexpr (Rule::kReadsActivations) {
      values = load_pack(a + p * arguments.as.position, count, arguments.a_aligned);
    }
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      totals[i] += rule.term(Acc(widen(values.v[i])), Acc(widen(gradients.v[i])), sums[i]);
    }
  }
  add_warps<T>(totals);
#pragma unroll
  for (int i = 0; i < kSize; ++i) weights[i] = i < count ? rule.weight(totals[i], sums[i], positions) : Acc(0);
}

// out[p] = sum of the chunk's weighted channels, a warp for a position.
template <Weighting weighting, class Rule, class T, class W, class Acc, int kSize>
FASTCAM_DEVICE void add_rows(const Rule& rule, const Arguments<T, W>& arguments, const T* a, const W* w, int64_t count,
                             const Acc (&weights)[kSize], Acc* out) {
#pragma unroll 4
  for (int64_t p = threadIdx.x / kWarp; p < arguments.sizes.positions; p += kWarps) {
    const Pack<T> values = load_pack(a + p * arguments.as.position, count, arguments.a_aligned);
    Acc sum = 0;
    if constexpr (weighting == Weighting::element) {
      const Pack<W> elements = load_pack(w + p * arguments.ws.position, count, arguments.w_aligned);
#pragma unroll
      for (int i = 0; i < kSize; ++i) sum += rule.element(Acc(widen(values.v[i])), Acc(widen(elements.v[i])));
    } else {
#pragma unroll
      for (int i = 0; i < kSize; ++i) sum += weights[i] * Acc(widen(values.v[i]));
    }
    sum = warp_sum(sum);
    if (threadIdx.x % kWarp == 0) out[p] = arguments.relu ? rectify(sum) : sum;
  }
}

template <Weighting weighting, class Rule, class T, class W>
__global__ void __launch_bounds__(kThreads, 2) rows(const Arguments<T, W> arguments, const Rule rule) {
  using Acc = accumulator_t<T>;
  constexpr int kSize = Pack<T>::size;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t positions = arguments.sizes.positions, channel = lane * kSize;
  for (unsigned index = blockIdx.x; index < arguments.tasks(); index += gridDim.x) {
    const Task task = task_at(arguments, index);
    const int64_t count = task.count - channel;  // channels of this lane; none where it is not positive
    const T* a = activations_of(arguments, task) + channel * arguments.as.channel;
    const W* w = weights_of(arguments, task) + channel * arguments.ws.channel;
    Acc weights[kSize] = {};
    if constexpr (weighting == Weighting::given) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) weights[i] = i < count ? w[i * arguments.ws.channel] : Acc(0);
    }
    if constexpr (from_plane(weighting)) row_rule(rule, arguments, a, w, count, weights);
    if constexpr (weighting == Weighting::only) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        if (warp == 0 && i < count) weight_results(arguments, task)[channel + i] = weights[i];
      }
    } else {
      add_rows<weighting>(rule, arguments, a, w, count, weights, arguments.out + task.part * positions);
    }
  }
}

}  // namespace fastcam::cuda
