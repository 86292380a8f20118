// The arithmetic of the ops, written once for CPU and CUDA. A rule states how the weight of one
// channel follows from its activations a and gradients g at every position:
//
//   weight = rule.weight(sum_p rule.term(a_p, g_p, S), S, P)   with S = sum_p a_p
//
// T is the accumulation type: float for half, bfloat16 and float; double for double.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>

#if defined(__CUDACC__)
#define FASTCAM_INLINE __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#define FASTCAM_INLINE __forceinline
#else
#define FASTCAM_INLINE inline __attribute__((always_inline))
#endif

namespace fastcam {

// ReLU that never hides a non-finite value: NaN stays NaN, and -inf becomes NaN instead of 0. Without
// a branch, and exact: for x < 0 the two halves cancel.
template <class T>
FASTCAM_INLINE T rectify(T x) {
  return T(0.5) * x + T(0.5) * std::fabs(x);
}

// Grad-CAM (arXiv:1610.02391, eq. 1): w = mean_p g_p.
struct GradCamRule {
  static constexpr bool kReadsActivations = false;
  template <class T>
  FASTCAM_INLINE T term(T, T g, T) const {
    return g;
  }
  template <class T>
  FASTCAM_INLINE T weight(T total, T, int64_t positions) const {
    return total / static_cast<T>(positions);
  }
};

// Grad-CAM++ (arXiv:1710.11063, eq. 19): alpha = g^2 / (2 g^2 + S g^3), w = sum_p alpha ReLU(g).
// For g > 0 the product is g / (2 + S g): no g^2 or g^3 that could underflow.
struct GradCamPPRule {
  static constexpr bool kReadsActivations = true;
  template <class T>
  FASTCAM_INLINE T term(T, T g, T activation_sum) const {
    const T positive = rectify(g);  // 0 where g <= 0, and then so is the term
    const T denominator = T(2) + activation_sum * positive;
    return denominator == T(0) ? T(0) : positive / denominator;
  }
  template <class T>
  FASTCAM_INLINE T weight(T total, T, int64_t) const {
    return total;
  }
};

// XGrad-CAM (arXiv:2008.02312, eq. 8): w = sum_p g_p a_p / (S + eps).
struct XGradCamRule {
  static constexpr bool kReadsActivations = true;
  double eps;
  template <class T>
  FASTCAM_INLINE T term(T a, T g, T) const {
    return g * a;
  }
  template <class T>
  FASTCAM_INLINE T weight(T total, T activation_sum, int64_t) const {
    return total / (activation_sum + static_cast<T>(eps));
  }
};

// LayerCAM (doi:10.1109/TIP.2021.3089943, eq. 4): every position has its own weight, ReLU(g).
struct LayerCamRule {
  template <class T>
  FASTCAM_INLINE T element(T a, T g) const {
    return rectify(g) * a;
  }
};

// Element weights as given; HiRes-CAM (arXiv:2011.08891) when they are the gradients.
struct ElementWeightRule {
  template <class T>
  FASTCAM_INLINE T element(T a, T weight) const {
    return weight * a;
  }
};

// Source coordinate of output pixel `index` for bilinear resampling with align_corners=False.
template <class T, class Index>
FASTCAM_INLINE T source_coordinate(Index index, T scale) {
  const T coordinate = scale * (static_cast<T>(index) + T(0.5)) - T(0.5);
  return coordinate < T(0) ? T(0) : coordinate;
}

// Where output `index` lies between two of the `source` positions: out = mix(source[lower], source[upper], fraction).
template <class T, class Index>
struct Interval {
  Index lower, upper;
  T fraction;
};

template <class T, class Index>
FASTCAM_INLINE Interval<T, Index> source_interval(Index index, Index source, T scale) {
  const T coordinate = source_coordinate(index, scale);
  const Index position = static_cast<Index>(coordinate), last = source - 1;
  const Index lower = position < last ? position : last, upper = lower < last ? lower + 1 : lower;
  const T fraction = coordinate - static_cast<T>(lower);
  return {lower, upper, fraction < T(0) ? T(0) : (fraction > T(1) ? T(1) : fraction)};
}

template <class T>
FASTCAM_INLINE T mix(T lower, T upper, T fraction) {
  return lower + fraction * (upper - lower);
}

// Whether a map from `low` to `high` varies by no more than rounding: then it is constant.
template <class T>
FASTCAM_INLINE bool is_constant(T low, T high) {
  const T largest = std::fabs(low) > std::fabs(high) ? std::fabs(low) : std::fabs(high);
  return high - low <= T(8) * std::numeric_limits<T>::epsilon() * largest;
}

// Min-max normalisation of a value; rounding stays inside [0, 1].
template <class T>
FASTCAM_INLINE T normalized(T value, T low, T high) {
  const T scaled = (value - low) / (high - low);
  return scaled < T(0) ? T(0) : (scaled > T(1) ? T(1) : scaled);
}

// What becomes of the resampled values of a map: they stay as they are, or they are scaled by the lowest and the
// highest of them. Then a constant map becomes 0, and one whose extremes are NaN becomes NaN.
template <class T>
struct MinMax {
  bool normalize = false, constant = false;
  T low = 0, high = 0;

  FASTCAM_INLINE MinMax() {}
  FASTCAM_INLINE MinMax(T low, T high) : normalize(true), constant(is_constant(low, high)), low(low), high(high) {}

  FASTCAM_INLINE T operator()(T value) const {
    if (!normalize) return value;
    return constant ? T(0) : normalized(value, low, high);
  }
};

// The two formulas of pictures work on doubles, which hold the product of a float and a byte exactly: whether or
// not a compiler fuses the product with the sum behind it, the byte is the same on every device.

// A value in [0, 1] as a byte, rounded; what lies outside is clamped, NaN becomes 0.
FASTCAM_INLINE uint8_t to_byte(float value) {
  const float inside = value > 0.0F ? (value < 1.0F ? value : 1.0F) : 0.0F;  // unlike fmin and fmax, never a call
  return static_cast<uint8_t>(static_cast<double>(inside) * 255.0 + 0.5);
}

// One channel of a pixel under a colour of which the share `alpha` in [0, 1] is seen, rounded.
FASTCAM_INLINE uint8_t blended(uint8_t pixel, uint8_t color, float alpha) {
  const int difference = static_cast<int>(color) - static_cast<int>(pixel);
  const double mixed = static_cast<double>(pixel) + static_cast<double>(alpha) * static_cast<double>(difference);
  return static_cast<uint8_t>(mixed + 0.5);
}

// A pixel of three channels under the colour of a map's value, from a table (256, 3); as it is where the map is NaN.
FASTCAM_INLINE void overlay_pixel(const uint8_t* pixel, float value, const uint8_t* colors, float alpha, uint8_t* out) {
  const bool hidden = std::isnan(value);
  const uint8_t* color = colors + 3 * static_cast<int>(to_byte(value));
  for (int c = 0; c < 3; ++c) out[c] = hidden ? pixel[c] : blended(pixel[c], color[c], alpha);
}

}  // namespace fastcam
