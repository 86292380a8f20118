// Occluded copies of images. An image is a run of bytes in which a window is one segment per row:
// every output byte is written once, from the image or from the baseline, whatever the dtype.
#include "../common/tensors.h"

#include <algorithm>
#include <cstring>

namespace fastcam {
namespace {

// An image as planes of rows: (C, D*H, W) for NCHW, (1, D*H, W) with C elements a pixel for NHWC.
struct Geometry {
  int64_t planes, depth, height, width;
  int64_t pixel;  // bytes
  int64_t plane_bytes() const { return depth * height * width * pixel; }
};

struct Window {
  int64_t start[3], stop[3];  // depth, height, width; clipped to the image
  bool empty() const { return start[0] >= stop[0] || start[1] >= stop[1] || start[2] >= stop[2]; }
};

Window clipped_window(const int64_t* starts_and_sizes, int64_t axes, const int64_t (&limits)[3]) {
  Window window{{0, 0, 0}, {1, 1, 1}};
  for (int64_t i = 0; i < axes; ++i) {
    const int64_t axis = 3 - axes + i, limit = limits[axis];
    const int64_t start = starts_and_sizes[i], size = std::max<int64_t>(0, starts_and_sizes[axes + i]);
    window.start[axis] = std::min(std::max<int64_t>(start, 0), limit);
    // Neither sum overflows: the first adds opposite signs, the second two numbers of at most `limit`.
    const int64_t stop = start < 0 ? start + size : window.start[axis] + std::min(size, limit);
    window.stop[axis] = std::min(std::max<int64_t>(stop, 0), limit);
  }
  return window;
}

void occlude_plane(const char* image, const char* baseline, const Window& window, const Geometry& geometry, char* out) {
  int64_t done = 0;
  if (!window.empty()) {
    const int64_t segment = (window.stop[2] - window.start[2]) * geometry.pixel;
    for (int64_t d = window.start[0]; d < window.stop[0]; ++d) {
      for (int64_t h = window.start[1]; h < window.stop[1]; ++h) {
        const int64_t first = ((d * geometry.height + h) * geometry.width + window.start[2]) * geometry.pixel;
        std::memcpy(out + done, image + done, first - done);
        std::memcpy(out + first, baseline + first, segment);
        done = first + segment;
      }
    }
  }
  std::memcpy(out + done, image + done, geometry.plane_bytes() - done);
}

bool is_channels_last(const Tensor& images) {
  int64_t expected = images.size(1);
  if (images.size(1) > 1 && images.stride(1) != 1) return false;
  for (int64_t i = images.dim() - 1; i >= 2; --i) {
    if (images.size(i) > 1 && images.stride(i) != expected) return false;
    expected *= images.size(i);
  }
  return images.size(0) <= 1 || images.stride(0) == expected;
}

// (..., C, *S) over new memory laid out as (..., *S, C) where `last`, `lead` axes before C.
Tensor new_images(const Tensor& like, std::vector<int64_t> shape, int64_t lead, bool last) {
  if (!last) return torch::stable::new_empty(like, shape);
  std::rotate(shape.begin() + lead, shape.begin() + lead + 1, shape.end());
  Tensor images = torch::stable::new_empty(like, shape);
  const int64_t end = images.dim() - 1;
  for (int64_t i = lead; i < end; ++i) images = torch::stable::transpose(images, i, end);
  return images;
}

// The baseline as an image (or N images) in the memory layout of the images.
Tensor baseline_images(const Tensor& images, const Tensor& baseline, bool last) {
  const int64_t axes = images.dim();
  std::vector<int64_t> shape(axes, 1);
  bool fits = baseline.dim() <= 1 || baseline.dim() == axes - 1 || baseline.dim() == axes;
  if (fits && baseline.dim() == 1) shape[1] = baseline.size(0);
  for (int64_t i = 0; fits && baseline.dim() > 1 && i < baseline.dim(); ++i) {
    shape[axes - baseline.dim() + i] = baseline.size(i);
  }
  for (int64_t i = 0; fits && i < axes; ++i) fits = shape[i] == 1 || shape[i] == images.size(i);
  STD_TORCH_CHECK(fits, "`baseline` must be a number () or have shape (C,), (C, ...) or (N, C, ...) for images ",
                  shape_text(images), ", got ", shape_text(baseline));
  Tensor view = torch::stable::reshape(baseline, shape);
  std::vector<int64_t> full(axes);
  for (int64_t i = 0; i < axes; ++i) full[i] = i == 0 ? shape[0] : images.size(i);
  Tensor out = new_images(images, full, 1, last);
  return torch::stable::copy_(out, view);
}

}  // namespace

Tensor occlude(Tensor images, Tensor windows, Tensor baseline) {
  const int64_t axes = images.dim() - 2;
  STD_TORCH_CHECK(axes >= 1 && axes <= 3, "`images` must have shape (N, C, ...) with 1 to 3 spatial axes, got ",
                  shape_text(images));
  STD_TORCH_CHECK(windows.dim() == 3 && windows.size(1) == 2 && windows.size(2) == axes &&
                      windows.scalar_type() == ScalarType::Long && windows.is_cpu(),
                  "`windows` must be int64 of shape (M, 2, ", axes, ") on the device of the images, got shape ",
                  shape_text(windows));
  STD_TORCH_CHECK(baseline.scalar_type() == images.scalar_type() && baseline.is_cpu(),
                  "`baseline` must have the dtype and device of `images`");
  const bool last = !images.is_contiguous() && is_channels_last(images);
  if (!last) images = torch::stable::contiguous(images);
  windows = torch::stable::contiguous(windows);
  baseline = baseline_images(images, baseline, last);

  const int64_t count = windows.size(0);
  std::vector<int64_t> shape{images.size(0), count};
  for (int64_t i = 1; i < images.dim(); ++i) shape.push_back(images.size(i));
  Tensor out = new_images(images, shape, 2, last);
  if (out.numel() == 0) return out;

  int64_t limits[3] = {1, 1, 1};
  for (int64_t i = 0; i < axes; ++i) limits[3 - axes + i] = images.size(2 + i);
  const Geometry geometry{last ? 1 : images.size(1), limits[0], limits[1], limits[2],
                          static_cast<int64_t>(images.element_size()) * (last ? images.size(1) : 1)};
  const int64_t bytes = geometry.plane_bytes(), image_bytes = bytes * geometry.planes;
  const char* image = static_cast<const char*>(images.const_data_ptr());
  const char* filling = static_cast<const char*>(baseline.const_data_ptr());
  const int64_t filling_stride = baseline.size(0) == 1 ? 0 : image_bytes;
  const int64_t* boxes = windows.const_data_ptr<int64_t>();
  char* copies = static_cast<char*>(out.mutable_data_ptr());

  const int64_t grain = std::max<int64_t>(1, 65536 / bytes);
  torch::stable::parallel_for(0, images.size(0) * count * geometry.planes, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t plane = task % geometry.planes, m = task / geometry.planes % count;
      const int64_t n = task / geometry.planes / count;
      const Window window = clipped_window(boxes + m * 2 * axes, axes, limits);
      occlude_plane(image + n * image_bytes + plane * bytes, filling + n * filling_stride + plane * bytes, window,
                    geometry, copies + task * bytes);
    }
  });
  return out;
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("occlude", TORCH_BOX(&fastcam::occlude)); }
