"""What can be said of the CUDA kernels without running them, and the tests that need a GPU."""
