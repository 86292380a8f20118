// A block solves a plane at a time, from the first to the last step: nothing waits for the host. Its grids are in
// memory of its own, which the second cache holds.
#include "../common/imputation.h"
#include "channel_reduction.h"

namespace fastcam::cuda {
namespace {

// The threads of a block: each takes every kThreads-th cell.
struct Block {
  template <class F>
  FASTCAM_DEVICE void each(int lines, int columns, F f) const {
    const int cells = lines * columns;
    for (int i = threadIdx.x; i < cells; i += kThreads) f(i / columns, i % columns);
    __syncthreads();
  }

  template <class Acc, class F>
  FASTCAM_DEVICE Acc sum(int lines, int columns, F f) const {
    const int cells = lines * columns;
    Acc part = 0;
    for (int i = threadIdx.x; i < cells; i += kThreads) part += f(i / columns, i % columns);
    return block_sum(part);  // with a barrier before and after
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, 2) impute_planes(const Imputing m) {
  using Acc = accumulator_t<T>;
  const int lines = static_cast<int>(m.lines), columns = static_cast<int>(m.columns);
  Acc* memory = static_cast<Acc*>(m.workspace) + blockIdx.x * m.workspace_elements;
  const Grid<Acc> grid{lines, columns, memory};
  const int64_t planes = m.image_count * m.channels, positions = m.lines * m.columns;
  for (int64_t i = blockIdx.x; i < planes; i += gridDim.x) {
    const int64_t n = i / m.channels, c = i % m.channels;
    const bool* missing = m.missing + n * positions;
    set_equations(Block(), grid, missing);
    const Plane<T> plane{static_cast<const T*>(m.images) + n * m.strides[0] + c * m.strides[1],
                         missing,
                         static_cast<T*>(m.out) + n * m.out_strides[0] + c * m.out_strides[1],
                         m.strides[2],
                         m.strides[3],
                         m.out_strides[2],
                         m.out_strides[3]};
    impute_plane(
        Block(), grid, plane, static_cast<Acc>(m.tolerance), [](T value) { return Acc(widen(value)); },
        [](Acc value, T& out) { narrow(value, out); });
  }
}

}  // namespace

void impute_neighbours(const Imputing& imputing, Stream opaque) {
  auto stream = static_cast<cudaStream_t>(opaque);
  dispatch(imputing.dtype, [&](auto zero) {
    FASTCAM_LAUNCH((impute_planes<decltype(zero)>), static_cast<unsigned>(imputing.blocks), kThreads, 0, stream,
                   imputing);
  });
}

}  // namespace fastcam::cuda
