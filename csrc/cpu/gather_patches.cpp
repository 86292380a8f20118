// Windows of activations with a changed patch pasted in, padding included. A row of a window is at
// most five segments (fill, clean, patch, clean, fill): every output byte is written once.
#include "../common/patch_operands.h"
#include "../common/patches.h"

#include <algorithm>
#include <cstring>

namespace fastcam {
namespace {

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
void gather_plane(const char* clean, const char* patch, const char* filling, const WindowAxis& y, const WindowAxis& x,
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
      const WindowAxis y(window[0], geometry.rows, origin[0], geometry.patch_height, geometry.height);
      const WindowAxis x(window[1], geometry.columns, origin[1], geometry.patch_width, geometry.width);
      for (; task < stop; ++task) {
        const int64_t plane = from.images[m] * planes + task - m * planes;
        gather_plane(from.clean + plane * geometry.map_bytes(), from.patches + task * geometry.patch_bytes(),
                     from.filling, y, x, geometry, out + task * bytes);
      }
    }
  });
}

void check_images(const int64_t* images, int64_t count, int64_t limit) {
  for (int64_t m = 0; m < count; ++m) {
    STD_TORCH_CHECK(images[m] >= 0 && images[m] < limit, "`images` must be at least 0 and below the ", limit,
                    " images in `clean`, got ", images[m]);
  }
}

}  // namespace

Tensor gather_patches(Tensor clean, Tensor images, Tensor patches, Tensor origins, Tensor windows,
                      std::vector<int64_t> size, double fill) {
  const PatchOperands found = patch_operands(clean, images, patches, origins, windows, size);
  const int64_t count = patches.size(0);
  check_images(found.images.const_data_ptr<int64_t>(), count, clean.size(0));
  if (found.out.numel() == 0) return found.out;

  const int64_t pixel = found.values * static_cast<int64_t>(clean.element_size());
  const Geometry geometry{found.planes,    pixel,           clean.size(2), clean.size(3),
                          patches.size(2), patches.size(3), size[0],       size[1]};
  Tensor filling = torch::stable::new_empty(clean, {size[1] * found.values});
  torch::stable::fill_(filling, fill);
  const Operands from{static_cast<const char*>(found.clean.const_data_ptr()),
                      static_cast<const char*>(found.patches.const_data_ptr()),
                      static_cast<const char*>(filling.const_data_ptr()),
                      found.images.const_data_ptr<int64_t>(),
                      found.origins.const_data_ptr<int64_t>(),
                      found.windows.const_data_ptr<int64_t>()};
  gather_all(from, geometry, count, static_cast<char*>(found.memory.mutable_data_ptr()));
  return found.out;
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("gather_patches", TORCH_BOX(&fastcam::gather_patches)); }
