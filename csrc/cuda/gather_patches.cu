// Windows of activations with a changed patch pasted in, padding included: every output is written once. The
// elements are moved, never computed with: any type of 2, 4 or 8 bytes.
#include "../common/patches.h"
#include "device.h"
#include "kernels.h"

namespace fastcam::cuda {
namespace {

// One element of a plane of a window: `clean` and `patch` point at the plane they are taken from.
template <class T>
FASTCAM_DEVICE T element_at(const T* clean, const T* patch, T fill, const WindowAxis& y, const WindowAxis& x,
                            const Gathering& g, int64_t row, int64_t column, int64_t value) {
  if (!y.map.contains(row) || !x.map.contains(column)) return fill;
  if (y.patch.contains(row) && x.patch.contains(column)) {
    const int64_t line = y.patch_start + row - y.patch.start, at = x.patch_start + column - x.patch.start;
    return patch[(line * g.patch_width + at) * g.values + value];
  }
  const int64_t line = y.clean_start + row - y.map.start, at = x.clean_start + column - x.map.start;
  return clean[(line * g.width + at) * g.values + value];
}

// Along x the packs of a plane, along y the windows, along z the planes.
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    gather_windows(const T* __restrict__ clean, const T* __restrict__ patches, const T* __restrict__ fill,
                   T* __restrict__ out, const Gathering g, bool aligned) {
  constexpr unsigned kSize = Pack<T>::size;
  const auto values = static_cast<unsigned>(g.values), line = static_cast<unsigned>(g.columns) * values;
  const unsigned plane = static_cast<unsigned>(g.rows) * line, packs = (plane + kSize - 1) / kSize;
  for (int64_t m = blockIdx.y; m < g.count; m += gridDim.y) {
    const WindowAxis y(g.windows[2 * m], g.rows, g.origins[2 * m], g.patch_height, g.height);
    const WindowAxis x(g.windows[2 * m + 1], g.columns, g.origins[2 * m + 1], g.patch_width, g.width);
    const int64_t image = g.images[m];
    const bool there = image >= 0 && image < g.image_count;
    for (int64_t p = blockIdx.z; p < g.planes; p += gridDim.z) {
      const T* map = clean + (image * g.planes + p) * g.height * g.width * g.values;
      const T* patch = patches + (m * g.planes + p) * g.patch_height * g.patch_width * g.values;
      for (unsigned i = blockIdx.x * kThreads + threadIdx.x; i < packs; i += gridDim.x * kThreads) {
        Pack<T> pack;
#pragma unroll
        for (unsigned k = 0; k < kSize; ++k) {
          const unsigned at = i * kSize + k, column = at % line;
          pack.v[k] = there ? element_at(map, patch, *fill, y, x, g, at / line, column / values, column % values)
                            : static_cast<T>(-1);
        }
        store_pack(out + (m * g.planes + p) * plane + i * kSize, pack, plane - i * kSize, aligned);
      }
    }
  }
}

template <class T>
void launch_gather(const Gathering& g, cudaStream_t stream) {
  const int64_t plane = g.rows * g.columns * g.values, width = kThreads * Pack<T>::size;
  const dim3 grid(grid_size((plane + width - 1) / width), grid_size(g.count), grid_size(g.planes));
  const bool aligned = plane % Pack<T>::size == 0 && reinterpret_cast<uintptr_t>(g.out) % 16 == 0;
  FASTCAM_LAUNCH((gather_windows<T>), grid, kThreads, 0, stream, static_cast<const T*>(g.clean),
                 static_cast<const T*>(g.patches), static_cast<const T*>(g.fill), static_cast<T*>(g.out), g, aligned);
}

}  // namespace

void gather_patches(const Gathering& gathering, Stream opaque) {
  auto stream = static_cast<cudaStream_t>(opaque);
  if (gathering.element_size == 2) return launch_gather<uint16_t>(gathering, stream);
  if (gathering.element_size == 4) return launch_gather<uint32_t>(gathering, stream);
  launch_gather<uint64_t>(gathering, stream);
}

}  // namespace fastcam::cuda
