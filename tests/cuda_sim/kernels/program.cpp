// Runs the case that the first argument names and says whether the numbers are right.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "variants.h"

namespace {

// Memory of exactly this size, as a tensor's.
template <class T>
struct Buffer {
  explicit Buffer(int count, T value = T{}) : count(count), data(std::make_unique<T[]>(count)) {
    for (int i = 0; i < count; ++i) data[i] = value;
  }
  int count;
  std::unique_ptr<T[]> data;
};

template <class T, class Expected>
bool all_right(const char* what, const Buffer<T>& out, const Expected& expected) {
  for (int i = 0; i < out.count; ++i) {
    const T wanted = expected(i);
    if (out.data[i] == wanted) continue;
    std::printf("wrong: %s[%d] is %g, not %g\n", what, i, double(out.data[i]), double(wanted));
    return false;
  }
  std::printf("right: %s\n", what);
  return true;
}

using RowSums = void(const float*, float*, int, int);
bool row_sums(RowSums* launch, int rows = 7, int columns = 150) {
  Buffer<float> in(rows * columns), out(rows, NAN);
  for (int i = 0; i < in.count; ++i) in.data[i] = static_cast<float>(i % 13 + i / columns);
  launch(in.data.get(), out.data.get(), rows, columns);
  return all_right("row sums", out, [&](int row) {
    float sum = 0;
    for (int i = 0; i < columns; ++i) sum += in.data[row * columns + i];
    return sum;
  });
}

bool transposed(void (*launch)(const double*, double*, int, int)) {
  const int rows = 37, columns = 50;
  Buffer<double> in(rows * columns), out(rows * columns, NAN);
  for (int i = 0; i < in.count; ++i) in.data[i] = i;
  launch(in.data.get(), out.data.get(), rows, columns);
  return all_right("transposed", out, [&](int i) { return in.data[i % rows * columns + i / rows]; });
}

bool scaled(void (*launch)(const float*, float*, int, double), int count = 1000) {
  Buffer<float> in(count), out(count, NAN);
  for (int i = 0; i < count; ++i) in.data[i] = static_cast<float>(i);
  launch(in.data.get(), out.data.get(), count, 0.5);
  return all_right("scaled", out, [](int i) { return 0.5F * i; });
}

bool histogram(void (*launch)(const int*, unsigned*, int, int)) {
  const int count = 2000, bins = 10;
  Buffer<int> in(count);
  Buffer<unsigned> out(bins);
  for (int i = 0; i < count; ++i) in.data[i] = i % 7;
  launch(in.data.get(), out.data.get(), count, bins);
  return all_right("histogram", out, [&](int bin) { return bin < 7 ? (count - bin + 6) / 7 : 0; });
}

// Of __shfl_up, __shfl_down and __shfl_xor with groups of 16 lanes, and of the votes.
long long warp_value(int row, int thread) {
  const int lane = thread % 32, group = lane / 16 * 16, in_group = lane % 16;
  const unsigned all = thread < 32 ? 0xffffffff : 0x0000ffff;
  switch (row) {
    case 0:
      return 50;
    case 1:
      return 10 * (lane / 8 * 8 + (lane + 1) % 8);
    case 2:
      return 10 * (in_group >= 3 ? lane - 3 : lane);
    case 3:
      return (1LL << 40) + (in_group + 3 < 16 ? lane + 3 : lane);
    case 4:
      return 10 * (group + (in_group ^ 9));
    case 5:
      return 0x49249249 & all;
    case 6:
    case 7:
      return 1;
    case 8:
      return lane < 8 ? lane ^ 7 : 10 * (lane ^ 1);
    case 9:
      return -(lane ^ 1);
    case 10:
      return lane ^ 1;
    case 11:
      return (lane > 3 ? lane : 3) + 2 + 32;
    default:
      return thread + 1000 * 48 + 1000000;
  }
}

bool warp_values(void (*launch)(long long*)) {
  Buffer<long long> out(13 * 48);
  launch(out.data.get());
  return all_right("warp values", out, [](int i) { return warp_value(i / 48, i % 48); });
}

bool visited(dim3 grid, dim3 block) {
  const int threads = block.x * block.y * block.z;
  Buffer<int> out(grid.x * grid.y * grid.z * threads);
  FASTCAM_LAUNCH(correct::visited, grid, block, 0, nullptr, out.data.get());
  return all_right("visited", out, [&](int i) { return 1 + i / threads * 10000 + i % threads; });
}

using StagedSums = void(const float*, float*, int, int, int);
bool staged_sums(StagedSums* launch, int columns = 300, int width = 64) {
  const int rows = 3;
  Buffer<float> in(rows * columns), out(rows);
  for (int i = 0; i < in.count; ++i) in.data[i] = static_cast<float>(i % 13 + i / columns);
  launch(in.data.get(), out.data.get(), rows, columns, width);
  return all_right("staged sums", out, [&](int row) {
    float sum = 0;
    for (int i = 0; i < columns; ++i) sum += in.data[row * columns + i];
    return sum;
  });
}

bool large_staged_sums(int width, int allowed_bytes) {
  const cudaError_t error =
      cudaFuncSetAttribute(correct::staged_sums, cudaFuncAttributeMaxDynamicSharedMemorySize, allowed_bytes);
  return error == cudaSuccess && staged_sums(correct::launch_staged_sums, 20000, width);
}

// Both kernels have static shared memory: 32 KiB, and more than 48 KiB.
bool fills_large_shared(size_t dynamic_bytes, int allowed_bytes) {
  cudaFuncSetAttribute(correct::fills_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, allowed_bytes);
  FASTCAM_LAUNCH(correct::fills_shared, 3, 32, dynamic_bytes, nullptr);
  return true;
}

bool has_large_array() {
  cudaFuncSetAttribute(correct::has_large_array, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 * 1024);
  FASTCAM_LAUNCH(correct::has_large_array, 1, 1, 0, nullptr);
  return true;
}

// What the host asks of the device; prints the number of multiprocessors.
bool asks_device() {
  int device = -1, count = 0, bytes = 0;
  bool right = cudaGetDevice(&device) == cudaSuccess && device == 0;
  right &= cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess;
  right &= cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess;
  right &= bytes == 232448 && cudaGetLastError() == cudaSuccess;
  right &= cudaDeviceGetAttribute(&bytes, cudaDevAttrMultiProcessorCount, 1) == cudaErrorInvalidDevice;
  right &= cudaGetLastError() == cudaErrorInvalidDevice;
  for (const int refused : {232449, -1}) {
    right &= cudaFuncSetAttribute(correct::staged_sums, cudaFuncAttributeMaxDynamicSharedMemorySize, refused) ==
             cudaErrorInvalidValue;
    right &= cudaGetLastError() == cudaErrorInvalidValue && cudaGetLastError() == cudaSuccess;
  }
  std::printf("%d multiprocessors\n", count);
  return right;
}

bool fills_shared(size_t dynamic_bytes) {
  FASTCAM_LAUNCH(correct::fills_shared, 3, 32, dynamic_bytes, nullptr);
  return true;
}

bool keeps_shared() {
  char* kept = nullptr;
  FASTCAM_LAUNCH(correct::keeps_shared, 2, 1, 0, nullptr, &kept);
  return true;
}

bool reads_misaligned() {
  Buffer<float4> out(1);
  FASTCAM_LAUNCH(correct::reads_misaligned, 1, 1, 0, nullptr, out.data.get());
  return true;
}

bool copies_misaligned() {
  Buffer<float4> in(1);
  FASTCAM_LAUNCH(correct::copies_misaligned, 1, 1, 0, nullptr, in.data.get());
  return true;
}

bool run_with_ints(void (*kernel)(int*)) {
  Buffer<int> out(32);
  FASTCAM_LAUNCH(kernel, 1, 32, 0, nullptr, out.data.get());
  return true;
}

bool all_correct() {
  return row_sums(correct::launch_row_sums) & row_sums(correct::launch_row_sums, 1, 1) &
         transposed(correct::launch_transposed) & scaled(correct::launch_scaled) &
         staged_sums(correct::launch_staged_sums) & staged_sums(correct::launch_staged_sums, 60) &
         large_staged_sums(8192, 64 * 1024) & fills_large_shared(195 * 1024, 195 * 1024) &
         histogram(correct::launch_histogram) & warp_values(correct::launch_warp_values) &
         visited(dim3(2, 3, 4), dim3(5, 3, 2)) & visited(dim3(3), dim3(cuda_sim::kThreadSanitizer ? 96 : 1024)) &
         visited(dim3(1), dim3(1)) & fills_shared(16 * 1024);
}

// Errors as exceptions: each is a launch that ends, and the next one is as if nothing had happened.
bool all_thrown() {
  setenv("FASTCAM_SIM_THROW", "1", 1);
  RowSums* const bugs[] = {exited_lanes::launch_row_sums, waits_for_both::launch_row_sums,
                           divergent_barrier::launch_row_sums};
  bool right = true;
  for (int i = 0; i < 8; ++i) {
    try {
      if (i % 4 == 3) {
        staged_sums(copy_of_twelve::launch_staged_sums);
      } else {
        row_sums(bugs[i % 4]);
      }
      right = false;
    } catch (const std::runtime_error& error) {
      std::printf("%s\n", error.what());
    }
    right &= row_sums(correct::launch_row_sums) & fills_shared(16 * 1024) & staged_sums(correct::launch_staged_sums);
  }
  return right;
}

// Thread steps a second: the turns of threads between barriers, or whole threads where there are none.
bool speed() {
  const auto measure = [](const char* what, double steps, auto&& run) {
    const auto begin = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
    std::printf("%s: %.1f million thread steps a second\n", what, steps / passed.count() / 1e6);
  };
  measure("shuffles and barriers", 4000.0 * (128 * 8 + 32 * 5), [] { row_sums(correct::launch_row_sums, 4000, 32); });
  measure("threads without a barrier", 4e6, [] { scaled(correct::launch_scaled, 16000000); });
  return true;
}

bool run(const std::string& name) {
  if (name == "correct") return all_correct();
  if (name == "throw") return all_thrown();
  if (name == "speed") return speed();
  if (name == "exited_lanes") return row_sums(exited_lanes::launch_row_sums);
  if (name == "waits_for_both") return row_sums(waits_for_both::launch_row_sums);
  if (name == "mask_without_caller") return row_sums(mask_without_caller::launch_row_sums);
  if (name == "two_operations") return row_sums(two_operations::launch_row_sums);
  if (name == "divergent_barrier") return row_sums(divergent_barrier::launch_row_sums);
  if (name == "missing_barrier") return row_sums(missing_barrier::launch_row_sums);
  if (name == "missing_last_barrier") return row_sums(missing_last_barrier::launch_row_sums);
  if (name == "one_output") return row_sums(one_output::launch_row_sums);
  if (name == "global_bounds") return transposed(global_bounds::launch_transposed);
  if (name == "shared_bounds") return transposed(shared_bounds::launch_transposed);
  if (name == "race_after_barrier") return transposed(race_after_barrier::launch_transposed);
  if (name == "misaligned") return scaled(misaligned::launch_scaled);
  if (name == "uninitialised") return histogram(uninitialised::launch_histogram);
  if (name == "no_atomic") return histogram(no_atomic::launch_histogram);
  if (name == "blocks_race") return histogram(blocks_race::launch_histogram);
  if (name == "missing_syncwarp") return warp_values(missing_syncwarp::launch_warp_values);
  if (name == "no_wait") return staged_sums(no_wait::launch_staged_sums);
  if (name == "weak_wait") return staged_sums(weak_wait::launch_staged_sums);
  if (name == "no_barrier_after_wait") return staged_sums(no_barrier_after_wait::launch_staged_sums);
  if (name == "barrier_before_wait") return staged_sums(barrier_before_wait::launch_staged_sums);
  if (name == "no_barrier_before_fetch") return staged_sums(no_barrier_before_fetch::launch_staged_sums);
  if (name == "no_commit") return staged_sums(no_commit::launch_staged_sums);
  if (name == "copy_misaligned") return staged_sums(copy_misaligned::launch_staged_sums);
  if (name == "copy_of_twelve") return staged_sums(copy_of_twelve::launch_staged_sums);
  if (name == "copy_to_global") return staged_sums(copy_to_global::launch_staged_sums);
  if (name == "copy_past_shared") return staged_sums(copy_past_shared::launch_staged_sums);
  if (name == "copy_past_source") return staged_sums(copy_past_source::launch_staged_sums);
  if (name == "large_shared_not_allowed") return staged_sums(correct::launch_staged_sums, 20000, 8192);
  if (name == "larger_than_allowed") return large_staged_sums(8196, 64 * 1024);
  if (name == "too_much_large_shared") return fills_large_shared(195 * 1024 + 1, 195 * 1024 + 1);
  if (name == "asked_for_too_much") return fills_large_shared(64 * 1024, 195 * 1024 + 1);
  if (name == "large_static_shared") return has_large_array();
  if (name == "device") return asks_device();
  if (name == "shared_after_block") return keeps_shared();
  if (name == "shared_misaligned") return reads_misaligned();
  if (name == "copy_target_misaligned") return copies_misaligned();
  if (name == "bad_width") return run_with_ints(correct::shuffles_by_twelve);
  if (name == "nested_launch") return run_with_ints(correct::launches);
  if (name == "too_much_static_shared") return fills_shared(16 * 1024 + 1);
  if (name == "too_much_dynamic_shared") return fills_shared(48 * 1024 + 1);
  if (name == "too_many_threads") return visited(dim3(1), dim3(32, 33));
  if (name == "block_too_deep") return visited(dim3(1), dim3(1, 1, 65));
  if (name == "no_threads") return visited(dim3(1), dim3(32, 0));
  if (name == "no_blocks") return visited(dim3(0), dim3(32));
  if (name == "grid_too_high") return visited(dim3(1, 65536), dim3(1));
  std::printf("there is no case %s\n", name.c_str());
  return false;
}

}  // namespace

int main(int count, char** arguments) { return count == 2 && run(arguments[1]) ? 0 : 1; }
