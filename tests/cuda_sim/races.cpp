// Every kernel once on small tensors, for ThreadSanitizer: whether two threads, or two blocks, touch the same
// memory with nothing between them to order it. What the kernels compute is checked by the op tests.
//   races [float32 | float64 | float16 | bfloat16]   of one dtype, or of all
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "../../csrc/common/imputation.h"
#include "../../csrc/cuda/kernels.h"

using namespace fastcam;
using namespace fastcam::cuda;

namespace {

// Memory for `count` elements of any dtype: the bits of small numbers.
std::vector<uint64_t> memory(int64_t count) {
  std::vector<uint64_t> words(count + 2);
  for (size_t i = 0; i < words.size(); ++i) words[i] = 0x3c003c003c003c00u + i % 7;
  return words;
}

Strides strides(const Sizes& s, bool rows, bool has_targets) {
  const int64_t image = s.channels * s.positions, targets = has_targets ? s.targets : 1;
  const int64_t channel = rows ? 1 : s.positions, position = rows ? s.channels : 1;
  return {image * targets, has_targets ? image : 0, channel, position};
}

void reduce(Dtype dtype, const Sizes& sizes, bool rows) {
  const int64_t count = sizes.images * sizes.channels * sizes.positions;
  auto a = memory(count), w = memory(count * sizes.targets), maps = memory(sizes.rows() * sizes.positions);
  std::vector<uint64_t> workspace;
  Reduction reduction{dtype,
                      a.data(),
                      w.data(),
                      maps.data(),
                      nullptr,
                      sizes,
                      strides(sizes, rows, false),
                      strides(sizes, rows, true),
                      rows,
                      true,
                      PlaneNeed::nothing,
                      device_limits()};
  const auto need = [&](PlaneNeed what) -> const Reduction& {
    reduction.need = what;
    reduction.plan();
    workspace = memory(reduction.workspace_size());
    reduction.workspace = workspace.data();
    return reduction;
  };
  grad_cam(need(PlaneNeed::gradients), nullptr);
  grad_cam_pp(need(PlaneNeed::activations_too), nullptr);
  xgrad_cam(need(PlaneNeed::activations_too), 1e-7, nullptr);
  layer_cam(need(PlaneNeed::nothing), nullptr);
  weighted_channel_sum(need(PlaneNeed::nothing), true, nullptr);
  reduction.ws = {sizes.targets * sizes.channels, sizes.channels, 1, 0};
  weighted_channel_sum(need(PlaneNeed::nothing), false, nullptr);

  auto means = memory(sizes.images * sizes.channels);
  reduction.sizes.targets = 1;
  reduction.weights = a.data();
  reduction.ws = reduction.as;
  reduction.maps = means.data();
  reduction.relu = false;
  channel_mean(need(PlaneNeed::gradients), nullptr);
  auto moments = memory(5 * sizes.images * sizes.channels);
  reduction.maps = moments.data();
  plane_moments(need(PlaneNeed::nothing), nullptr);
}

// Small maps, whose extremes every block finds itself, and larger ones, whose extremes are memory of their own.
void resample(Dtype dtype, bool normalize) {
  auto maps = memory(3 * 7 * 5), out = memory(3 * 40 * 33), extremes = memory(6);
  upsample_normalize({dtype, maps.data(), out.data(), nullptr, 3, 7, 5, 40, 33, normalize}, nullptr);
  auto large = memory(3 * 40 * 33), larger = memory(3 * 50 * 47);
  void* room = normalize ? extremes.data() : nullptr;
  upsample_normalize({dtype, large.data(), larger.data(), room, 3, 40, 33, 50, 47, normalize}, nullptr);
  if (element_bytes(dtype) >= 4) rectify_in_place(dtype, maps.data(), 105, nullptr);
}

void mask(Dtype dtype, int64_t planes, int64_t values, bool normalize) {
  auto images = memory(2 * 3 * 40 * 33), maps = memory(2 * 2 * 7 * 5), copies = memory(2 * 2 * 3 * 40 * 33);
  mask_images(
      {dtype, images.data(), maps.data(), copies.data(), nullptr, 2, 2, planes, values, 7, 5, 40, 33, normalize},
      nullptr);
  auto extremes = memory(8), large = memory(2 * 2 * 39 * 31);
  void* room = normalize ? extremes.data() : nullptr;
  mask_images(
      {dtype, images.data(), large.data(), copies.data(), room, 2, 2, planes, values, 39, 31, 40, 33, normalize},
      nullptr);
}

void impute(Dtype dtype) {
  auto images = memory(3 * 2 * 13 * 9), out = memory(3 * 2 * 13 * 9);
  const int64_t elements = dtype == Dtype::float64 ? imputation_size<double>(13, 9) : imputation_size<float>(13, 9);
  std::vector<uint64_t> workspace(2 * elements);
  std::unique_ptr<bool[]> missing(new bool[3 * 13 * 9]);
  for (int i = 0; i < 3 * 13 * 9; ++i) missing[i] = i % 11 > 3;
  impute_neighbours({dtype,
                     images.data(),
                     missing.get(),
                     out.data(),
                     workspace.data(),
                     3,
                     2,
                     13,
                     9,
                     {2 * 13 * 9, 13 * 9, 9, 1},
                     {2 * 13 * 9, 13 * 9, 9, 1},
                     2,
                     elements,
                     1e-3},
                    nullptr);
}

void resize() {
  const Photograph photographs[] = {{0, 40, 33, 20, 16, 2, 1}, {3 * 40 * 33, 9, 11, 18, 22, 1, 3}};
  auto pixels = memory(3 * (40 * 33 + 9 * 11) / 8 + 1), out = memory(2 * 15 * 14 * 3 / 8 + 1);
  Resizing resizing{reinterpret_cast<uint8_t*>(pixels.data()), photographs, 2, 15, 14, true, nullptr,
                    reinterpret_cast<uint8_t*>(out.data())};
  auto workspace = memory(resizing.workspace_size());
  resizing.workspace = workspace.data();
  resize_crop(resizing, nullptr);
}

void move_elements(int64_t element_size, int64_t planes, int64_t inside) {
  auto images = memory(2 * 3 * 9 * 11), baseline = memory(3 * 9 * 11), copies = memory(2 * 4 * 3 * 9 * 11);
  const std::vector<int64_t> windows{0, 0, 3, 3, 2, 5, 4, 4, -1, 8, 5, 9, 3, 3, 0, 2};
  occlude({images.data(), baseline.data(), copies.data(), windows.data(), 2, 4, planes, 1, 9, 11, inside, 2,
           element_size, false},
          nullptr);
  auto patches = memory(2 * 3 * 4 * 4), out = memory(2 * 3 * 6 * 7), fill = memory(1);
  const std::vector<int64_t> which{1, 0}, origins{2, 3, -1, 8}, starts{0, -2, 5, 6};
  gather_patches({images.data(), patches.data(), fill.data(), which.data(), origins.data(), starts.data(), out.data(),
                  2, 2, planes, inside, 9, 11, 4, 4, 6, 7, element_size},
                 nullptr);
}

}  // namespace

int main(int count, char** arguments) {
  const std::pair<const char*, Dtype> dtypes[] = {{"float32", Dtype::float32},
                                                  {"float64", Dtype::float64},
                                                  {"float16", Dtype::float16},
                                                  {"bfloat16", Dtype::bfloat16}};
  for (const auto& [name, dtype] : dtypes) {
    if (count > 1 && std::strcmp(arguments[1], name) != 0) continue;
    for (const bool rows : {false, true}) {
      reduce(dtype, {2, 1, 5, 9}, rows);       // a part of a tile
      reduce(dtype, {1, 2, 300, 49}, rows);    // a thread a channel: several sums and tiles, several targets
      reduce(dtype, {6, 1, 300, 16}, rows);    // all of them in one block, planes apart
      reduce(dtype, {2, 1, 140, 99}, rows);    // a warp a channel, or a lane
      reduce(dtype, {6, 1, 140, 300}, rows);   // all of them in one block, more positions a lane
      reduce(dtype, {1, 1, 35, 1100}, rows);   // a block a channel, or large planes
      reduce(dtype, {1, 1, 3, 4200}, rows);    // more positions a thread
      reduce(dtype, {1, 1, 70, 17000}, rows);  // large planes whatever the rule
    }
    resample(dtype, false);
    resample(dtype, true);
    mask(dtype, 3, 1, true);
    mask(dtype, 1, 3, false);
    impute(dtype);
    auto pixels = memory(200), maps = memory(500), colors = memory(96), out = memory(200);
    overlay(dtype, reinterpret_cast<uint8_t*>(pixels.data()), maps.data(), reinterpret_cast<uint8_t*>(colors.data()),
            0.5F, 500, reinterpret_cast<uint8_t*>(out.data()), nullptr);
  }
  resize();
  for (const int64_t size : {2, 4, 8}) {
    move_elements(size, 3, 1);
    move_elements(size, 1, 3);
  }
  std::printf("every kernel ran with %s\n", count > 1 ? arguments[1] : "every dtype");
}
