// Occluded copies of images: every output is written once, from the image or from the baseline. The
// elements are moved, never computed with: any type of 2, 4 or 8 bytes.
#include "../common/windows.h"
#include "device.h"
#include "kernels.h"

namespace fastcam::cuda {
namespace {

// Whether a window may reach the rows `first` to `last`, counted over all depths: most packs are far from it.
FASTCAM_DEVICE bool touches(const Window& window, int64_t height, int64_t first, int64_t last) {
  return last >= window.start[0] * height + window.start[1] && first < (window.stop[0] - 1) * height + window.stop[1];
}

// One pack of one plane: `image`, `filling` and `copy` point at the plane.
template <class T>
FASTCAM_DEVICE void occlude_pack(const T* image, const T* filling, T* copy, const Occlusion& o, const Window& window,
                                 unsigned first, bool aligned) {
  constexpr unsigned kSize = Pack<T>::size;
  const auto height = static_cast<unsigned>(o.height), inside = static_cast<unsigned>(o.channels_inside);
  const unsigned line = static_cast<unsigned>(o.width) * inside, plane = static_cast<unsigned>(o.depth) * height * line;
  Pack<T> pack = load_pack(image + first, plane - first, aligned);
  if (touches(window, height, first / line, (first + kSize - 1) / line)) {
#pragma unroll
    for (unsigned i = 0; i < kSize; ++i) {
      const unsigned row = (first + i) / line, column = (first + i) % line / inside;
      if (first + i < plane && window.contains(row / height, row % height, column)) pack.v[i] = filling[first + i];
    }
  }
  store_pack(copy + first, pack, plane - first, aligned);
}

// Along x the packs of a plane, along y the windows, along z the planes of all images.
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    occlude_planes(const T* __restrict__ images, const T* __restrict__ baseline, T* __restrict__ copies,
                   const Occlusion o, bool aligned) {
  const int64_t limits[3] = {o.depth, o.height, o.width};
  const auto plane = static_cast<unsigned>(o.depth * o.height * o.width * o.channels_inside);
  const auto planes = static_cast<unsigned>(o.planes);
  const unsigned packs = (plane + Pack<T>::size - 1) / Pack<T>::size;
  for (unsigned index = blockIdx.z; index < o.image_count * o.planes; index += gridDim.z) {
    const unsigned channel = index % planes, n = index / planes;
    const T* image = images + static_cast<int64_t>(index) * plane;
    const T* filling = baseline + static_cast<int64_t>(o.baseline_per_image ? index : channel) * plane;
    for (int64_t m = blockIdx.y; m < o.count; m += gridDim.y) {
      const Window window = clipped_window(o.windows + m * 2 * o.axes, o.axes, limits);
      T* copy = copies + ((n * o.count + m) * o.planes + channel) * plane;
      for (unsigned i = blockIdx.x * kThreads + threadIdx.x; i < packs; i += gridDim.x * kThreads) {
        occlude_pack(image, filling, copy, o, window, i * Pack<T>::size, aligned);
      }
    }
  }
}

template <class T>
void launch_occlude(const Occlusion& o, cudaStream_t stream) {
  const int64_t plane = o.depth * o.height * o.width * o.channels_inside, width = kThreads * Pack<T>::size;
  const dim3 grid(grid_size((plane + width - 1) / width), grid_size(o.count), grid_size(o.image_count * o.planes));
  const bool aligned = plane % Pack<T>::size == 0 && reinterpret_cast<uintptr_t>(o.images) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(o.copies) % 16 == 0;
  FASTCAM_LAUNCH((occlude_planes<T>), grid, kThreads, 0, stream, static_cast<const T*>(o.images),
                 static_cast<const T*>(o.baseline), static_cast<T*>(o.copies), o, aligned);
}

}  // namespace

void occlude(const Occlusion& occlusion, Stream opaque) {
  auto stream = static_cast<cudaStream_t>(opaque);
  if (occlusion.element_size == 2) return launch_occlude<uint16_t>(occlusion, stream);
  if (occlusion.element_size == 4) return launch_occlude<uint32_t>(occlusion, stream);
  launch_occlude<uint64_t>(occlusion, stream);
}

}  // namespace fastcam::cuda
