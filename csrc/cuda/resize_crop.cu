// Photographs of bytes, resized with antialiasing and cropped, by the integer arithmetic of torch's resampling of bytes
// on the processor: across the lines that the crop needs, rounded to bytes, then down. The bytes are the same.
#include "resample.h"

namespace fastcam::cuda {
namespace {

constexpr int kColors = 3;
constexpr int kAcross = 1;                   // of a photograph's two axes, the one along its lines
constexpr int kMostShift = 22;               // of weights as 16-bit whole numbers
constexpr int kPerOutput = 2, kPerAxis = 1;  // numbers before the weights: start and count; the shift

// By value, as arguments of a kernel: nothing is copied to the device beforehand.
struct Group {
  Photograph photographs[kGroup];
};

// The memory that the kernels of one group share.
struct Room {
  int taps, lines;  // of the group, at most: weights of an output, and lines that a crop needs
  int outputs;      // along the longer side of a crop
  int* weights;     // of every photograph and axis: the shift; of every output start, count and weights
  uint8_t* middle;  // (photographs, colours, lines, columns)

  FASTCAM_DEVICE int* of_axis(int index, int axis) const {
    return weights +
           (static_cast<int64_t>(index) * 2 + axis) * (kPerAxis + static_cast<int64_t>(outputs) * (kPerOutput + taps));
  }
  FASTCAM_DEVICE int* of_output(int* axis, int output) const {
    return axis + kPerAxis + static_cast<int64_t>(output) * (kPerOutput + taps);
  }
};

// A product that no compiler joins with a sum to one rounding.
FASTCAM_DEVICE double product(double x, double y) {
#if defined(__CUDACC__)
  return __dmul_rn(x, y);
#else
  return x * y;
#endif
}

// The triangle of bilinear interpolation, or the cubic with a = -1/2, at x in units of a pixel of the smaller side.
FASTCAM_DEVICE double filter_at(double x, bool cubic) {
  x = x < 0 ? -x : x;
  if (!cubic) return x < 1 ? 1 - x : 0;
  if (x < 1) return product(product(product(1.5, x) - 2.5, x), x) + 1;
  if (x < 2) return product(product(product(-0.5, x) + 2.5, x) - 4, x) + 2;
  return 0;
}

// The pixels that one output sees, and their weights.
struct Window {
  int start, count;
  double offset, inverse;
  bool cubic;

  FASTCAM_DEVICE Window(int output, int source, double scale, bool is_cubic) : cubic(is_cubic) {
    const double center = product(scale, output + 0.5), support = product(cubic ? 2.0 : 1.0, scale < 1 ? 1.0 : scale);
    const auto first = static_cast<int64_t>(center - support + 0.5),
               last = static_cast<int64_t>(center + support + 0.5);
    start = static_cast<int>(first < 0 ? 0 : first);
    count = static_cast<int>(last < source ? last : source) - start;
    offset = center;
    inverse = scale < 1 ? 1.0 : 1.0 / scale;
  }

  FASTCAM_DEVICE double weight(int tap) const { return filter_at(product(tap + start - offset + 0.5, inverse), cubic); }

  FASTCAM_DEVICE double total() const {
    double sum = 0;
    for (int tap = 0; tap < count; ++tap) sum += weight(tap);
    return sum == 0 ? 1.0 : sum;
  }
};

// The weights of every axis as whole numbers of as many bits as 16 hold: a block for each.
__global__ void __launch_bounds__(kThreads, 2)
    find_weights(const Group group, const Room room, int height, int width, bool cubic) {
  const int index = blockIdx.x / 2, axis = blockIdx.x % 2;
  const Photograph& photograph = group.photographs[index];
  const int source = axis == kAcross ? photograph.width : photograph.height;
  const int resized = axis == kAcross ? photograph.resized_width : photograph.resized_height;
  const int first = axis == kAcross ? photograph.left : photograph.top, outputs = axis == kAcross ? width : height;
  const double scale = static_cast<double>(source) / resized;
  double largest = 0, unused = 0;
  for (int output = threadIdx.x; output < resized; output += kThreads) {  // of the whole axis, not of the crop alone
    const Window window(output, source, scale, cubic);
    const double total = window.total();
    for (int tap = 0; tap < window.count; ++tap) {
      const double weight = window.weight(tap) / total;
      largest = weight > largest ? weight : largest;
    }
  }
  block_extremes(unused, largest);
  int shift = 0;
  while (shift < kMostShift && product(largest, 2 << shift) + 0.5 < (1 << 15)) ++shift;
  int* weights = room.of_axis(index, axis);
  if (threadIdx.x == 0) weights[0] = shift;
  for (int output = threadIdx.x; output < outputs; output += kThreads) {
    const Window window(first + output, source, scale, cubic);
    const double total = window.total();
    int* found = room.of_output(weights, output);
    found[0] = window.start;
    found[1] = window.count;
    for (int tap = 0; tap < window.count; ++tap) {
      const double weight = product(window.weight(tap) / total, 1 << shift);
      found[kPerOutput + tap] = static_cast<int>(weight + (weight < 0 ? -0.5 : 0.5));
    }
  }
}

// The weighted sum of pixels `step` apart, as a byte.
FASTCAM_DEVICE uint8_t weighted(const uint8_t* pixels, int64_t step, const int* output, int shift) {
  int sum = 1 << (shift - 1);
  for (int tap = 0; tap < output[1]; ++tap) sum += output[kPerOutput + tap] * pixels[tap * step];
  sum >>= shift;
  return static_cast<uint8_t>(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

// The lines of a photograph that its crop needs, as long as the crop: a thread a pixel of one colour.
__global__ void __launch_bounds__(kThreads, 2)
    resize_across(const uint8_t* __restrict__ pixels, const Group group, const Room room, int height, int width) {
  const int index = blockIdx.y;
  const int64_t items = static_cast<int64_t>(kColors) * room.lines * width;
  const Photograph& photograph = group.photographs[index];
  int *rows = room.of_axis(index, 1 - kAcross), *columns = room.of_axis(index, kAcross);
  const int first = room.of_output(rows, 0)[0], *last = room.of_output(rows, height - 1);
  const int lines = last[0] + last[1] - first;
  for (int64_t i = blockIdx.x * kThreads + threadIdx.x; i < items; i += gridDim.x * kThreads) {
    const auto item = static_cast<unsigned>(i);  // below 2^31, which division is faster for
    const int column = item % width, line = item / width % room.lines, color = item / width / room.lines;
    if (line >= lines) continue;
    const int* output = room.of_output(columns, column);
    const int64_t row = static_cast<int64_t>(color) * photograph.height + first + line;
    const uint8_t* source = pixels + photograph.first + row * photograph.width + output[0];
    room.middle[static_cast<int64_t>(index) * items + item] = weighted(source, 1, output, columns[0]);
  }
}

// The crops, from these lines: a thread a pixel.
__global__ void __launch_bounds__(kThreads, 2)
    resize_down(const Room room, int height, int width, uint8_t* __restrict__ out) {
  const int index = blockIdx.y;
  const int64_t size = static_cast<int64_t>(height) * width;
  int* rows = room.of_axis(index, 1 - kAcross);
  const int first = room.of_output(rows, 0)[0];
  const uint8_t* middle = room.middle + static_cast<int64_t>(index) * kColors * room.lines * width;
  for (int64_t i = blockIdx.x * kThreads + threadIdx.x; i < size; i += gridDim.x * kThreads) {
    const auto item = static_cast<unsigned>(i);
    const int* output = room.of_output(rows, item / width);
    const int64_t start = static_cast<int64_t>(output[0] - first) * width + item % width;
    uint8_t* pixel = out + (static_cast<int64_t>(index) * size + item) * kColors;
#pragma unroll
    for (int color = 0; color < kColors; ++color) {
      const uint8_t* source = middle + static_cast<int64_t>(color) * room.lines * width + start;
      pixel[color] = weighted(source, width, output, rows[0]);
    }
  }
}

unsigned blocks_for(int64_t items) { return grid_size((items + kThreads - 1) / kThreads); }

}  // namespace

void resize_crop(const Resizing& resizing, Stream opaque) {
  auto stream = static_cast<cudaStream_t>(opaque);
  const int height = static_cast<int>(resizing.height), width = static_cast<int>(resizing.width);
  for (int64_t begin = 0; begin < resizing.count; begin += kGroup) {
    const int64_t count = resizing.count - begin < kGroup ? resizing.count - begin : kGroup;
    Group group{};
    for (int64_t i = 0; i < count; ++i) group.photographs[i] = resizing.photographs[begin + i];
    const ResizingRoom most = resizing.room(begin, count);
    auto* weights = static_cast<int*>(resizing.workspace);
    const Room room{static_cast<int>(most.taps), static_cast<int>(most.lines), static_cast<int>(resizing.longer()),
                    weights, reinterpret_cast<uint8_t*>(weights + most.weights)};
    const auto images = static_cast<unsigned>(count);
    FASTCAM_LAUNCH((find_weights), 2 * images, kThreads, 0, stream, group, room, height, width, resizing.cubic);
    FASTCAM_LAUNCH((resize_across), dim3(blocks_for(kColors * most.lines * width), images), kThreads, 0, stream,
                   resizing.pixels, group, room, height, width);
    FASTCAM_LAUNCH((resize_down), dim3(blocks_for(static_cast<int64_t>(height) * width), images), kThreads, 0, stream,
                   room, height, width, resizing.out + begin * height * width * kColors);
  }
}

}  // namespace fastcam::cuda
