// Explains a picture with an exported explainer, without Python:
//
//   explain PROGRAM OPS IMAGE.ppm OVERLAY.ppm [SIDE [CLASS]]
//
// PROGRAM is a file that fastcam.export wrote with format="torchscript" (.pt) or format="aoti" (.pt2), OPS the library
// that fastcam.library_path() names. The picture, a binary PPM file of 8 bits, is resized to SIDE x SIDE pixels (224)
// and normalised as ImageNet's models expect. CLASS is the class to explain; without it the highest is.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

using at::Tensor;
using std::string;

constexpr int64_t highest_class = -1;

void load_ops(const string& path) {
  if (dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) throw std::runtime_error(dlerror());
}

// The next whole number of a PPM header; text from '#' to the end of a line is no part of it.
int64_t next_number(std::istream& file) {
  while ((file >> std::ws).peek() == '#') file.ignore(1 << 16, '\n');
  int64_t number = 0;
  if (!(file >> number) || number < 1 || number > 1 << 16) throw std::runtime_error("the PPM header has no valid size");
  return number;
}

// (H, W, 3) uint8.
Tensor read_picture(const string& path) {
  std::ifstream file(path, std::ios::binary);
  string kind(2, ' ');
  if (!file.read(kind.data(), 2) || kind != "P6") throw std::runtime_error(path + " is no binary PPM file (P6)");
  const int64_t width = next_number(file), height = next_number(file);
  if (next_number(file) != 255) throw std::runtime_error(path + " does not have 8 bits per colour");
  file.get();
  Tensor picture = at::empty({height, width, 3}, at::kByte);
  if (!file.read(reinterpret_cast<char*>(picture.data_ptr<uint8_t>()), picture.numel())) {
    throw std::runtime_error(path + " ends too early");
  }
  return picture;
}

void write_picture(const string& path, const Tensor& picture) {
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << picture.size(1) << " " << picture.size(0) << "\n255\n";
  file.write(reinterpret_cast<const char*>(picture.contiguous().data_ptr<uint8_t>()), picture.numel());
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

// (1, 3, side, side) in [0, 1].
Tensor resized(const Tensor& picture, int64_t side) {
  const Tensor pixels = picture.permute({2, 0, 1}).unsqueeze(0).to(at::kFloat) / 255;
  return at::_upsample_bilinear2d_aa(pixels, {side, side}, /*align_corners=*/false).clamp(0, 1);
}

Tensor normalised(const Tensor& pixels) {
  const Tensor mean = at::tensor({0.485, 0.456, 0.406}, at::kFloat).reshape({1, 3, 1, 1});
  const Tensor deviation = at::tensor({0.229, 0.224, 0.225}, at::kFloat).reshape({1, 3, 1, 1});
  return (pixels - mean) / deviation;
}

bool ends_with(const string& text, const string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// Machine code compares no sizes, and reads beyond an image that is too small: the package says what it takes.
void check_size(const std::unordered_map<string, string>& metadata, const Tensor& images) {
  const auto stated = metadata.find("images");
  if (stated == metadata.end()) throw std::runtime_error("the package was not written by fastcam.export");
  std::istringstream sides(stated->second);
  string side;
  for (int64_t axis = 0; std::getline(sides, side, ','); ++axis) {
    if (side != "-1" && std::stoll(side) != images.size(axis)) {
      throw std::runtime_error("the package takes images of " + stated->second + " (-1: any size)");
    }
  }
}

std::vector<Tensor> run_package(const string& program, const Tensor& images, const Tensor& classes) {
  torch::inductor::AOTIModelPackageLoader package(program);
  check_size(package.get_metadata(), images);
  return package.run({images, classes});
}

// Scores (1,), maps (1, side, side) and classes (1,).
std::vector<Tensor> run(const string& program, const Tensor& images, int64_t wanted) {
  const Tensor classes = at::full({1}, wanted, at::kLong);
  if (ends_with(program, ".pt2")) return run_package(program, images, classes);
  const auto results = torch::jit::load(program).forward({images, classes}).toTupleRef().elements().vec();
  return {results[0].toTensor(), results[1].toTensor(), results[2].toTensor()};
}

// (256, 3) uint8, from blue to red.
Tensor jet() {
  const Tensor x = at::linspace(0, 1, 256, at::kDouble).unsqueeze(1);
  const Tensor peaks = at::tensor({3.0, 2.0, 1.0}, at::kDouble);
  return (255 * (1.5 - (4 * x - peaks).abs()).clamp(0, 1)).round().to(at::kByte);
}

// The op of the library, with its kernel for the tensors' device.
Tensor overlay(const Tensor& picture, const Tensor& map, double alpha) {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("fastcam::overlay", "");
  return op.typed<Tensor(const Tensor&, const Tensor&, const Tensor&, double)>().call(picture, map, jet(), alpha);
}

void explain(const std::vector<string>& arguments) {
  const c10::InferenceMode no_graph;
  load_ops(arguments[1]);
  const int64_t side = arguments.size() > 4 ? std::stoll(arguments[4]) : 224;
  const int64_t wanted = arguments.size() > 5 ? std::stoll(arguments[5]) : highest_class;
  const Tensor pixels = resized(read_picture(arguments[2]), side);
  const std::vector<Tensor> results = run(arguments[0], normalised(pixels), wanted);
  const Tensor shown = (pixels[0] * 255).round().to(at::kByte).permute({1, 2, 0}).contiguous();
  write_picture(arguments[3], overlay(shown, results[1][0].contiguous(), 0.5));
  std::printf("class %lld, score %.4f\n", static_cast<long long>(results[2].item<int64_t>()),
              results[0].item<double>());
}

}  // namespace

int main(int count, char** values) {
  const std::vector<string> arguments(values + 1, values + count);
  if (arguments.size() < 4 || arguments.size() > 6) {
    std::fprintf(stderr, "usage: explain PROGRAM OPS IMAGE.ppm OVERLAY.ppm [SIDE [CLASS]]\n");
    return 2;
  }
  try {
    explain(arguments);
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "explain: %s\n", error.what_without_backtrace());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "explain: %s\n", error.what());
    return 1;
  }
  return 0;
}
