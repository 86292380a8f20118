#include "../common/tensors.h"
#include "run.h"

namespace fastcam {
namespace {

struct Overlay {
  template <class T>
  static FASTCAM_INLINE void run(const uint8_t* images, const T* maps, const uint8_t* colors, float alpha,
                                 int64_t begin, int64_t end, uint8_t* out) {
    for (int64_t i = begin; i < end; ++i) {
      overlay_pixel(images + 3 * i, static_cast<float>(maps[i]), colors, alpha, out + 3 * i);
    }
  }
};

}  // namespace

Tensor overlay(Tensor images, Tensor maps, Tensor colors, double alpha) {
  check_overlay(images, maps, colors, alpha);
  images = torch::stable::contiguous(images);
  maps = torch::stable::contiguous(maps);
  colors = torch::stable::contiguous(colors);
  Tensor out = torch::stable::empty_like(images);
  const uint8_t* pixels = images.const_data_ptr<uint8_t>();
  const uint8_t* table = colors.const_data_ptr<uint8_t>();
  uint8_t* blends = out.mutable_data_ptr<uint8_t>();
  FASTCAM_DISPATCH(maps.scalar_type(), [&] {
    const scalar_t* values = maps.const_data_ptr<scalar_t>();
    torch::stable::parallel_for(0, maps.numel(), 16384, [&](int64_t begin, int64_t end) {
      run<Overlay>(pixels, values, table, static_cast<float>(alpha), begin, end, blends);
    });
  });
  return out;
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("overlay", TORCH_BOX(&fastcam::overlay)); }
