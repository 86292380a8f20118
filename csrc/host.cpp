// Build information and rendering for Python: NumPy arrays in and out, the GIL released in between.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/arithmetic.h"
#include "common/instruction_set.h"

namespace py = pybind11;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

std::string shape_text(const py::array& array) { return py::str(array.attr("shape")).cast<std::string>(); }

std::vector<py::ssize_t> shape_of(const py::array& array) { return {array.shape(), array.shape() + array.ndim()}; }

py::array_t<uint8_t> to_uint8(const Array<float>& map) {
  py::array_t<uint8_t> out(shape_of(map));
  const float* values = map.data();
  uint8_t* bytes = out.mutable_data();
  const py::ssize_t count = map.size();
  py::gil_scoped_release release;
  for (py::ssize_t i = 0; i < count; ++i) bytes[i] = fastcam::to_byte(values[i]);
  return out;
}

py::array_t<uint8_t> overlay(const Array<uint8_t>& image, const Array<float>& map, const Array<uint8_t>& colors,
                             float alpha) {
  bool fits = image.ndim() == map.ndim() + 1 && image.shape(map.ndim()) == 3;
  for (py::ssize_t i = 0; fits && i < map.ndim(); ++i) fits = image.shape(i) == map.shape(i);
  if (!fits) {
    throw std::invalid_argument("`image` must have shape (..., H, W, 3) for a map (..., H, W), got " +
                                shape_text(image) + " and " + shape_text(map));
  }
  if (colors.ndim() != 2 || colors.shape(0) != 256 || colors.shape(1) != 3) {
    throw std::invalid_argument("`colors` must have shape (256, 3), got " + shape_text(colors));
  }
  if (!(alpha >= 0.0F && alpha <= 1.0F)) {
    throw std::invalid_argument("`alpha` must lie in [0, 1], got " + std::to_string(alpha));
  }
  py::array_t<uint8_t> out(shape_of(image));
  const uint8_t* pixels = image.data();
  const float* values = map.data();
  const uint8_t* table = colors.data();
  uint8_t* bytes = out.mutable_data();
  const py::ssize_t count = map.size();
  py::gil_scoped_release release;
  for (py::ssize_t i = 0; i < count; ++i) {
    fastcam::overlay_pixel(pixels + 3 * i, values[i], table, alpha, bytes + 3 * i);
  }
  return out;
}

py::dict build_info() {
  py::dict info;
#if defined(__VERSION__)
  info["compiler"] = __VERSION__;
#endif
  info["torch_at_build"] = FASTCAM_TORCH_VERSION;
  info["cuda_at_build"] = FASTCAM_WITH_CUDA;
  info["cpu_capability"] = fastcam::name(fastcam::chosen_instruction_set());
  return info;
}

}  // namespace

PYBIND11_MODULE(_host, m) {
  m.doc() = "Build information and rendering on NumPy arrays.";
  m.def("build_info", &build_info, "How the compiled part was built and which instruction set it uses.");
  m.def("to_uint8", &to_uint8, py::arg("map"), "Maps in [0, 1] as bytes, rounded; the shape stays.");
  m.def("overlay", &overlay, py::arg("image"), py::arg("map"), py::arg("colors"), py::arg("alpha"),
        "Colours of `map` (..., H, W) blended over `image` (..., H, W, 3).");
}
