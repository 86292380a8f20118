// Channel reductions that read every tensor once: planes come to shared memory in two stages, and stay there until the
// weight of their channel is known.
//
//   stage 0   w | a     tile t      summed by threads, warps or the block (plane_owners.h, column_owner.h)
//   stage 1   w | a     tile t + 1  on its way
//   scratch             sums of the warps, then the map of the chunks before
#pragma once
#include "plane_owners.h"

namespace fastcam::cuda {

// Which tensors a tile holds.
template <Weighting weighting, class Rule>
constexpr int staged_tensors() {
  return (weighting == Weighting::given ? 0 : 1) + (reads_activations<weighting, Rule>() ? 1 : 0);
}

template <Weighting weighting, class Rule, class T, class W, class Owner>
__global__ void __launch_bounds__(Owner::kBlock, Owner::kBlocks)
    staged_planes(const Arguments<T, W> arguments, const Tile tile, const int scratch_size, const Rule rule) {
  using Acc = accumulator_t<T>;
  constexpr int kTensors = staged_tensors<weighting, Rule>();
  FASTCAM_DYNAMIC_SHARED(T, room);
  auto* scratch = reinterpret_cast<Acc*>(room + kStages * kTensors * tile.room);
  Acc* sums = scratch + scratch_size;  // the map so far
  const int positions = static_cast<int>(arguments.sizes.positions);

  for (unsigned index = blockIdx.x; index < arguments.tasks(); index += gridDim.x) {
    const Task task = task_at(arguments, index);
    const T* a = activations_of(arguments, task);
    const W* w = weights_of(arguments, task);
    const int count = static_cast<int>(task.count), tiles = (count + tile.planes - 1) / tile.planes;
    const int tiles_of_a_sum = static_cast<int>(arguments.summed) / tile.planes;

    const auto planes_of = [&](int t) {
      return count - t * tile.planes < tile.planes ? count - t * tile.planes : tile.planes;
    };
    const auto fetch_tile = [&](int t) {
      T* stage = room + t % kStages * kTensors * tile.room;
      const int64_t first = static_cast<int64_t>(t) * tile.planes;
      if constexpr (weighting != Weighting::given) {
        fetch<Owner::kBlock, Owner::kRows>(w + first * arguments.ws.channel, arguments.ws, tile, planes_of(t),
                                           positions, stage);
        stage += tile.room;
      }
      if constexpr (reads_activations<weighting, Rule>()) {
        fetch<Owner::kBlock, Owner::kRows>(a + first * arguments.as.channel, arguments.as, tile, planes_of(t),
                                           positions, stage);
      }
    };
    Owner owner;
    owner.clear();
    for (int t = -1; t < tiles; ++t) {
      if (t + 1 < tiles) fetch_tile(t + 1);
      close_copies();
      if (t < 0) continue;  // nothing is there yet
      wait_for_copies();
      __syncthreads();
      const T* stage = room + t % kStages * kTensors * tile.room;
      const int64_t first = static_cast<int64_t>(t) * tile.planes;
      Planes<T, W> planes{
          stage + (kTensors - 1) * tile.room, nullptr, tile, planes_of(t), positions, arguments.ws.channel};
      if constexpr (weighting == Weighting::given) {
        planes.w = w + first * arguments.ws.channel;
      } else {
        planes.w = stage;
      }
      Acc* weights = weighting == Weighting::only ? weight_results(arguments, task) + first : nullptr;
      owner.template add<weighting>(rule, planes, weights);
      if constexpr (weighting != Weighting::only) {
        const bool last = t + 1 == tiles;
        if (last || (t + 1) % tiles_of_a_sum == 0) {
          const bool begins = t < tiles_of_a_sum;
          Acc* out = arguments.out + task.part * positions;
          owner.finish(positions, scratch, [&](int p, Acc sum) {
            const Acc map = (begins ? Acc(0) : sums[p]) + sum;
            if (!last) {
              sums[p] = map;
            } else {
              out[p] = arguments.relu ? rectify(map) : map;
            }
          });
          owner.clear();
        }
      }
      __syncthreads();  // the stage is overwritten by the next turn
    }
  }
}

}  // namespace fastcam::cuda
