// What library_cuda.cpp asks of the .cu files: raw device pointers, sizes, strides and a stream; no
// torch and no CUDA header on either side. Every function only launches: nothing waits for the device.
#pragma once
#include <cstdint>

#include "../common/sizes.h"

namespace fastcam::cuda {

enum class Dtype { float32, float64, float16, bfloat16 };
using Stream = void*;  // a cudaStream_t

constexpr int64_t element_bytes(Dtype dtype) { return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2; }

// What the current device has.
struct DeviceLimits {
  int multiprocessors;
  int64_t shared_bytes;  // of shared memory, for one block at most
};
DeviceLimits device_limits();

// What of a whole plane must be known before its channel's weight is.
enum class PlaneNeed { nothing, gradients, activations_too };

// Who sums a plane, by its size: see staged_planes.h for the first four, which read every tensor once.
enum class Design {
  thread_planes,  // a thread owns a channel
  warp_planes,    // a warp
  block_planes,   // a block, for weights that need the activations too
  column_planes,  // NHWC: a lane owns channels, a warp every eighth position
  large_planes,   // runs of positions; weights that need whole planes come from a pass of their own
  rows,           // NHWC, larger planes or float64
};
constexpr int64_t kThreadPlane = 64, kWarpPlane = 1024, kBlockPlane = 16384, kColumnPlane = 512;  // most positions

// Lanes that share a position of the design `rows`, each with one load of 16 bytes.
constexpr int64_t kRowLanes = 8;

// Bytes of shared memory for the tiles of one tensor: 64 KiB for two tensors in two stages leave room for three blocks
// on a multiprocessor.
constexpr int64_t kTileBytes = 16 << 10;

// Of a block's shared memory, what is left for static arrays, and for sums beside the tiles.
constexpr int64_t kStaticShared = 4096, kSumsShared = 4096;

// A channel reduction: maps (N, K, P) from activations (N, C, P) and weights (N, K, C[, P]).
struct Reduction {
  Dtype dtype;
  const void *activations, *weights;
  void *maps, *workspace;  // accumulation dtype: float64 for float64, else float32
  Sizes sizes;
  Strides as, ws;
  bool rows;  // the channels of a position lie side by side (NHWC); otherwise the positions of a channel do
  bool relu;
  PlaneNeed need;
  DeviceLimits limits;

  int64_t tile_bytes() const { return limits.shared_bytes - kStaticShared - kSumsShared; }  // at most

  Design design() const {
    if (sizes.positions <= kThreadPlane) return Design::thread_planes;
    if (rows) {
      const bool fits = sizes.positions <= kColumnPlane && 4 * sizes.positions * 128 <= tile_bytes();
      return fits && dtype != Dtype::float64 ? Design::column_planes : Design::rows;
    }
    if (sizes.positions <= kWarpPlane) return Design::warp_planes;
    const int64_t plane = (sizes.positions + 8) * element_bytes(dtype);
    const bool fits = sizes.positions <= kBlockPlane && 4 * plane <= tile_bytes();
    return need == PlaneNeed::activations_too && fits ? Design::block_planes : Design::large_planes;
  }

  // Channels that are summed by themselves, before their sums are added: set by the shape of one image alone, so that
  // a map has the same bits in every batch.
  int64_t chunk() const {
    switch (design()) {
      case Design::thread_planes:
        return 256;
      case Design::block_planes:
        return 32;
      case Design::column_planes:
        return 128;
      case Design::rows:
        return kRowLanes * (16 / element_bytes(dtype));
      default:
        return 64;
    }
  }

  // Whether one block sums all channels of a map, chunk by chunk: where the maps alone keep the device busy.
  bool is_whole() const {
    const Design by = design();
    const bool can = by == Design::thread_planes || by == Design::warp_planes || by == Design::column_planes;
    return can && sizes.rows() >= 3 * limits.multiprocessors;
  }

  // Channels of a block, and how many blocks share a map.
  int64_t block_channels() const { return whole ? sizes.channels : chunk(); }
  int64_t parts() const { return (sizes.channels + block_channels() - 1) / block_channels(); }

  // Elements of one map for each part where there are several, added afterwards.
  int64_t part_count() const { return parts() > 1 ? sizes.rows() * parts() * sizes.positions : 0; }

  // Elements of workspace: the parts, then the weights where a pass of its own finds them.
  int64_t workspace_size() const {
    const bool two_passes = need != PlaneNeed::nothing && design() == Design::large_planes;
    return part_count() + (two_passes ? sizes.rows() * sizes.channels : 0);
  }

  // Set by `plan`, for all images; launches for some of them keep it.
  bool whole = false;
  void plan() { whole = is_whole(); }
};

void grad_cam(const Reduction& reduction, Stream stream);
void grad_cam_pp(const Reduction& reduction, Stream stream);
void xgrad_cam(const Reduction& reduction, double eps, Stream stream);
void layer_cam(const Reduction& reduction, Stream stream);
void weighted_channel_sum(const Reduction& reduction, bool per_element, Stream stream);
void channel_mean(const Reduction& reduction, Stream stream);   // the maps are (N, C); no workspace
void plane_moments(const Reduction& reduction, Stream stream);  // the maps are (kMoments, N, C); no workspace

// x = ReLU(x), hiding nothing that is not finite; float32 or float64.
void rectify_in_place(Dtype dtype, void* values, int64_t count, Stream stream);

// Maps of so few positions that to find their extremes costs a block less than to be told of them by another kernel.
constexpr bool is_small_map(int64_t height, int64_t width) { return height * width <= 1024; }

// Elements of memory for the extremes of maps, where a kernel of its own finds them.
constexpr int64_t extremes_size(bool normalize, int64_t count, int64_t height, int64_t width) {
  return normalize && !is_small_map(height, width) ? 2 * count : 0;
}

struct Resampling {
  Dtype dtype;
  const void* maps;  // (count, height, width)
  void* out;         // (count, lines, columns)
  void* extremes;    // of `extremes_size`, in the accumulation dtype; null for none
  int64_t count, height, width, lines, columns;
  bool normalize;
};
void upsample_normalize(const Resampling& resampling, Stream stream);

// Copies (images, count, planes, lines, columns) of images (images, planes, lines, columns), each times one map; in
// channels_last memory there is one plane, whose pixels hold all channels.
struct Masking {
  Dtype dtype;                                 // of the images and the copies
  const void *images, *maps;                   // maps (images, count, height, width) in the accumulation dtype
  void *copies, *extremes;                     // extremes as above
  int64_t image_count, count, planes, values;  // values: elements of a pixel
  int64_t height, width, lines, columns;
  bool normalize;
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

// Planes (images, channels, lines, columns), strides in elements, with missing pixels (images, lines, columns) filled
// in; a block takes `workspace_elements` of the workspace, zeros at first, for one plane after the other.
struct Imputing {
  Dtype dtype;
  const void* images;
  const bool* missing;
  void *out, *workspace;  // the workspace in the accumulation dtype
  int64_t image_count, channels, lines, columns;
  int64_t strides[4], out_strides[4];
  int64_t blocks, workspace_elements;
  double tolerance;
};
void impute_neighbours(const Imputing& imputing, Stream stream);

// A photograph (3, height, width) of bytes, the size that it is resized to, and the corner of its crop there.
struct Photograph {
  int64_t first;  // of its bytes, among those of all
  int height, width, resized_height, resized_width, top, left;
};

// What some photographs need at most: weights of an output, lines of the photograph, and numbers for all weights.
struct ResizingRoom {
  int64_t taps, lines, weights;
};

constexpr int64_t kGroup = 32;  // photographs that a kernel is told of at once

// Crops (count, height, width, 3) of resized photographs.
struct Resizing {
  const uint8_t* pixels;
  const Photograph* photographs;  // in memory of the host
  int64_t count, height, width;   // of the crops
  bool cubic;
  void* workspace;  // of `workspace_size`
  uint8_t* out;

  int64_t longer() const { return height > width ? height : width; }

  // For `some` photographs from `begin` on.
  ResizingRoom room(int64_t begin, int64_t some) const {
    ResizingRoom most{};
    const double reach = cubic ? 2.0 : 1.0;
    for (int64_t i = begin; i < begin + some; ++i) {
      const Photograph& each = photographs[i];
      const double down = static_cast<double>(each.height) / each.resized_height;
      const double across = static_cast<double>(each.width) / each.resized_width;
      const double larger = down > across ? down : across;
      const auto taps = static_cast<int64_t>(reach * (larger > 1 ? larger : 1)) * 2 + 3;
      const auto lines = static_cast<int64_t>(down * height + 2 * reach * (down > 1 ? down : 1)) + 3;
      most.taps = taps > most.taps ? taps : most.taps;
      const int64_t needed = lines < each.height ? lines : each.height;
      most.lines = needed > most.lines ? needed : most.lines;
    }
    most.weights = 2 * some * (1 + longer() * (2 + most.taps));
    return most;
  }

  // 32-bit numbers of memory: the weights of a group, and its photographs between the two passes.
  int64_t workspace_size() const {
    int64_t most = 0;
    for (int64_t begin = 0; begin < count; begin += kGroup) {
      const int64_t some = count - begin < kGroup ? count - begin : kGroup;
      const ResizingRoom needed = room(begin, some);
      const int64_t size = needed.weights + (some * 3 * needed.lines * width + 3) / 4;
      most = size > most ? size : most;
    }
    return most;
  }
};
void resize_crop(const Resizing& resizing, Stream stream);

// Colours (256, 3) of maps over images (count, 3) of bytes.
void overlay(Dtype dtype, const uint8_t* images, const void* maps, const uint8_t* colors, float alpha, int64_t count,
             uint8_t* out, Stream stream);

}  // namespace fastcam::cuda
