// The moments of a plane of activations, written once for CPU and CUDA: of values less a shift, which is one of them,
// so that a single reading loses nothing where the mean is large and the deviation small.
#pragma once
#include "arithmetic.h"

namespace fastcam {

// Mean, sum of squared deviations, number of zeros, maximum and its place: (kMoments, N, C).
constexpr int64_t kMoments = 5;

template <class T>
struct Moments {
  T mean, squares;
};

// From the sums of (x - shift) and (x - shift)^2 over the positions.
template <class T>
FASTCAM_INLINE Moments<T> moments_of(T shift, T sum, T squares, int64_t positions) {
  const T count = static_cast<T>(positions), rest = squares - sum * (sum / count);
  return {shift + sum / count, rest < T(0) ? T(0) : rest};  // NaN stays
}

// What is not finite is no shift: all would be NaN.
template <class T>
FASTCAM_INLINE T shift_of(T value) {
  return value - value == T(0) ? value : T(0);
}

}  // namespace fastcam
