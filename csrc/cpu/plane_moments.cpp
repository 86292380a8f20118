#include <cstring>
#include <limits>

#include "../common/moments.h"

#include "channel_reduction.h"

// Clang's vectors have other built-in functions; it compiles the loops alone.
#define FASTCAM_VECTORS (FASTCAM_X86 && !defined(__clang__))
#if FASTCAM_VECTORS
#include <immintrin.h>
#endif

namespace fastcam {
namespace {

// Summed by themselves, so that long sums lose little.
constexpr int64_t kRowsPerBlock = 64, kBlockPositions = 512;
constexpr int64_t kLanes = 64;  // channels taken together

// Planes that lie side by side, of few positions or on other processors: read once from memory, and once more from the
// cache.
struct MomentPlanes {
  template <class T, class Acc>
  static FASTCAM_INLINE void run(const T* a, int64_t stride, int64_t channels, int64_t positions, Acc* out,
                                 int64_t step) {
    for (int64_t c = 0; c < channels; ++c) {
      const T* row = a + c * stride;
      Acc sum = 0, zeros = 0, top = -std::numeric_limits<Acc>::infinity();
      for (int64_t first = 0; first < positions; first += kBlockPositions) {
        const int64_t last = std::min(first + kBlockPositions, positions);
        Acc part = 0;
#pragma omp simd reduction(+ : part, zeros) reduction(max : top)
        for (int64_t p = first; p < last; ++p) {
          const Acc value = static_cast<Acc>(row[p]);
          part += value;
          zeros += value == Acc(0) ? Acc(1) : Acc(0);
          top = value > top ? value : top;  // not by NaN
        }
        sum += part;
      }
      const Acc mean = sum / static_cast<Acc>(positions);
      const Acc none = static_cast<Acc>(positions);
      Acc squares = 0, place = none;
      for (int64_t first = 0; first < positions; first += kBlockPositions) {
        const int64_t last = std::min(first + kBlockPositions, positions);
        Acc part = 0;
#pragma omp simd reduction(+ : part) reduction(min : place)
        for (int64_t p = first; p < last; ++p) {
          const Acc value = static_cast<Acc>(row[p]), difference = value - mean;
          part += difference * difference;
          const Acc here = value == top ? static_cast<Acc>(static_cast<int>(p)) : none;
          place = here < place ? here : place;
        }
        squares += part;
      }
      out[c] = mean;
      out[c + step] = squares;
      out[c + 2 * step] = zeros;
      out[c + 3 * step] = top;
      out[c + 4 * step] = place < none ? place : Acc(0);
    }
  }
};

#if FASTCAM_VECTORS
template <class Acc>
struct Lanes;

template <>
struct Lanes<float> {
  using Number = int32_t;
  typedef float Values __attribute__((vector_size(32)));
  typedef int32_t Numbers __attribute__((vector_size(32)));
  typedef float HalfValues __attribute__((vector_size(16)));
  typedef int32_t HalfNumbers __attribute__((vector_size(16)));
};

template <>
struct Lanes<double> {
  using Number = int64_t;
  typedef double Values __attribute__((vector_size(32)));
  typedef int64_t Numbers __attribute__((vector_size(32)));
  typedef double HalfValues __attribute__((vector_size(16)));
  typedef int64_t HalfNumbers __attribute__((vector_size(16)));
};

struct Sum {
  template <class T>
  FASTCAM_INLINE T operator()(T x, T y) const {
    return x + y;
  }
};

struct Largest {
  template <class T>
  FASTCAM_INLINE T operator()(T x, T y) const {
    return x > y ? x : y;
  }
};

struct Smallest {
  template <class T>
  FASTCAM_INLINE T operator()(T x, T y) const {
    return x < y ? x : y;
  }
};

// All lanes of 16 bytes, joined.
template <class V, class Join>
FASTCAM_INLINE auto fold(V lanes, Join join) {
  if constexpr (sizeof(V) / sizeof(lanes[0]) == 4) {
    typedef int32_t Order __attribute__((vector_size(16)));
    lanes = join(lanes, __builtin_shuffle(lanes, Order{2, 3, 0, 1}));
    return join(lanes, __builtin_shuffle(lanes, Order{1, 0, 3, 2}))[0];
  } else {
    typedef int64_t Order __attribute__((vector_size(16)));
    return join(lanes, __builtin_shuffle(lanes, Order{1, 0}))[0];
  }
}

// A vector of accumulators from as many values in memory.
#define FASTCAM_LOAD(value, from)                                                     \
  if constexpr (std::is_same_v<T, Acc>) {                                             \
    std::memcpy(&(value), from, sizeof(value));                                       \
  } else if constexpr (std::is_same_v<T, torch::headeronly::BFloat16>) {              \
    uint16_t narrow __attribute__((vector_size(16)));                                 \
    std::memcpy(&narrow, from, sizeof(narrow));                                       \
    const I bits = __builtin_convertvector(narrow, I) << 16;                          \
    std::memcpy(&(value), &bits, sizeof(value));                                      \
  } else {                                                                            \
    value = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))); \
  }

template <class T, class Acc>
FASTCAM_AVX2 void planes_avx2(const T* a, int64_t stride, int64_t channels, int64_t positions, Acc* out, int64_t step) {
#include "moment_planes.h"
}

template <class T, class Acc>
FASTCAM_AVX512 void planes_avx512(const T* a, int64_t stride, int64_t channels, int64_t positions, Acc* out,
                                  int64_t step) {
#include "moment_planes.h"
}

template <class T, class Acc>
FASTCAM_AVX2 int64_t rows_avx2(const T* a, int64_t stride, int64_t channels, int64_t positions, Acc* out,
                               int64_t step) {
#include "moment_rows.h"
}

template <class T, class Acc>
FASTCAM_AVX512 int64_t rows_avx512(const T* a, int64_t stride, int64_t channels, int64_t positions, Acc* out,
                                   int64_t step) {
#include "moment_rows.h"
}
#endif

template <class T, class Acc>
void run_planes(const T* a, int64_t stride, int64_t channels, int64_t positions, Acc* out, int64_t step) {
#if FASTCAM_VECTORS
  static const InstructionSet set = chosen_instruction_set();
  if (positions >= static_cast<int64_t>(32 / sizeof(Acc)) && positions <= std::numeric_limits<int32_t>::max()) {
    if (set == InstructionSet::avx512) return planes_avx512(a, stride, channels, positions, out, step);
    if (set == InstructionSet::avx2) return planes_avx2(a, stride, channels, positions, out, step);
  }
#endif
  run<MomentPlanes>(a, stride, channels, positions, out, step);
}

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
    for (int64_t first = 0; first < positions; first += kRowsPerBlock) {
      const int64_t last = std::min(first + kRowsPerBlock, positions);
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

template <class T, class Acc>
void run_rows(const T* a, int64_t stride, int64_t channels, int64_t positions, Acc* out, int64_t step) {
  int64_t done = 0;
#if FASTCAM_VECTORS
  static const InstructionSet set = chosen_instruction_set();
  if (positions <= std::numeric_limits<int32_t>::max()) {
    if (set == InstructionSet::avx512) done = rows_avx512(a, stride, channels, positions, out, step);
    if (set == InstructionSet::avx2) done = rows_avx2(a, stride, channels, positions, out, step);
  }
#endif
  if (done < channels) run<MomentRows>(a + done, stride, channels - done, positions, out + done, step);
}

template <class Kernel, class T, class Acc>
void moment_chunks(const T* a, const Strides& strides, int64_t row_stride, const Sizes& sizes, Acc* out) {
  const int64_t chunks = (sizes.channels + kLanes - 1) / kLanes, step = sizes.images * sizes.channels;
  const int64_t grain = std::max<int64_t>(1, 32768 / (sizes.positions * kLanes));
  torch::stable::parallel_for(0, sizes.images * chunks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / chunks, first = i % chunks * kLanes;
      const int64_t channels = std::min(kLanes, sizes.channels - first);
      const T* some = a + n * strides.image + first * strides.channel;
      Acc* moments = out + n * sizes.channels + first;
      if constexpr (std::is_same_v<Kernel, MomentPlanes>) {
        run_planes(some, row_stride, channels, sizes.positions, moments, step);
      } else {
        run_rows(some, row_stride, channels, sizes.positions, moments, step);
      }
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
