// The schema of every op. Kernels register themselves beside their definitions: cpu/<op>.cpp.
#include <Python.h>

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fastcam, m) {
  m.def("weighted_channel_sum(Tensor activations, Tensor weights, bool relu=False) -> Tensor");
  m.def("channel_mean(Tensor activations) -> Tensor");
  m.def("grad_cam(Tensor activations, Tensor gradients, bool relu=True) -> Tensor");
  m.def("grad_cam_pp(Tensor activations, Tensor gradients, bool relu=True) -> Tensor");
  m.def("xgrad_cam(Tensor activations, Tensor gradients, float eps=1e-7, bool relu=True) -> Tensor");
  m.def("layer_cam(Tensor activations, Tensor gradients, bool relu=True) -> Tensor");
  m.def("upsample_normalize(Tensor maps, int[2] size, bool normalize=True) -> Tensor");
  m.def("occlude(Tensor images, Tensor windows, Tensor baseline) -> Tensor");
  m.def(
      "gather_patches(Tensor clean, Tensor images, Tensor patches, Tensor origins, Tensor windows, int[2] size, "
      "float fill=0.0) -> Tensor");
  m.def("overlay(Tensor images, Tensor maps, Tensor colors, float alpha) -> Tensor");
}

// Importing fastcam._C runs the registrations; the module itself is empty.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
  return PyModule_Create(&definition);
}
