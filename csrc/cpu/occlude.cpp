// Occluded copies of images. An image is a run of bytes in which a window is one segment per row:
// every output byte is written once, from the image or from the baseline, whatever the dtype.
#include "../common/occlusion.h"
#include "../common/windows.h"

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

}  // namespace

Tensor occlude(Tensor images, Tensor windows, Tensor baseline) {
  const OcclusionOperands found = occlusion_operands(images, windows, baseline);
  if (found.copies.numel() == 0) return found.copies;
  const int64_t axes = found.axes(), count = found.windows.size(0), image_count = found.images.size(0);
  const Geometry geometry{found.planes(), found.limits[0], found.limits[1], found.limits[2],
                          static_cast<int64_t>(found.images.element_size()) * found.channels_inside()};
  const int64_t bytes = geometry.plane_bytes(), image_bytes = bytes * geometry.planes;
  const char* image = static_cast<const char*>(found.images.const_data_ptr());
  const char* filling = static_cast<const char*>(found.baseline.const_data_ptr());
  const int64_t filling_stride = found.baseline.size(0) == 1 ? 0 : image_bytes;
  const int64_t* boxes = found.windows.const_data_ptr<int64_t>();
  char* copies = static_cast<char*>(found.copies.mutable_data_ptr());

  const int64_t grain = std::max<int64_t>(1, 65536 / bytes);
  torch::stable::parallel_for(0, image_count * count * geometry.planes, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t plane = task % geometry.planes, m = task / geometry.planes % count;
      const int64_t n = task / geometry.planes / count;
      const Window window = clipped_window(boxes + m * 2 * axes, axes, found.limits);
      occlude_plane(image + n * image_bytes + plane * bytes, filling + n * filling_stride + plane * bytes, window,
                    geometry, copies + task * bytes);
    }
  });
  return found.copies;
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("occlude", TORCH_BOX(&fastcam::occlude)); }
