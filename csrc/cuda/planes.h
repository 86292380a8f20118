// Channel reductions of planes (NCHW) too large for shared memory, or whose weights need no whole plane.
#pragma once
#include "reduction.h"

namespace fastcam::cuda {

// A thread keeps one pack of positions of the map and goes through the channels of a chunk.
template <Weighting weighting, class Rule, class T, class W>
__global__ void __launch_bounds__(kThreads, 2) large_planes(const Arguments<T, W> arguments, const Rule rule) {
  using Acc = accumulator_t<T>;
  constexpr int kSize = Pack<T>::size;
  const int64_t positions = arguments.sizes.positions, width = static_cast<int64_t>(kThreads) * kSize;
  const auto columns = static_cast<unsigned>((positions + width - 1) / width);  // runs of the map, a block for each
  for (unsigned index = blockIdx.x; index < arguments.tasks() * columns; index += gridDim.x) {
    const Task task = task_at(arguments, index / columns);
    const int64_t p = index % columns * width + threadIdx.x * kSize, left = positions - p;
    if (left <= 0) continue;
    const T* a = activations_of(arguments, task) + p;
    const W* w = weights_of(arguments, task) + (weighting == Weighting::element ? p * arguments.ws.position : 0);
    Acc map[kSize] = {};
#pragma unroll 4
    for (int c = 0; c < task.count; ++c) {
      const Pack<T> values = load_pack(a + c * arguments.as.channel, left, arguments.a_aligned);
      if constexpr (weighting == Weighting::element) {
        const Pack<W> weights =
            load_pack(w + c * arguments.ws.channel, left, arguments.w_aligned, arguments.ws.position);
#pragma unroll
        for (int i = 0; i < kSize; ++i) map[i] += rule.element(Acc(widen(values.v[i])), Acc(widen(weights.v[i])));
      } else {
        const Acc weight = w[c * arguments.ws.channel];
#pragma unroll
        for (int i = 0; i < kSize; ++i) map[i] += weight * Acc(widen(values.v[i]));
      }
    }
    Acc* out = arguments.out + task.part * positions + p;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      if (i < left) out[i] = arguments.relu ? rectify(map[i]) : map[i];
    }
  }
}

// The rule's weight of each plane, (N, K, C), a block for a plane. Elements past its end are zeros,
// whose term is zero.
template <class Rule, class T>
__global__ void __launch_bounds__(kThreads, 2) plane_weights(const Arguments<T, T> arguments, const Rule rule) {
  using Acc = accumulator_t<T>;
  constexpr int kSize = Pack<T>::size;
  const int64_t positions = arguments.sizes.positions, channels = arguments.sizes.channels;
  const auto targets = static_cast<unsigned>(arguments.sizes.targets), planes = static_cast<unsigned>(channels);
  for (unsigned index = blockIdx.x; index < arguments.sizes.rows() * channels; index += gridDim.x) {
    const unsigned c = index % planes, target = index / planes % targets, image = index / planes / targets;
    const T* a = arguments.a + image * arguments.as.image + c * arguments.as.channel;
    const T* w = arguments.w + image * arguments.ws.image + target * arguments.ws.target + c * arguments.ws.channel;
    Acc sum = 0, total = 0;
    if constexpr (Rule::kReadsActivations) {
#pragma unroll 2
      for (int64_t p = threadIdx.x * kSize; p < positions; p += kThreads * kSize) {
        const Pack<T> values = load_pack(a + p, positions - p, arguments.a_aligned);
#pragma unroll
        for (int i = 0; i < kSize; ++i) sum += widen(values.v[i]);
      }
      sum = block_sum(sum);
    }
#pragma unroll 2
    for (int64_t p = threadIdx.x * kSize; p < positions; p += kThreads * kSize) {
      const int64_t left = positions - p;
      const Pack<T> gradients =
          load_pack(w + p * arguments.ws.position, left, arguments.w_aligned, arguments.ws.position);
      Pack<T> values{};
      if constexpr (Rule::kReadsActivations) values = load_pack(a + p, left, arguments.a_aligned);
#pragma unroll
      for (int i = 0; i < kSize; ++i) total += rule.term(Acc(widen(values.v[i])), Acc(widen(gradients.v[i])), sum);
    }
    total = block_sum(total);
    if (threadIdx.x == 0) arguments.out[index] = rule.weight(total, sum, positions);
  }
}

}  // namespace fastcam::cuda
