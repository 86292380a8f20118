// The schema of every op, in one place for every library that defines them.
#pragma once

namespace fastcam {

template <class Library>
void define_ops(Library& m) {
  m.def("weighted_channel_sum(Tensor activations, Tensor weights, bool relu=False) -> Tensor");
  m.def("channel_mean(Tensor activations) -> Tensor");
  m.def("plane_moments(Tensor activations) -> Tensor");
  m.def("grad_cam(Tensor activations, Tensor gradients, bool relu=True) -> Tensor");
  m.def("grad_cam_pp(Tensor activations, Tensor gradients, bool relu=True) -> Tensor");
  m.def("xgrad_cam(Tensor activations, Tensor gradients, float eps=1e-7, bool relu=True) -> Tensor");
  m.def("layer_cam(Tensor activations, Tensor gradients, bool relu=True) -> Tensor");
  m.def("upsample_normalize(Tensor maps, int[2] size, bool normalize=True) -> Tensor");
  m.def("upsample_normalize_into(Tensor maps, bool normalize, Tensor(a!) out) -> ()");
  m.def("occlude(Tensor images, Tensor windows, Tensor baseline) -> Tensor");
  m.def("mask_images(Tensor images, Tensor maps, bool normalize=True) -> Tensor");
  m.def(
      "gather_patches(Tensor clean, Tensor images, Tensor patches, Tensor origins, Tensor windows, int[2] size, "
      "float fill=0.0) -> Tensor");
  m.def("impute_neighbours(Tensor images, Tensor missing, float tolerance) -> Tensor");
  m.def("resize_crop(Tensor pixels, int[] places, int[2] size, bool cubic=False) -> Tensor");
  m.def("overlay(Tensor images, Tensor maps, Tensor colors, float alpha) -> Tensor");
}

}  // namespace fastcam
