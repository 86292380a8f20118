#include "../common/moments.h"

#include "channel_reduction.h"

namespace fastcam {
namespace {

constexpr int64_t kBlockPositions = 64;  // summed by themselves, so that long sums lose little
constexpr int64_t kLanes = 64;           // channels taken together

// Planes that lie side by side: read once from memory, and once more from the cache.
struct MomentPlanes {
  template <class T, class Acc>
  static FASTCAM_INLINE void run(const T* a, int64_t stride, int64_t channels, int64_t positions, Acc* out,
                                 int64_t step) {
    for (int64_t c = 0; c < channels; ++c) {
      const T* row = a + c * stride;
      Acc sum = 0, zeros = 0, top = -std::numeric_limits<Acc>::infinity();
#pragma omp simd reduction(+ : sum, zeros) reduction(max : top)
      for (int64_t p = 0; p < positions; ++p) {
        const Acc value = static_cast<Acc>(row[p]);
        sum += value;
        zeros += value == Acc(0) ? Acc(1) : Acc(0);
        top = value > top ? value : top;  // not by NaN
      }
      const Acc mean = sum / static_cast<Acc>(positions);
      const Acc none = static_cast<Acc>(positions);
      Acc squares = 0, place = none;
#pragma omp simd reduction(+ : squares) reduction(min : place)
      for (int64_t p = 0; p < positions; ++p) {
        const Acc value = static_cast<Acc>(row[p]), difference = value - mean;
        squares += difference * difference;
        const Acc here = value == top ? static_cast<Acc>(static_cast<int>(p)) : none;
        place = here < place ? here : place;
      }
      out[c] = mean;
      out[c + step] = squares;
      out[c + 2 * step] = zeros;
      out[c + 3 * step] = top;
      out[c + 4 * step] = place < none ? place : Acc(0);
    }
  }
};

// Channels that lie side by side.
struct MomentRows {
  template <class T, class Acc>
  static FASTCAM_INLINE void run(const T* a, int64_t stride, int64_t channels, int64_t positions, Acc* out,
                                 int64_t step) {
    for (int64_t c = 0; c < channels; c += kLanes) {
      some(a + c, stride, std::min(kLanes, channels - c), positions, out + c, step);
    }
  }

  template <class T, class Acc>
  static FASTCAM_INLINE void some(const T* a, int64_t stride, int64_t channels, int64_t positions, Acc* out,
                                  int64_t step) {
    Acc shift[kLanes], sum[kLanes] = {}, squares[kLanes] = {}, zeros[kLanes] = {}, top[kLanes], place[kLanes] = {};
    for (int64_t c = 0; c < channels; ++c) {
      shift[c] = shift_of(static_cast<Acc>(a[c]));
      top[c] = -std::numeric_limits<Acc>::infinity();
    }
    for (int64_t first = 0; first < positions; first += kBlockPositions) {
      const int64_t last = std::min(first + kBlockPositions, positions);
      Acc part[kLanes] = {}, part_squares[kLanes] = {};
      for (int64_t p = first; p < last; ++p) {
        const T* row = a + p * stride;
        const Acc position = static_cast<Acc>(p);
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) {
          const Acc value = static_cast<Acc>(row[c]), difference = value - shift[c];
          part[c] += difference;
          part_squares[c] += difference * difference;
          zeros[c] += value == Acc(0) ? Acc(1) : Acc(0);
          place[c] = value > top[c] ? position : place[c];
          top[c] = value > top[c] ? value : top[c];
        }
      }
      for (int64_t c = 0; c < channels; ++c) {
        sum[c] += part[c];
        squares[c] += part_squares[c];
      }
    }
    for (int64_t c = 0; c < channels; ++c) {
      const Moments<Acc> moments = moments_of(shift[c], sum[c], squares[c], positions);
      out[c] = moments.mean;
      out[c + step] = moments.squares;
      out[c + 2 * step] = zeros[c];
      out[c + 3 * step] = top[c];
      out[c + 4 * step] = place[c];
    }
  }
};

template <class Kernel, class T, class Acc>
void moment_chunks(const T* a, const Strides& strides, int64_t row_stride, const Sizes& sizes, Acc* out) {
  const int64_t chunks = (sizes.channels + kLanes - 1) / kLanes, step = sizes.images * sizes.channels;
  const int64_t grain = std::max<int64_t>(1, 32768 / (sizes.positions * kLanes));
  torch::stable::parallel_for(0, sizes.images * chunks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / chunks, first = i % chunks * kLanes;
      run<Kernel>(a + n * strides.image + first * strides.channel, row_stride, std::min(kLanes, sizes.channels - first),
                  sizes.positions, out + n * sizes.channels + first, step);
    }
  });
}

}  // namespace

Tensor plane_moments(Tensor activations) {
  const Operands found = moment_operands(activations);
  if (found.empty) return found.maps;
  FASTCAM_DISPATCH(found.activations.scalar_type(), [&] {
    const auto* a = found.activations.const_data_ptr<scalar_t>();
    auto* out = found.maps.mutable_data_ptr<accumulator_t<scalar_t>>();
    if (found.rows) {
      moment_chunks<MomentRows>(a, found.as, found.as.position, found.sizes, out);
    } else {
      moment_chunks<MomentPlanes>(a, found.as, found.as.channel, found.sizes, out);
    }
  });
  return found.maps;
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("plane_moments", TORCH_BOX(&fastcam::plane_moments)); }
