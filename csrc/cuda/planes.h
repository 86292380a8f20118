// Channel reductions of planes (NCHW) too large for shared memory, or whose weights need no whole plane.
#pragma once
#include <type_traits>

#include "reduction.h"

namespace fastcam::cuda {

// Adds the channels of a chunk at one pack of positions.
template <Weighting weighting, bool kAligned, class Rule, class T, class W, class Acc, int kSize>
FASTCAM_DEVICE void add_channels(const Rule& rule, const Arguments<T, W>& arguments, const T* a, const W* w, int count,
                                 int64_t left, Acc (&map)[kSize]) {
  const Strides &as = arguments.as, &ws = arguments.ws;
  const auto activations = [&](int64_t c) { return load_pack<kAligned>(a + c * as.channel, left); };
  if constexpr (weighting == Weighting::element) {
    const auto load = [&](int64_t c) {
      return Loaded<Pack<T>, Pack<W>>{activations(c), load_pack<kAligned>(w + c * ws.channel, left, ws.position)};
    };
    for_loaded<4>(0, count, 1, load, [&](int64_t, const auto& at) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) map[i] += rule.element(Acc(widen(at.a.v[i])), Acc(widen(at.w.v[i])));
    });
  } else {
    const auto load = [&](int64_t c) { return Loaded<Pack<T>, W>{activations(c), w[c * ws.channel]}; };
    for_loaded<8>(0, count, 1, load, [&](int64_t, const auto& at) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) map[i] += at.w * Acc(widen(at.a.v[i]));
    });
  }
}

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
    const bool aligned = arguments.a_aligned && (weighting != Weighting::element || arguments.w_aligned);
    if (aligned && left >= kSize) {
      add_channels<weighting, true>(rule, arguments, a, w, task.count, left, map);
    } else {
      add_channels<weighting, false>(rule, arguments, a, w, task.count, left, map);
    }
    Acc* out = arguments.out + task.part * positions + p;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      if (i < left) out[i] = arguments.relu ? rectify(map[i]) : map[i];
    }
  }
}

// What a thread adds of a plane. Elements past its end are zeros, whose term is zero.
template <bool kAligned, class T, class Acc>
FASTCAM_DEVICE Acc sum_of_plane(const T* a, int64_t positions) {
  constexpr int kSize = Pack<T>::size;
  Acc sum = 0;
  const auto add = [&](int64_t, const Pack<T>& values) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) sum += widen(values.v[i]);
  };
  const int64_t whole = kAligned ? positions / kSize * kSize : positions, first = threadIdx.x * kSize;
  for_loaded<4>(
      first, whole, kThreads * kSize, [&](int64_t p) { return load_pack<kAligned>(a + p, positions - p); }, add);
  if (whole < positions && threadIdx.x == whole / kSize % kThreads)
    add(whole, load_pack<false>(a + whole, positions - whole));
  return sum;
}

template <bool kAligned, class Rule, class T, class Acc>
FASTCAM_DEVICE Acc terms_of_plane(const Rule& rule, const T* a, const T* w, int64_t stride, int64_t positions,
                                  Acc sum) {
  constexpr int kSize = Pack<T>::size;
  Acc total = 0;
  const auto load = [&](int64_t p, auto is_aligned) {
    constexpr bool kIsAligned = decltype(is_aligned)::value;
    Loaded<Pack<T>, Pack<T>> at{};
    at.w = load_pack<kIsAligned>(w + p * stride, positions - p, stride);
    if constexpr (Rule::kReadsActivations) at.a = load_pack<kIsAligned>(a + p, positions - p);
    return at;
  };
  const auto add = [&](int64_t, const Loaded<Pack<T>, Pack<T>>& at) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) total += rule.term(Acc(widen(at.a.v[i])), Acc(widen(at.w.v[i])), sum);
  };
  const int64_t whole = kAligned ? positions / kSize * kSize : positions, first = threadIdx.x * kSize;
  for_loaded<4>(
      first, whole, kThreads * kSize, [&](int64_t p) { return load(p, std::bool_constant<kAligned>{}); }, add);
  if (whole < positions && threadIdx.x == whole / kSize % kThreads) add(whole, load(whole, std::false_type{}));
  return total;
}

// The rule's weight of each plane, (N, K, C), a block for a plane.
template <class Rule, class T>
__global__ void __launch_bounds__(kThreads, 2) plane_weights(const Arguments<T, T> arguments, const Rule rule) {
  using Acc = accumulator_t<T>;
  const int64_t positions = arguments.sizes.positions, channels = arguments.sizes.channels;
  const auto targets = static_cast<unsigned>(arguments.sizes.targets), planes = static_cast<unsigned>(channels);
  for (unsigned index = blockIdx.x; index < arguments.sizes.rows() * channels; index += gridDim.x) {
    const unsigned c = index % planes, target = index / planes % targets, image = index / planes / targets;
    const T* a = arguments.a + image * arguments.as.image + c * arguments.as.channel;
    const T* w = arguments.w + image * arguments.ws.image + target * arguments.ws.target + c * arguments.ws.channel;
    const bool aligned = arguments.w_aligned && (!Rule::kReadsActivations || arguments.a_aligned);
    const int64_t stride = arguments.ws.position;
    Acc sum = 0;
    if constexpr (Rule::kReadsActivations) {
      sum = block_sum(aligned ? sum_of_plane<true, T, Acc>(a, positions) : sum_of_plane<false, T, Acc>(a, positions));
    }
    const Acc total = block_sum(aligned ? terms_of_plane<true>(rule, a, w, stride, positions, sum)
                                        : terms_of_plane<false>(rule, a, w, stride, positions, sum));
    if (threadIdx.x == 0) arguments.out[index] = rule.weight(total, sum, positions);
  }
}

}  // namespace fastcam::cuda
