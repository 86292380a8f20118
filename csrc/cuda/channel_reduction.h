// Chooses the kernels of a channel reduction and launches them.
#pragma once
#include <type_traits>

#include "column_owner.h"
#include "launch_limits.h"
#include "planes.h"
#include "rows.h"
#include "staged_planes.h"

namespace fastcam::cuda {

// Calls `run` with a value of the dtype's type.
template <class Run>
void dispatch(Dtype dtype, const Run& run) {
  switch (dtype) {
    case Dtype::float32:
      return run(float{});
    case Dtype::float64:
      return run(double{});
    case Dtype::float16:
      return run(Half{});
    case Dtype::bfloat16:
      return run(BFloat16{});
  }
}

template <class T, class W>
Arguments<T, W> arguments_of(const Reduction& reduction, void* out) {
  const auto* a = static_cast<const T*>(reduction.activations);
  const auto* w = static_cast<const W*>(reduction.weights);
  return {a,
          w,
          static_cast<accumulator_t<T>*>(out),
          reduction.sizes,
          reduction.as,
          reduction.ws,
          reduction.block_channels(),
          reduction.parts(),
          reduction.chunk(),
          packs_are_aligned<T>(a, reduction.as, reduction.rows),
          packs_are_aligned<T>(w, reduction.ws, reduction.rows),
          reduction.relu && reduction.parts() == 1};
}

template <Weighting weighting, class Rule, class Owner, class T, class W>
void launch_staged(const Arguments<T, W>& arguments, const Rule& rule, cudaStream_t stream) {
  using Acc = accumulator_t<T>;
  const int positions = static_cast<int>(arguments.sizes.positions), scratch = Owner::scratch(positions);
  const Tile tile = Owner::tile(positions);
  const int sums = arguments.chunk > arguments.summed ? positions : 0;
  const size_t bytes = sizeof(T) * kStages * staged_tensors<weighting, Rule>() * static_cast<size_t>(tile.room) +
                       sizeof(Acc) * static_cast<size_t>(scratch + sums);
  allow_shared<staged_planes<weighting, Rule, T, W, Owner>>(bytes);
  FASTCAM_LAUNCH((staged_planes<weighting, Rule, T, W, Owner>), grid_size(arguments.tasks()), Owner::kBlock, bytes,
                 stream, arguments, tile, scratch, rule);
}

template <Weighting weighting, class Rule, class T, class W>
void launch_large_planes(const Arguments<T, W>& arguments, const Rule& rule, cudaStream_t stream) {
  const int64_t width = kThreads * Pack<T>::size;
  const int64_t columns = (arguments.sizes.positions + width - 1) / width;
  FASTCAM_LAUNCH((large_planes<weighting, Rule, T, W>), grid_size(arguments.tasks() * columns), kThreads, 0, stream,
                 arguments, rule);
}

template <Weighting weighting, class Rule, class T, class W>
void launch_rows(const Arguments<T, W>& arguments, const Rule& rule, cudaStream_t stream) {
  FASTCAM_LAUNCH((rows<weighting, Rule, T, W>), grid_size(arguments.tasks()), kThreads, 0, stream, arguments, rule);
}

template <class Acc>
void launch_add_chunks(const Reduction& reduction, cudaStream_t stream) {
  const Sizes& sizes = reduction.sizes;
  const dim3 grid(grid_size((sizes.positions + kThreads - 1) / kThreads), grid_size(sizes.rows()));
  FASTCAM_LAUNCH((add_chunks<Acc>), grid, kThreads, 0, stream, static_cast<const Acc*>(reduction.workspace),
                 static_cast<Acc*>(reduction.maps), sizes.rows(), reduction.parts(), sizes.positions, reduction.relu);
}

// One kernel that reads every tensor once, where the design is one; returns whether it is.
template <Weighting weighting, class Rule, class T, class W>
bool launch_one_pass(const Reduction& reduction, const Arguments<T, W>& arguments, const Rule& rule,
                     cudaStream_t stream) {
  const int64_t positions = reduction.sizes.positions;
  switch (reduction.design()) {
    case Design::thread_planes:
      if (reduction.rows) {
        launch_staged<weighting, Rule, ThreadOwner<T, true>>(arguments, rule, stream);
      } else {
        launch_staged<weighting, Rule, ThreadOwner<T, false>>(arguments, rule, stream);
      }
      return true;
    case Design::warp_planes:
      if (positions <= 8 * kWarp) {
        launch_staged<weighting, Rule, WarpOwner<T, 8>>(arguments, rule, stream);
      } else {
        launch_staged<weighting, Rule, WarpOwner<T, kWarpPlane / kWarp>>(arguments, rule, stream);
      }
      return true;
    case Design::block_planes:
      if constexpr (needs_activations_first<weighting, Rule>()) {
        if (positions <= 16 * kThreads) {
          launch_staged<weighting, Rule, BlockOwner<T, 16>>(arguments, rule, stream);
        } else {
          launch_staged<weighting, Rule, BlockOwner<T, kBlockPlane / kThreads>>(arguments, rule, stream);
        }
        return true;
      }
      return false;
    case Design::column_planes:
      if constexpr (sizeof(T) < 8) launch_staged<weighting, Rule, ColumnOwner<T>>(arguments, rule, stream);
      return true;
    case Design::rows:
      launch_rows<weighting>(arguments, rule, stream);
      return true;
    default:
      return false;
  }
}

// The maps of weights that are there (`given` or `element`), of any plane.
template <Weighting weighting, class Rule, class T, class W>
void launch_weighted(const Reduction& reduction, const Rule& rule, cudaStream_t stream) {
  const auto arguments = arguments_of<T, W>(reduction, reduction.parts() > 1 ? reduction.workspace : reduction.maps);
  if (launch_one_pass<weighting>(reduction, arguments, rule, stream)) return;
  launch_large_planes<weighting>(arguments, rule, stream);
}

template <class T, class Rule>
void launch_plane_weights(const Reduction& reduction, const Rule& rule, void* weights, cudaStream_t stream) {
  const auto arguments = arguments_of<T, T>(reduction, weights);
  FASTCAM_LAUNCH((plane_weights<Rule, T>), grid_size(reduction.sizes.rows() * reduction.sizes.channels), kThreads, 0,
                 stream, arguments, rule);
}

// Tasks that a launch is given at most, whatever the kernel: they are counted in 32 bits.
constexpr int64_t kMostTasks = INT32_MAX;

// The reduction of some of the images.
template <class T, class W>
Reduction image_range(const Reduction& reduction, int64_t first, int64_t count) {
  using Acc = accumulator_t<T>;
  const Sizes& sizes = reduction.sizes;
  const int64_t maps = first * sizes.targets * sizes.positions;
  Reduction some = reduction;
  some.sizes.images = count;
  some.activations = static_cast<const T*>(reduction.activations) + first * reduction.as.image;
  some.weights = static_cast<const W*>(reduction.weights) + first * reduction.ws.image;
  some.maps = static_cast<Acc*>(reduction.maps) + maps;
  if (reduction.parts() > 1) some.workspace = static_cast<Acc*>(reduction.workspace) + maps * reduction.parts();
  return some;
}

// Calls `run(first, count)` for at most `most` images at a time, and no more than kMostTasks allows.
template <class T, class Run>
void for_images(const Reduction& reduction, int64_t most, const Run& run) {
  const Sizes& sizes = reduction.sizes;
  const int64_t columns = sizes.positions / (kThreads * Pack<T>::size) + 1, blocks = reduction.parts() * columns;
  const int64_t tasks = sizes.targets * (sizes.channels > blocks ? sizes.channels : blocks);  // of an image
  most = most < kMostTasks / tasks ? most : kMostTasks / tasks;
  most = most < 1 ? 1 : most;
  for (int64_t first = 0; first < sizes.images; first += most) {
    run(first, sizes.images - first < most ? sizes.images - first : most);
  }
}

// Calls `run` with the reductions of some images after others; then adds the chunks of all.
template <class T, class W, class Run>
void reduce_images(const Reduction& reduction, int64_t most, cudaStream_t stream, const Run& run) {
  for_images<T>(reduction, most,
                [&](int64_t first, int64_t count) { run(image_range<T, W>(reduction, first, count)); });
  if (reduction.parts() > 1) launch_add_chunks<accumulator_t<T>>(reduction, stream);
}

// Images whose activations stay in the cache of the device from one kernel to the next.
template <class T>
int64_t cached_images(const Sizes& sizes) {
  constexpr int64_t kCacheBytes = 16 << 20;
  return kCacheBytes / (sizes.channels * sizes.positions * static_cast<int64_t>(sizeof(T)));
}

// Large planes: their weights, then the maps.
template <class T, class Rule>
void launch_two_passes(const Reduction& reduction, const Rule& rule, void* weights, cudaStream_t stream) {
  launch_plane_weights<T>(reduction, rule, weights, stream);
  Reduction given = reduction;
  given.weights = weights;
  given.ws = {reduction.sizes.targets * reduction.sizes.channels, reduction.sizes.channels, 1, 0};
  using Acc = accumulator_t<T>;
  const auto arguments = arguments_of<T, Acc>(given, given.parts() > 1 ? given.workspace : given.maps);
  launch_large_planes<Weighting::given>(arguments, ElementWeightRule{}, stream);
}

// Maps of channel weights that follow from activations and gradients by a rule of common/arithmetic.h. Where
// two kernels read the activations, they do so a few images at a time: from memory once, then from the cache.
template <class Rule>
void reduce_by_rule(const Reduction& reduction, const Rule& rule, Stream opaque) {
  auto stream = static_cast<cudaStream_t>(opaque);
  dispatch(reduction.dtype, [&](auto zero) {
    using T = decltype(zero);
    const bool two_passes = reduction.design() == Design::large_planes;
    const int64_t most = two_passes && Rule::kReadsActivations ? cached_images<T>(reduction.sizes) : INT64_MAX;
    reduce_images<T, T>(reduction, most, stream, [&](const Reduction& some) {
      const auto arguments = arguments_of<T, T>(some, some.parts() > 1 ? some.workspace : some.maps);
      if (launch_one_pass<Weighting::rule>(some, arguments, rule, stream)) return;
      // One stream, one group after the other: they share the room for their weights.
      auto* weights = static_cast<accumulator_t<T>*>(reduction.workspace) + reduction.part_count();
      launch_two_passes<T>(some, rule, weights, stream);
    });
  });
}

// Maps of weights that are there: one per element by the rule, or (`given`) one per channel.
template <Weighting weighting, class Rule>
void reduce_weighted(const Reduction& reduction, const Rule& rule, Stream opaque) {
  auto stream = static_cast<cudaStream_t>(opaque);
  dispatch(reduction.dtype, [&](auto zero) {
    using T = decltype(zero);
    using W = std::conditional_t<weighting == Weighting::given, accumulator_t<T>, T>;
    reduce_images<T, W>(reduction, INT64_MAX, stream,
                        [&](const Reduction& some) { launch_weighted<weighting, Rule, T, W>(some, rule, stream); });
  });
}

// The rule's weights alone, (N, C).
template <class Rule>
void reduce_to_weights(const Reduction& reduction, const Rule& rule, Stream opaque) {
  auto stream = static_cast<cudaStream_t>(opaque);
  dispatch(reduction.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_images<T>(reduction, INT64_MAX, [&](int64_t first, int64_t count) {
      const Reduction some = image_range<T, T>(reduction, first, count);
      auto* weights = static_cast<accumulator_t<T>*>(reduction.maps) + first * reduction.sizes.channels;
      const auto arguments = arguments_of<T, T>(some, weights);
      if (launch_one_pass<Weighting::only>(some, arguments, rule, stream)) return;
      launch_plane_weights<T>(some, rule, weights, stream);
    });
  });
}

}  // namespace fastcam::cuda
