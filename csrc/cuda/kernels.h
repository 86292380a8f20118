// What library_cuda.cpp asks of the .cu files: raw device pointers, sizes, strides and a stream; no
// torch and no CUDA header on either side. Every function only launches: nothing waits for the device.
#pragma once
#include <cstdint>

#include "../common/sizes.h"

namespace fastcam::cuda {

enum class Dtype { float32, float64, float16, bfloat16 };
using Stream = void*;  // a cudaStream_t

constexpr int64_t element_bytes(Dtype dtype) { return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2; }

// A plane of up to so many positions is staged whole in shared memory.
constexpr int64_t kSmallPlane = 1024;

// A channel reduction: maps (N, K, P) from activations (N, C, P) and weights (N, K, C[, P]).
struct Reduction {
  Dtype dtype;
  const void *activations, *weights;
  void *maps, *workspace;  // accumulation dtype: float64 for float64, else float32
  Sizes sizes;
  Strides as, ws;
  bool rows;  // the channels of a position lie side by side (NHWC); otherwise the positions of a channel do
  bool relu;

  bool small_planes() const { return !rows && sizes.positions <= kSmallPlane; }

  // Channels one block sums: set by the shape of one image alone, so that a map has the same bits in every batch.
  int64_t chunk() const {
    if (rows) return 32 * (16 / element_bytes(dtype));  // one 16-byte load for each lane of a warp
    return sizes.positions <= 64 ? 128 : 64;
  }
  int64_t chunks() const { return (sizes.channels + chunk() - 1) / chunk(); }

  // Elements of one map for each chunk where there are several, added afterwards.
  int64_t part_count() const { return chunks() > 1 ? sizes.rows() * chunks() * sizes.positions : 0; }

  // Elements of workspace for maps whose channel weights follow from whole planes (`from_planes`) or are given: the
  // parts, then the weights where planes are too large to be kept until their weight is known.
  int64_t workspace_size(bool from_planes) const {
    const bool two_steps = from_planes && !rows && !small_planes();
    return part_count() + (two_steps ? sizes.rows() * sizes.channels : 0);
  }
};

void grad_cam(const Reduction& reduction, Stream stream);
void grad_cam_pp(const Reduction& reduction, Stream stream);
void xgrad_cam(const Reduction& reduction, double eps, Stream stream);
void layer_cam(const Reduction& reduction, Stream stream);
void weighted_channel_sum(const Reduction& reduction, bool per_element, Stream stream);
void channel_mean(const Reduction& reduction, Stream stream);  // the maps are (N, C); no workspace

// x = ReLU(x), hiding nothing that is not finite; float32 or float64.
void rectify_in_place(Dtype dtype, void* values, int64_t count, Stream stream);

struct Resampling {
  Dtype dtype;
  const void* maps;  // (count, height, width)
  void* out;         // (count, lines, columns)
  void* extremes;    // (count, 2) in the accumulation dtype, where the result is normalised
  int64_t count, height, width, lines, columns;
  bool normalize;
};
void upsample_normalize(const Resampling& resampling, Stream stream);

// Copies (images, count, planes, lines, columns) of images (images, planes, lines, columns), each times one map; in
// channels_last memory there is one plane, whose pixels hold all channels.
struct Masking {
  Dtype dtype;                                 // of the images and the copies
  const void *images, *maps;                   // maps (images, count, height, width) in the accumulation dtype
  void *copies, *extremes;                     // extremes (images, count, 2) as above, or null
  int64_t image_count, count, planes, values;  // values: elements of a pixel
  int64_t height, width, lines, columns;
};
void mask_images(const Masking& masking, Stream stream);

// Images as bytes: `planes` of depth x height x width pixels; a pixel is one element, or in
// channels_last memory all channels of a position.
struct Occlusion {
  const void *images, *baseline;
  void* copies;            // (images, count, planes, depth, height, width)
  const int64_t* windows;  // (count, 2, axes)
  int64_t image_count, count, planes, depth, height, width, channels_inside;
  int64_t axes, element_size;
  bool baseline_per_image;
};
void occlude(const Occlusion& occlusion, Stream stream);

// Windows (count, planes, rows, columns) of maps (images, planes, height, width) with patches pasted in; in
// channels_last memory there is one plane, whose pixels hold all channels.
struct Gathering {
  const void *clean, *patches, *fill;         // fill: one element
  const int64_t *images, *origins, *windows;  // (count), (count, 2), (count, 2)
  void* out;
  int64_t image_count, count, planes, values;  // values: elements of a pixel
  int64_t height, width, patch_height, patch_width, rows, columns;
  int64_t element_size;
};
// A window of an image that is not there becomes all ones in its bits, which is NaN: nothing can be raised
// without waiting for the device.
void gather_patches(const Gathering& gathering, Stream stream);

// Colours (256, 3) of maps over images (count, 3) of bytes.
void overlay(Dtype dtype, const uint8_t* images, const void* maps, const uint8_t* colors, float alpha, int64_t count,
             uint8_t* out, Stream stream);

}  // namespace fastcam::cuda
