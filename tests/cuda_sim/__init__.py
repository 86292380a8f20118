"""The CUDA kernels run on the CPU; see README.md beside this file."""
