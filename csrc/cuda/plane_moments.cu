// The moments of every plane in one reading. Where the positions of a channel lie side by side, a warp owns a plane;
// where the channels of a position do, a lane owns a channel and the warps of a block take turns at the positions.
#include "../common/moments.h"

#include "channel_reduction.h"

namespace fastcam::cuda {
namespace {

constexpr int kRun = 64;  // values of a thread that are summed by themselves, so that long sums lose little

// What a thread has seen of a plane.
template <class Acc>
struct Seen {
  Acc sum = 0, squares = 0, part = 0, part_squares = 0, zeros = 0, top = -std::numeric_limits<Acc>::infinity();
  int place = 0, count = 0;

  FASTCAM_DEVICE void add(Acc value, Acc shift, int position) {
    const Acc difference = value - shift;
    part += difference;
    part_squares += difference * difference;
    if (++count % kRun == 0) fold();
    zeros += value == Acc(0) ? Acc(1) : Acc(0);
    if (value > top) {  // not by NaN
      top = value;
      place = position;
    }
  }

  FASTCAM_DEVICE void fold() {
    sum += part;
    squares += part_squares;
    part = part_squares = 0;
  }

  // The higher value, and of equal ones the first.
  FASTCAM_DEVICE void raise(Acc value, int position) {
    if (value > top || (value == top && position < place)) {
      top = value;
      place = position;
    }
  }

  FASTCAM_DEVICE void store(Acc shift, int64_t positions, Acc* out, int64_t step) const {
    const Moments<Acc> moments = moments_of(shift, sum, squares, positions);
    out[0] = moments.mean;
    out[step] = moments.squares;
    out[2 * step] = zeros;
    out[3 * step] = top;
    out[4 * step] = static_cast<Acc>(place);
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    moment_planes(const T* __restrict__ a, Sizes sizes, Strides strides, accumulator_t<T>* __restrict__ out) {
  using Acc = accumulator_t<T>;
  const int lane = threadIdx.x % kWarp, positions = static_cast<int>(sizes.positions);
  const int64_t planes = sizes.images * sizes.channels, step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; i < planes; i += step) {
    const T* row = a + i / sizes.channels * strides.image + i % sizes.channels * strides.channel;
    const Acc shift = shift_of(Acc(widen(row[0])));
    Seen<Acc> seen;
    for_loaded<8>(
        lane, positions, kWarp, [&](int64_t p) { return row[p]; },
        [&](int64_t p, T value) { seen.add(Acc(widen(value)), shift, static_cast<int>(p)); });
    seen.fold();
    seen.sum = warp_sum(seen.sum);
    seen.squares = warp_sum(seen.squares);
    seen.zeros = warp_sum(seen.zeros);
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      const Acc top = __shfl_xor_sync(0xffffffffu, seen.top, offset);
      const int place = __shfl_xor_sync(0xffffffffu, seen.place, offset);
      seen.raise(top, place);
    }
    if (lane == 0) seen.store(shift, positions, out + i, planes);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    moment_rows(const T* __restrict__ a, Sizes sizes, Strides strides, accumulator_t<T>* __restrict__ out) {
  using Acc = accumulator_t<T>;
  FASTCAM_SHARED(Acc, parts, [4][kWarps][kWarp]);
  FASTCAM_SHARED(int, places, [kWarps][kWarp]);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, positions = static_cast<int>(sizes.positions);
  const int64_t groups = (sizes.channels + kWarp - 1) / kWarp, planes = sizes.images * sizes.channels;
  for (int64_t i = blockIdx.x; i < sizes.images * groups; i += gridDim.x) {
    const int64_t image = i / groups, channel = i % groups * kWarp + lane;
    const bool is_there = channel < sizes.channels;
    const T* column = a + image * strides.image + (is_there ? channel : 0);
    const Acc shift = shift_of(Acc(widen(column[0])));
    Seen<Acc> seen;
    for_loaded<8>(
        warp, positions, kWarps, [&](int64_t p) { return column[p * strides.position]; },
        [&](int64_t p, T value) { seen.add(Acc(widen(value)), shift, static_cast<int>(p)); });
    seen.fold();
    __syncthreads();  // the parts of the group before may still be read
    parts[0][warp][lane] = seen.sum;
    parts[1][warp][lane] = seen.squares;
    parts[2][warp][lane] = seen.zeros;
    parts[3][warp][lane] = seen.top;
    places[warp][lane] = seen.place;
    __syncthreads();
    if (warp > 0 || !is_there) continue;
    for (int other = 1; other < kWarps; ++other) {
      seen.sum += parts[0][other][lane];
      seen.squares += parts[1][other][lane];
      seen.zeros += parts[2][other][lane];
      seen.raise(parts[3][other][lane], places[other][lane]);
    }
    seen.store(shift, positions, out + image * sizes.channels + channel, planes);
  }
}

}  // namespace

void plane_moments(const Reduction& reduction, Stream opaque) {
  auto stream = static_cast<cudaStream_t>(opaque);
  const Sizes& sizes = reduction.sizes;
  dispatch(reduction.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto* a = static_cast<const T*>(reduction.activations);
    auto* out = static_cast<accumulator_t<T>*>(reduction.maps);
    if (reduction.rows) {
      const int64_t groups = sizes.images * ((sizes.channels + kWarp - 1) / kWarp);
      FASTCAM_LAUNCH((moment_rows<T>), grid_size(groups), kThreads, 0, stream, a, sizes, reduction.as, out);
    } else {
      const int64_t blocks = (sizes.images * sizes.channels + kWarps - 1) / kWarps;
      FASTCAM_LAUNCH((moment_planes<T>), grid_size(blocks), kThreads, 0, stream, a, sizes, reduction.as, out);
    }
  });
}

}  // namespace fastcam::cuda
