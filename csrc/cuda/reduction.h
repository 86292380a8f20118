// Channel reductions on the device: what the kernels over planes (NCHW) and over rows (NHWC) share.
#pragma once
#include "device.h"
#include "kernels.h"

namespace fastcam::cuda {

// Where the weight of a channel or an element comes from.
enum class Weighting {
  given,    // weights (N, K, C) in the accumulation dtype
  element,  // rule.element(a, w) at every position
  rule,     // rule.weight of the plane's activations and gradients
  only,     // as `rule`, but the weights themselves are the result
};

// Whether a whole plane must be known before its weight is.
constexpr bool from_plane(Weighting weighting) { return weighting == Weighting::rule || weighting == Weighting::only; }

// Whether the kernel needs the activations at all.
template <Weighting weighting, class Rule>
constexpr bool reads_activations() {
  if constexpr (weighting == Weighting::only) return Rule::kReadsActivations;
  return true;
}

// Whether the weight of a channel follows from its activations and gradients together.
template <Weighting weighting, class Rule>
constexpr bool needs_activations_first() {
  if constexpr (from_plane(weighting)) return Rule::kReadsActivations;
  return false;
}

// A reduction with its types: T of the activations, W of the weights.
template <class T, class W>
struct Arguments {
  const T* a;
  const W* w;
  accumulator_t<T>* out;
  Sizes sizes;
  Strides as, ws;
  int64_t chunk, chunks;      // channels of a block, and how many blocks share a map
  int64_t summed;             // channels of a block that are summed by themselves
  bool a_aligned, w_aligned;  // every pack of the tensor begins at a multiple of 16 bytes
  bool relu;                  // of a map that is not the sum of several chunks

  // At most kMostTasks (see channel_reduction.h): 32 bits, for which a division is no function call.
  FASTCAM_INLINE unsigned tasks() const { return static_cast<unsigned>(sizes.rows() * chunks); }
};

// One chunk of the channels of one map. The targets of a chunk follow each other, so that the
// activations they share are still in the cache.
struct Task {
  int64_t image, target, first, count, part;
};

template <class T, class W>
FASTCAM_DEVICE Task task_at(const Arguments<T, W>& arguments, unsigned index) {
  const auto targets = static_cast<unsigned>(arguments.sizes.targets), chunks = static_cast<unsigned>(arguments.chunks);
  const unsigned target = index % targets, chunk = index / targets % chunks, image = index / targets / chunks;
  const int64_t first = chunk * arguments.chunk, left = arguments.sizes.channels - first;
  return {image, target, first, left < arguments.chunk ? left : arguments.chunk,
          (image * arguments.sizes.targets + target) * arguments.chunks + chunk};
}

template <class T, class W>
FASTCAM_DEVICE const T* activations_of(const Arguments<T, W>& arguments, const Task& task) {
  return arguments.a + task.image * arguments.as.image + task.first * arguments.as.channel;
}

template <class T, class W>
FASTCAM_DEVICE const W* weights_of(const Arguments<T, W>& arguments, const Task& task) {
  return arguments.w + task.image * arguments.ws.image + task.target * arguments.ws.target +
         task.first * arguments.ws.channel;
}

// Where the weight of the task's first channel goes, in (N, K, C).
template <class T, class W>
FASTCAM_DEVICE accumulator_t<T>* weight_results(const Arguments<T, W>& arguments, const Task& task) {
  return arguments.out + (task.image * arguments.sizes.targets + task.target) * arguments.sizes.channels + task.first;
}

// Whether every pack of the tensor begins at a multiple of 16 bytes.
template <class T, class W>
bool packs_are_aligned(const W* pointer, const Strides& strides, bool rows) {
  const int64_t size = Pack<T>::size, inner = rows ? strides.channel : strides.position;
  const int64_t outer = rows ? strides.position : strides.channel;
  return sizeof(W) == sizeof(T) && reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && inner == 1 && outer % size == 0 &&
         strides.image % size == 0 && strides.target % size == 0;
}

// maps[row, p] = sum of its chunks in order, then ReLU.
template <class Acc>
__global__ void __launch_bounds__(kThreads, 2) add_chunks(const Acc* __restrict__ parts, Acc* __restrict__ maps,
                                                          int64_t rows, int64_t chunks, int64_t positions, bool relu) {
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const int64_t first = blockIdx.x * kThreads + threadIdx.x, step = gridDim.x * kThreads;
    for (int64_t p = first; p < positions; p += step) {
      const Acc* part = parts + row * chunks * positions + p;
      Acc sum = 0;
#pragma unroll 4
      for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += part[chunk * positions];
      maps[row * positions + p] = relu ? rectify(sum) : sum;
    }
  }
}

}  // namespace fastcam::cuda
