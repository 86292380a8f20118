// The transpose of a matrix in tiles of 16 x 16: a block with two axes, a shared array with two, edges cut off.
#include "../cuda_sim.h"

template <class T, int kTile>
__global__ void transposed(const T* __restrict__ in, T* __restrict__ out, int rows, int columns) {
  FASTCAM_SHARED(T, tile, [kTile][kTile + 1]);
  const int x = blockIdx.x * kTile + threadIdx.x, y = blockIdx.y * kTile + threadIdx.y;
#if defined(BUG_GLOBAL_BOUNDS)
  if (x < columns) tile[threadIdx.y][threadIdx.x] = in[y * columns + x];
#elif defined(BUG_SHARED_BOUNDS)
  T* next_row = tile[0] + (threadIdx.y + 1) * (kTile + 1);
  next_row[threadIdx.x] = x < columns && y < rows ? in[y * columns + x] : T{};
#else
  if (x < columns && y < rows) tile[threadIdx.y][threadIdx.x] = in[y * columns + x];
#endif
  __syncthreads();
#if defined(BUG_RACE_AFTER_BARRIER)
  tile[threadIdx.y][threadIdx.x] += T{0};  // the same value, but another thread may read it now
#endif
  const int to_x = blockIdx.y * kTile + threadIdx.x, to_y = blockIdx.x * kTile + threadIdx.y;
  if (to_x < rows && to_y < columns) out[to_y * rows + to_x] = tile[threadIdx.x][threadIdx.y];
}

inline void launch_transposed(const double* in, double* out, int rows, int columns) {
  const dim3 grid((columns + 15) / 16, (rows + 15) / 16);
  FASTCAM_LAUNCH((transposed<double, 16>), grid, dim3(16, 16), 0, nullptr, in, out, rows, columns);
}
