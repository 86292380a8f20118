// Windows of activations with a changed patch pasted in, padding included. A row of a window is at
// most five segments (fill, clean, patch, clean, fill): every output byte is written once.
#include "layout.h"

#include <algorithm>
#include <cstring>

namespace fastcam {
namespace {

struct Range {
  int64_t start, stop;
  bool contains(int64_t index) const { return start <= index && index < stop; }
};

// The part of [start, start + size) inside [0, limit).
Range clipped(int64_t start, int64_t size, int64_t limit) {
  const int64_t first = std::min(std::max<int64_t>(start, 0), limit);
  // Neither sum overflows: the first adds opposite signs, the second stays within `limit`.
  const int64_t stop = start < 0 ? start + size : first + std::min(size, limit - first);
  return {first, std::max(first, std::min(stop, limit))};
}

// One axis of a window, in its own indices: which lie in the map, and which of these in the patch.
struct Axis {
  Range map{0, 0}, patch{0, 0};
  int64_t clean_start = 0, patch_start = 0;  // coordinates of map.start in the map, of patch.start in the patch

  Axis(int64_t window, int64_t size, int64_t origin, int64_t extent, int64_t limit) {
    const Range inside = clipped(window, size, limit);
    if (inside.start >= inside.stop) return;
    map = {inside.start - window, inside.stop - window};
    clean_start = inside.start;
    const Range changed = clipped(origin, extent, limit);
    const Range both{std::max(inside.start, changed.start), std::min(inside.stop, changed.stop)};
    if (both.start >= both.stop) return;
    patch = {both.start - window, both.stop - window};
    patch_start = both.start - origin;
  }
};

// Planes of rows: C planes for NCHW, one plane with C elements a pixel for NHWC.
struct Geometry {
  int64_t planes, pixel;  // pixel in bytes
  int64_t height, width;  // of the map
  int64_t patch_height, patch_width;
  int64_t rows, columns;  // of a window
  int64_t map_bytes() const { return height * width * pixel; }
  int64_t patch_bytes() const { return patch_height * patch_width * pixel; }
  int64_t window_bytes() const { return rows * columns * pixel; }
};

struct Operands {
  const char *clean, *patches, *filling;
  const int64_t *images, *origins, *windows;
};

char* append(char* out, const char* source, int64_t bytes) {
  if (bytes > 0) std::memcpy(out, source, bytes);
  return out + bytes;
}

// `clean`, `patch` and `filling` are a plane of the image, a plane of the patch and a row of fill.
void gather_plane(const char* clean, const char* patch, const char* filling, const Axis& y, const Axis& x,
                  const Geometry& geometry, char* out) {
  const int64_t pixel = geometry.pixel, right = geometry.columns - x.map.stop;
  for (int64_t i = 0; i < geometry.rows; ++i) {
    if (!y.map.contains(i) || x.map.start == x.map.stop) {
      out = append(out, filling, geometry.columns * pixel);
      continue;
    }
    const char* row = clean + ((y.clean_start + i - y.map.start) * geometry.width + x.clean_start) * pixel;
    const Range changed = y.patch.contains(i) ? x.patch : Range{x.map.stop, x.map.stop};
    out = append(out, filling, x.map.start * pixel);
    if (changed.start < changed.stop) {
      const int64_t line = y.patch_start + i - y.patch.start;
      out = append(out, row, (changed.start - x.map.start) * pixel);
      out = append(out, patch + (line * geometry.patch_width + x.patch_start) * pixel,
                   (changed.stop - changed.start) * pixel);
      out = append(out, row + (changed.stop - x.map.start) * pixel, (x.map.stop - changed.stop) * pixel);
    } else {
      out = append(out, row, (x.map.stop - x.map.start) * pixel);
    }
    out = append(out, filling, right * pixel);
  }
}

void gather_all(const Operands& from, const Geometry& geometry, int64_t count, char* out) {
  const int64_t bytes = geometry.window_bytes(), planes = geometry.planes;
  const int64_t grain = std::max<int64_t>(1, 65536 / bytes);
  torch::stable::parallel_for(0, count * planes, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end;) {
      const int64_t m = task / planes, stop = std::min(end, (m + 1) * planes);
      const int64_t *window = from.windows + 2 * m, *origin = from.origins + 2 * m;
      const Axis y(window[0], geometry.rows, origin[0], geometry.patch_height, geometry.height);
      const Axis x(window[1], geometry.columns, origin[1], geometry.patch_width, geometry.width);
      for (; task < stop; ++task) {
        const int64_t plane = from.images[m] * planes + task - m * planes;
        gather_plane(from.clean + plane * geometry.map_bytes(), from.patches + task * geometry.patch_bytes(),
                     from.filling, y, x, geometry, out + task * bytes);
      }
    }
  });
}

void check_indices(const Tensor& indices, const char* label, int64_t count, bool pairs) {
  STD_TORCH_CHECK(indices.dim() == (pairs ? 2 : 1) && indices.size(0) == count && (!pairs || indices.size(1) == 2) &&
                      indices.scalar_type() == ScalarType::Long && indices.is_cpu(),
                  "`", label, "` must be int64 of shape (", count, pairs ? ", 2)" : ",)",
                  " on the device of `clean`, got shape ", shape_text(indices));
}

void check_images(const int64_t* images, int64_t count, int64_t limit) {
  for (int64_t m = 0; m < count; ++m) {
    STD_TORCH_CHECK(images[m] >= 0 && images[m] < limit, "`images` must be at least 0 and below the ", limit,
                    " images in `clean`, got ", images[m]);
  }
}

void check_tensors(const Tensor& clean, const Tensor& patches) {
  check_floating(clean, "clean");
  STD_TORCH_CHECK(clean.dim() == 4, "`clean` must have shape (N, C, H, W), got ", shape_text(clean));
  STD_TORCH_CHECK(patches.dim() == 4 && patches.size(1) == clean.size(1), "`patches` must have shape (M, ",
                  clean.size(1), ", h, w), got ", shape_text(patches));
  STD_TORCH_CHECK(patches.scalar_type() == clean.scalar_type() && patches.is_cpu(),
                  "`patches` must have the dtype and device of `clean`");
}

// (N, C, H, W) as (N, H, W, C), without a copy.
Tensor with_channels_last(const Tensor& tensor) {
  return torch::stable::transpose(torch::stable::transpose(tensor, 1, 2), 2, 3);
}

}  // namespace

Tensor gather_patches(Tensor clean, Tensor images, Tensor patches, Tensor origins, Tensor windows,
                      std::vector<int64_t> size, double fill) {
  check_tensors(clean, patches);
  STD_TORCH_CHECK(size.size() == 2 && size[0] > 0 && size[1] > 0,
                  "`size` must be two positive numbers (height, width)");
  const int64_t count = patches.size(0), channels = clean.size(1), height = clean.size(2), width = clean.size(3);
  check_indices(images, "images", count, false);
  check_indices(origins, "origins", count, true);
  check_indices(windows, "windows", count, true);
  images = torch::stable::contiguous(images);
  origins = torch::stable::contiguous(origins);
  windows = torch::stable::contiguous(windows);
  check_images(images.const_data_ptr<int64_t>(), count, clean.size(0));

  const bool last = !clean.is_contiguous() && with_channels_last(clean).is_contiguous();
  Tensor memory = last ? torch::stable::new_empty(clean, {count, size[0], size[1], channels})
                       : torch::stable::new_empty(clean, {count, channels, size[0], size[1]});
  Tensor out = last ? torch::stable::transpose(torch::stable::transpose(memory, 2, 3), 1, 2) : memory;
  if (out.numel() == 0) return out;

  const int64_t planes = last ? 1 : channels, values = last ? channels : 1;
  const int64_t pixel = values * static_cast<int64_t>(clean.element_size());
  const Geometry geometry{planes, pixel, height, width, patches.size(2), patches.size(3), size[0], size[1]};
  if (!last) clean = torch::stable::contiguous(clean);
  patches = torch::stable::contiguous(last ? with_channels_last(patches) : patches);
  Tensor filling = torch::stable::new_empty(clean, {size[1] * values});
  torch::stable::fill_(filling, fill);
  const Operands from{static_cast<const char*>(clean.const_data_ptr()),
                      static_cast<const char*>(patches.const_data_ptr()),
                      static_cast<const char*>(filling.const_data_ptr()),
                      images.const_data_ptr<int64_t>(),
                      origins.const_data_ptr<int64_t>(),
                      windows.const_data_ptr<int64_t>()};
  gather_all(from, geometry, count, static_cast<char*>(memory.mutable_data_ptr()));
  return out;
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("gather_patches", TORCH_BOX(&fastcam::gather_patches)); }
