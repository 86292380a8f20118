// Defines the ops. Kernels register themselves: those for the CPU beside their definitions in cpu/<op>.cpp,
// those for CUDA in library_cuda.cpp.
#include <Python.h>

#include <torch/csrc/stable/library.h>

#include "schemas.h"

STABLE_TORCH_LIBRARY(fastcam, m) { fastcam::define_ops(m); }

// Importing fastcam._C runs the registrations; the module itself is empty.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
  return PyModule_Create(&definition);
}
