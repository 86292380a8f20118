// Channel reductions where the positions of a channel lie side by side in memory (NCHW).
#pragma once
#include "reduction.h"

namespace fastcam::cuda {

constexpr int kTileBytes = 8192;  // of one tensor in shared memory at a time
constexpr int kMostPlanes = 64;   // in a tile
constexpr int kSlots = kSmallPlane / kThreads;

// Planes of one tensor that a tile holds.
template <class T>
FASTCAM_INLINE int tile_planes(int64_t positions) {
  const int fit = static_cast<int>(kTileBytes / (positions * static_cast<int64_t>(sizeof(T))));
  return fit < 1 ? 1 : (fit > kMostPlanes ? kMostPlanes : fit);
}

// Elements of shared memory for them: room to begin at any offset within 16 bytes, whole packs.
template <class T>
FASTCAM_INLINE int tile_room(int64_t positions) {
  const int size = Pack<T>::size, count = tile_planes<T>(positions) * static_cast<int>(positions) + size;
  return (count + size - 1) / size * size;
}

// Brings `planes` planes to shared memory, and returns where they begin. A run of memory moves 16 bytes at
// a time whatever its alignment: it keeps its offset within 16 bytes, and only its ends move one by one.
template <class T>
FASTCAM_DEVICE const T* stage(const T* source, int planes, int positions, const Strides& strides, T* room) {
  const int count = planes * positions;
  if (strides.position != 1 || strides.channel != positions) {
    for (int i = threadIdx.x; i < count; i += kThreads) {
      room[i] = source[i / positions * strides.channel + i % positions * strides.position];
    }
    return room;
  }
  constexpr int kSize = Pack<T>::size;
  const int offset = static_cast<int>(reinterpret_cast<uintptr_t>(source) % 16 / sizeof(T));
  T* target = room + offset;
  const int ahead = (kSize - offset) % kSize, head = ahead < count ? ahead : count;
  const int packs = (count - head) / kSize;
  const auto* from = reinterpret_cast<const Pack<T>*>(source + head);
  auto* to = reinterpret_cast<Pack<T>*>(target + head);
#pragma unroll 4
  for (int i = threadIdx.x; i < packs; i += kThreads) to[i] = from[i];
  for (int i = threadIdx.x; i < head; i += kThreads) target[i] = source[i];
  for (int i = head + packs * kSize + threadIdx.x; i < count; i += kThreads) target[i] = source[i];
  return target;
}

// The rule's weight of each staged plane, a warp for a plane.
template <class Rule, class T, class Acc>
FASTCAM_DEVICE void plane_rule(const Rule& rule, const T* a, const T* w, int planes, int positions, Acc* weights) {
  const int lane = threadIdx.x % kWarp;
  for (int i = threadIdx.x / kWarp; i < planes; i += kWarps) {
    const T *a_plane = a + i * positions, *w_plane = w + i * positions;
    Acc sum = 0, total = 0;
    if constexpr (Rule::kReadsActivations) {
      for (int p = lane; p < positions; p += kWarp) sum += widen(a_plane[p]);
      sum = warp_sum(sum);
    }
    for (int p = lane; p < positions; p += kWarp) total += term_at(rule, a_plane, w_plane, p, sum);
    total = warp_sum(total);
    if (lane == 0) weights[i] = rule.weight(total, sum, static_cast<int64_t>(positions));
  }
}

// Adds the staged planes to each thread's part of the map. Where a plane has fewer positions than half
// the block, several groups of threads share the channels; where it has more, a thread has several slots.
template <Weighting weighting, class Rule, class T, class Acc>
FASTCAM_DEVICE void add_tile(const Rule& rule, const T* a, const T* w, const Acc* weights, int planes, int positions,
                             Acc (&map)[kSlots]) {
  const int groups = positions < kThreads ? kThreads / positions : 1;
  const int group = groups > 1 ? threadIdx.x / positions : 0, first = threadIdx.x - group * positions;
  if (group >= groups) return;
  for (int i = group; i < planes; i += groups) {
    const Acc weight = weighting == Weighting::element ? Acc(0) : weights[i];
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const int p = first + slot * kThreads;
      if (p >= positions) break;
      const int at = i * positions + p;
      if constexpr (weighting == Weighting::element) {
        map[slot] += rule.element(Acc(widen(a[at])), Acc(widen(w[at])));
      } else {
        map[slot] += weight * Acc(widen(a[at]));
      }
    }
  }
}

// Writes the map, the groups added in order.
template <class Acc>
FASTCAM_DEVICE void write_map(const Acc (&map)[kSlots], int positions, bool relu, Acc* sums, Acc* out) {
  const int groups = positions < kThreads ? kThreads / positions : 1;
  if (groups == 1) {
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const int p = threadIdx.x + slot * kThreads;
      if (p < positions) out[p] = relu ? rectify(map[slot]) : map[slot];
    }
    return;
  }
  sums[threadIdx.x] = map[0];
  __syncthreads();
  if (threadIdx.x >= positions) return;
  Acc total = 0;
  for (int group = 0; group < groups; ++group) total += sums[group * positions + threadIdx.x];
  out[threadIdx.x] = relu ? rectify(total) : total;
}

// Planes of up to kSmallPlane positions, staged tile by tile: everything is read once, for the weight of
// a channel is known before its activations leave shared memory. A block sums one chunk of channels.
template <Weighting weighting, class Rule, class T, class W>
__global__ void __launch_bounds__(kThreads, 2) small_planes(const Arguments<T, W> arguments, const Rule rule) {
  using Acc = accumulator_t<T>;
  FASTCAM_DYNAMIC_SHARED(T, room);
  FASTCAM_SHARED(Acc, weights, [kMostPlanes]);
  FASTCAM_SHARED(Acc, sums, [kThreads]);
  const int positions = static_cast<int>(arguments.sizes.positions), most = tile_planes<T>(positions);

  for (unsigned index = blockIdx.x; index < arguments.tasks(); index += gridDim.x) {
    const Task task = task_at(arguments, index);
    const T* a = activations_of(arguments, task);
    const W* w = weights_of(arguments, task);
    Acc map[kSlots] = {};
    for (int c = 0; c < task.count; c += most) {
      const int planes = task.count - c < most ? static_cast<int>(task.count - c) : most;
      const T *a_tile = room, *w_tile = room;
      __syncthreads();  // the tile before may still be read
      if constexpr (reads_activations<weighting, Rule>()) {
        a_tile = stage(a + c * arguments.as.channel, planes, positions, arguments.as, room);
      }
      if constexpr (weighting == Weighting::given) {
        for (int i = threadIdx.x; i < planes; i += kThreads) weights[i] = w[(c + i) * arguments.ws.channel];
      } else {
        w_tile = stage(w + c * arguments.ws.channel, planes, positions, arguments.ws, room + tile_room<T>(positions));
      }
      __syncthreads();
      if constexpr (weighting == Weighting::only) {
        plane_rule(rule, a_tile, w_tile, planes, positions, weight_results(arguments, task) + c);
      } else {
        if constexpr (weighting == Weighting::rule) {
          plane_rule(rule, a_tile, w_tile, planes, positions, weights);
          __syncthreads();
        }
        add_tile<weighting>(rule, a_tile, w_tile, weights, planes, positions, map);
      }
    }
    if constexpr (weighting != Weighting::only) {
      write_map(map, positions, arguments.relu, sums, arguments.out + task.part * positions);
    }
  }
}

// Larger planes: a thread keeps one pack of positions of the map and goes through the channels of a chunk.
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

// The rule's weight of each larger plane, (N, K, C), a block for a plane. Elements past its end are zeros,
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
