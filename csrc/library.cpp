// Defines the ops. Kernels register themselves: those for the CPU beside their definitions in cpu/<op>.cpp,
// those for CUDA in library_cuda.cpp.
#include <torch/csrc/stable/library.h>

#include "python_module.h"
#include "schemas.h"

STABLE_TORCH_LIBRARY(fastcam, m) { fastcam::define_ops(m); }

FASTCAM_PYTHON_MODULE(_C);
