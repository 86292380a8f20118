// The CUDA kernels as ops: checks, allocations and launches, the only place where tensors and kernels meet.
// Everything runs on the current stream of the tensors' device; nothing waits for it.
//
// With FASTCAM_SIMULATOR the same file and the same .cu sources become ops on CPU tensors, fastcam_sim::*,
// whose kernels run under the simulator of tests/cuda_sim.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "common/imputation.h"
#include "common/imputed_images.h"
#include "common/masking.h"
#include "common/occlusion.h"
#include "common/operands.h"
#include "common/patch_operands.h"
#include "cuda/kernels.h"

#if defined(FASTCAM_SIMULATOR)
#include "schemas.h"
#else
#include <cuda_runtime_api.h>

#include "python_module.h"
#endif

namespace fastcam {
namespace {

// The device and stream of a launch; afterwards, that the launch was accepted.
#if defined(FASTCAM_SIMULATOR)
struct Launch {
  cuda::Stream stream = nullptr;
  explicit Launch(const Tensor&) {}
  void check() const {}
};
#else
struct Launch {
  torch::stable::accelerator::DeviceGuard guard;
  cuda::Stream stream = nullptr;
  explicit Launch(const Tensor& tensor) : guard(tensor.get_device_index()) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  }
  void check() const { STD_CUDA_KERNEL_LAUNCH_CHECK(); }
};
#endif

using cuda::PlaneNeed;

constexpr int64_t kImputationBytes = 1 << 30;  // of workspace, unless a single plane takes more

cuda::Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return cuda::Dtype::float64;
    case ScalarType::Half:
      return cuda::Dtype::float16;
    case ScalarType::BFloat16:
      return cuda::Dtype::bfloat16;
    default:
      return cuda::Dtype::float32;
  }
}

// Positions inside one plane are counted in 32 bits.
void check_plane(int64_t elements) {
  STD_TORCH_CHECK(elements < INT32_MAX, "one plane must have fewer than 2^31 elements on CUDA, got ", elements);
}

cuda::Reduction reduction_of(const Operands& found, bool relu, cuda::PlaneNeed need) {
  cuda::Reduction reduction{dtype_of(found.activations),
                            found.activations.const_data_ptr(),
                            found.weights.const_data_ptr(),
                            found.maps.mutable_data_ptr(),
                            nullptr,
                            found.sizes,
                            found.as,
                            found.ws,
                            found.rows,
                            relu,
                            need,
                            cuda::device_limits()};
  reduction.plan();
  return reduction;
}

// Launches `run(reduction, stream)` on the operands, with the workspace it needs.
template <class Run>
Tensor reduce(const Operands& found, bool relu, cuda::PlaneNeed need, const Run& run) {
  if (found.empty) return found.maps;
  const Launch launch(found.maps);
  cuda::Reduction reduction = reduction_of(found, relu, need);
  const int64_t size = reduction.workspace_size();
  std::optional<Tensor> workspace;
  if (size > 0) {
    workspace = torch::stable::new_empty(found.maps, {size});
    reduction.workspace = workspace->mutable_data_ptr();
  }
  run(reduction, launch.stream);
  launch.check();
  return found.maps;
}

Tensor sum_targets(const Tensor& activations, const Tensor& weights, bool relu) {
  const Tensor maps = target_products(activations, weights);
  if (!relu || maps.numel() == 0) return maps;
  const Launch launch(maps);
  cuda::rectify_in_place(dtype_of(maps), maps.mutable_data_ptr(), maps.numel(), launch.stream);
  launch.check();
  return maps;
}

// Memory for the extremes of maps, where any is needed.
std::optional<Tensor> new_extremes(const Tensor& maps, bool normalize, int64_t count, int64_t height, int64_t width) {
  const int64_t size = cuda::extremes_size(normalize, count, height, width);
  if (size == 0) return std::nullopt;
  return torch::stable::new_empty(maps, {size}, accumulation_dtype(maps));
}

// Photographs that lie one after the other, six numbers of each: its size, that after resizing, and the crop's corner.
std::vector<cuda::Photograph> photographs_of(const Tensor& pixels, const std::vector<int64_t>& places,
                                             const std::vector<int64_t>& size) {
  STD_TORCH_CHECK(pixels.scalar_type() == ScalarType::Byte && pixels.dim() == 1, "pixels must be (bytes,) uint8");
  STD_TORCH_CHECK(places.size() % 6 == 0, "places must have 6 numbers of each photograph, got ", places.size());
  STD_TORCH_CHECK(size.size() == 2 && size[0] > 0 && size[1] > 0, "size must be two positive numbers");
  std::vector<cuda::Photograph> photographs;
  int64_t first = 0;
  for (size_t i = 0; i < places.size(); i += 6) {
    const int64_t *place = &places[i], height = place[0], width = place[1];
    const bool is_image = height > 0 && width > 0 && height < INT32_MAX / 3 / width;
    const bool has_crop = place[4] >= 0 && place[5] >= 0 && place[2] < INT32_MAX && place[3] < INT32_MAX &&
                          place[4] <= place[2] - size[0] && place[5] <= place[3] - size[1];
    STD_TORCH_CHECK(is_image && has_crop, "photograph ", i / 6,
                    " must have pixels, below 2^31 bytes, and a crop inside it when resized");
    photographs.push_back({first, static_cast<int>(height), static_cast<int>(width), static_cast<int>(place[2]),
                           static_cast<int>(place[3]), static_cast<int>(place[4]), static_cast<int>(place[5])});
    first += 3 * height * width;
  }
  STD_TORCH_CHECK(first == pixels.numel(), "the photographs have ", first, " bytes, pixels has ", pixels.numel());
  return photographs;
}

void* data_of(const std::optional<Tensor>& memory) { return memory ? memory->mutable_data_ptr() : nullptr; }

}  // namespace

Tensor weighted_channel_sum(Tensor activations, Tensor weights, bool relu) {
  check_activations(activations);
  const bool per_element = are_element_weights(activations, weights);
  const auto run = [&](const cuda::Reduction& reduction, cuda::Stream stream) {
    cuda::weighted_channel_sum(reduction, per_element, stream);
  };
  if (per_element) return reduce(element_operands(activations, weights, "weights"), relu, PlaneNeed::nothing, run);
  check_channel_weights(activations, weights);
  if (weights.dim() == 3 && weights.size(1) > kFewTargets) return sum_targets(activations, weights, relu);
  return reduce(channel_operands(activations, weights), relu, PlaneNeed::nothing, run);
}

Tensor channel_mean(Tensor activations) {
  const Operands found = mean_operands(activations);
  if (found.empty) return found.maps;
  const Launch launch(found.maps);
  cuda::channel_mean(reduction_of(found, false, PlaneNeed::gradients), launch.stream);
  launch.check();
  return found.maps;
}

Tensor plane_moments(Tensor activations) {
  const Operands found = moment_operands(activations);
  if (found.empty) return found.maps;
  const Launch launch(found.maps);
  cuda::plane_moments(reduction_of(found, false, PlaneNeed::nothing), launch.stream);
  launch.check();
  return found.maps;
}

Tensor grad_cam(Tensor activations, Tensor gradients, bool relu) {
  return reduce(element_operands(activations, gradients, "gradients"), relu, PlaneNeed::gradients, cuda::grad_cam);
}

Tensor grad_cam_pp(Tensor activations, Tensor gradients, bool relu) {
  return reduce(element_operands(activations, gradients, "gradients"), relu, PlaneNeed::activations_too,
                cuda::grad_cam_pp);
}

Tensor xgrad_cam(Tensor activations, Tensor gradients, double eps, bool relu) {
  return reduce(
      element_operands(activations, gradients, "gradients"), relu, PlaneNeed::activations_too,
      [eps](const cuda::Reduction& reduction, cuda::Stream stream) { cuda::xgrad_cam(reduction, eps, stream); });
}

Tensor layer_cam(Tensor activations, Tensor gradients, bool relu) {
  return reduce(element_operands(activations, gradients, "gradients"), relu, PlaneNeed::nothing, cuda::layer_cam);
}

void upsample_normalize_into(Tensor maps, bool normalize, Tensor out) {
  check_resampled(maps, out);
  if (out.numel() == 0) return;
  maps = torch::stable::contiguous(maps);
  const int64_t axes = maps.dim(), lines = out.size(axes - 2), columns = out.size(axes - 1);
  check_plane(lines * columns);
  check_plane(4 * maps.size(axes - 2) * maps.size(axes - 1));
  const int64_t count = out.numel() / (lines * columns);
  const int64_t height = maps.size(axes - 2), width = maps.size(axes - 1);
  const std::optional<Tensor> extremes = new_extremes(maps, normalize, count, height, width);
  const Launch launch(out);
  cuda::upsample_normalize({dtype_of(maps), maps.const_data_ptr(), out.mutable_data_ptr(), data_of(extremes), count,
                            height, width, lines, columns, normalize},
                           launch.stream);
  launch.check();
}

Tensor upsample_normalize(Tensor maps, std::vector<int64_t> size, bool normalize) {
  const Tensor out = new_resampled(maps, size);
  upsample_normalize_into(maps, normalize, out);
  return out;
}

Tensor occlude(Tensor images, Tensor windows, Tensor baseline) {
  const OcclusionOperands found = occlusion_operands(images, windows, baseline);
  if (found.copies.numel() == 0) return found.copies;
  check_plane(found.limits[0] * found.limits[1] * found.limits[2] * found.channels_inside());
  const Launch launch(found.copies);
  cuda::occlude({found.images.const_data_ptr(), found.baseline.const_data_ptr(), found.copies.mutable_data_ptr(),
                 found.windows.const_data_ptr<int64_t>(), found.images.size(0), found.windows.size(0), found.planes(),
                 found.limits[0], found.limits[1], found.limits[2], found.channels_inside(), found.axes(),
                 static_cast<int64_t>(found.images.element_size()), found.baseline.size(0) > 1},
                launch.stream);
  launch.check();
  return found.copies;
}

Tensor mask_images(Tensor images, Tensor maps, bool normalize) {
  const MaskOperands found = mask_operands(images, maps);
  if (found.copies.numel() == 0) return found.copies;
  const int64_t height = maps.size(2), width = maps.size(3), count = images.size(0) * found.count();
  check_plane(found.lines() * found.columns() * found.values);
  check_plane(4 * height * width);
  const std::optional<Tensor> extremes = new_extremes(found.maps, normalize, count, height, width);
  const Launch launch(found.copies);
  cuda::mask_images({dtype_of(images), found.images.const_data_ptr(), found.maps.const_data_ptr(),
                     found.copies.mutable_data_ptr(), data_of(extremes), images.size(0), found.count(), found.planes,
                     found.values, height, width, found.lines(), found.columns(), normalize},
                    launch.stream);
  launch.check();
  return found.copies;
}

Tensor gather_patches(Tensor clean, Tensor images, Tensor patches, Tensor origins, Tensor windows,
                      std::vector<int64_t> size, double fill) {
  const PatchOperands found = patch_operands(clean, images, patches, origins, windows, size);
  if (found.out.numel() == 0) return found.out;
  check_plane(size[0] * size[1] * found.values);
  const Tensor filling = torch::stable::new_empty(clean, {1});
  torch::stable::fill_(filling, fill);
  const Launch launch(found.out);
  cuda::gather_patches({found.clean.const_data_ptr(), found.patches.const_data_ptr(), filling.const_data_ptr(),
                        found.images.const_data_ptr<int64_t>(), found.origins.const_data_ptr<int64_t>(),
                        found.windows.const_data_ptr<int64_t>(), found.memory.mutable_data_ptr(), clean.size(0),
                        patches.size(0), found.planes, found.values, clean.size(2), clean.size(3), patches.size(2),
                        patches.size(3), size[0], size[1], static_cast<int64_t>(clean.element_size())},
                       launch.stream);
  launch.check();
  return found.out;
}

Tensor impute_neighbours(Tensor images, Tensor missing, double tolerance) {
  const ImputationOperands found = imputation_operands(images, missing, tolerance);
  const Tensor& out = found.out;
  if (out.numel() == 0) return out;
  const Launch launch(out);  // before the limits of its device are asked for
  const bool wide = images.scalar_type() == ScalarType::Double;
  const int64_t elements = wide ? imputation_size<double>(found.lines(), found.columns())
                                : imputation_size<float>(found.lines(), found.columns());
  const int64_t fitting = kImputationBytes / (elements * (wide ? 8 : 4));
  const int64_t most = std::min<int64_t>(found.planes(), 2 * cuda::device_limits().multiprocessors);
  const int64_t blocks = std::max<int64_t>(1, std::min(most, fitting));
  const Tensor workspace = torch::stable::new_empty(images, {blocks * elements}, accumulation_dtype(images));
  torch::stable::fill_(workspace, 0.0);
  cuda::impute_neighbours({dtype_of(images),
                           images.const_data_ptr(),
                           found.missing.const_data_ptr<bool>(),
                           out.mutable_data_ptr(),
                           workspace.mutable_data_ptr(),
                           images.size(0),
                           images.size(1),
                           found.lines(),
                           found.columns(),
                           {images.stride(0), images.stride(1), images.stride(2), images.stride(3)},
                           {out.stride(0), out.stride(1), out.stride(2), out.stride(3)},
                           blocks,
                           elements,
                           tolerance},
                          launch.stream);
  launch.check();
  return out;
}

Tensor resize_crop(Tensor pixels, std::vector<int64_t> places, std::vector<int64_t> size, bool cubic) {
  const std::vector<cuda::Photograph> photographs = photographs_of(pixels, places, size);
  const auto count = static_cast<int64_t>(photographs.size());
  const Tensor out = torch::stable::new_empty(pixels, {count, size[0], size[1], 3});
  if (out.numel() == 0) return out;
  pixels = torch::stable::contiguous(pixels);
  check_plane(3 * size[0] * size[1]);
  const Launch launch(out);
  cuda::Resizing resizing{pixels.const_data_ptr<uint8_t>(), photographs.data(), count, size[0], size[1], cubic, nullptr,
                          out.mutable_data_ptr<uint8_t>()};
  for (const cuda::Photograph& each : photographs)
    check_plane(3 * resizing.room(&each - &photographs[0], 1).lines * size[1]);
  const Tensor workspace = torch::stable::new_empty(pixels, {resizing.workspace_size()}, ScalarType::Int);
  resizing.workspace = workspace.mutable_data_ptr();
  cuda::resize_crop(resizing, launch.stream);
  launch.check();
  return out;
}

Tensor overlay(Tensor images, Tensor maps, Tensor colors, double alpha) {
  check_overlay(images, maps, colors, alpha);
  images = torch::stable::contiguous(images);
  maps = torch::stable::contiguous(maps);
  colors = torch::stable::contiguous(colors);
  const Tensor out = torch::stable::empty_like(images);
  if (out.numel() == 0) return out;
  const Launch launch(out);
  cuda::overlay(dtype_of(maps), images.const_data_ptr<uint8_t>(), maps.const_data_ptr(),
                colors.const_data_ptr<uint8_t>(), static_cast<float>(alpha), maps.numel(),
                out.mutable_data_ptr<uint8_t>(), launch.stream);
  launch.check();
  return out;
}

template <class Library>
void implement_ops(Library& m) {
  m.impl("weighted_channel_sum", TORCH_BOX(&weighted_channel_sum));
  m.impl("plane_moments", TORCH_BOX(&fastcam::plane_moments));
  m.impl("channel_mean", TORCH_BOX(&channel_mean));
  m.impl("grad_cam", TORCH_BOX(&grad_cam));
  m.impl("grad_cam_pp", TORCH_BOX(&grad_cam_pp));
  m.impl("xgrad_cam", TORCH_BOX(&xgrad_cam));
  m.impl("layer_cam", TORCH_BOX(&layer_cam));
  m.impl("upsample_normalize", TORCH_BOX(&upsample_normalize));
  m.impl("upsample_normalize_into", TORCH_BOX(&upsample_normalize_into));
  m.impl("occlude", TORCH_BOX(&occlude));
  m.impl("mask_images", TORCH_BOX(&mask_images));
  m.impl("gather_patches", TORCH_BOX(&gather_patches));
  m.impl("impute_neighbours", TORCH_BOX(&impute_neighbours));
  m.impl("resize_crop", TORCH_BOX(&resize_crop));
  m.impl("overlay", TORCH_BOX(&overlay));
}

}  // namespace fastcam

#if defined(FASTCAM_SIMULATOR)
STABLE_TORCH_LIBRARY(fastcam_sim, m) { fastcam::define_ops(m); }
STABLE_TORCH_LIBRARY_IMPL(fastcam_sim, CPU, m) { fastcam::implement_ops(m); }
#else
STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m) { fastcam::implement_ops(m); }

FASTCAM_PYTHON_MODULE(_C_cuda);
#endif
