// A thread solves a plane at a time, in memory that stays in its cache.
#include "../common/imputation.h"

#include "../common/imputed_images.h"
#include "run.h"

namespace fastcam {
namespace {

// One thread, whose lines are vectorised.
struct Thread {
  template <class F>
  FASTCAM_INLINE void each(int lines, int columns, F f) const {
    for (int64_t y = 0; y < lines; ++y) {
#pragma omp simd
      for (int64_t x = 0; x < columns; ++x) f(y, x);
    }
  }

  template <class Acc, class F>
  FASTCAM_INLINE Acc sum(int lines, int columns, F f) const {
    Acc total = 0;
    for (int64_t y = 0; y < lines; ++y) {
      Acc line = 0;
#pragma omp simd reduction(+ : line)
      for (int64_t x = 0; x < columns; ++x) line += f(y, x);
      total += line;
    }
    return total;
  }
};

struct SetEquations {
  template <class Acc>
  static FASTCAM_INLINE void run(const Grid<Acc>& grid, const bool* missing) {
    set_equations(Thread(), grid, missing);
  }
};

struct ImputePlane {
  template <class T, class Acc>
  static FASTCAM_INLINE void run(const Grid<Acc>& grid, const Plane<T>& plane, Acc tolerance) {
    const auto read = [](T value) { return static_cast<Acc>(value); };
    const auto write = [](Acc value, T& out) { out = static_cast<T>(value); };
    impute_plane(Thread(), grid, plane, tolerance, read, write);
  }
};

// Masked vectors of AVX-512 take a third longer here than blends of AVX2.
template <class Kernel, class... Args>
void run_blended(const Args&... args) {
#if FASTCAM_X86
  static const bool has_avx2 = chosen_instruction_set() != InstructionSet::plain;
  if (has_avx2) return run_avx2<Kernel>(args...);
#endif
  Kernel::run(args...);
}

template <class T>
void impute_all(const ImputationOperands& found, double tolerance) {
  using Acc = accumulator_t<T>;
  const Tensor &images = found.images, &out = found.out;
  const T* values = images.const_data_ptr<T>();
  const bool* missing = found.missing.const_data_ptr<bool>();
  T* filled = out.mutable_data_ptr<T>();
  const int64_t channels = images.size(1), positions = found.lines() * found.columns();
  const int64_t elements = imputation_size<Acc>(found.lines(), found.columns());
  torch::stable::parallel_for(0, found.planes(), 1, [&](int64_t begin, int64_t end) {
    std::vector<Acc> memory(elements);
    const Grid<Acc> grid{static_cast<int>(found.lines()), static_cast<int>(found.columns()), memory.data()};
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / channels, c = i % channels;
      const bool* mask = missing + n * positions;
      if (i == begin || c == 0) run_blended<SetEquations>(grid, mask);
      const Plane<T> plane{values + n * images.stride(0) + c * images.stride(1),
                           mask,
                           filled + n * out.stride(0) + c * out.stride(1),
                           images.stride(2),
                           images.stride(3),
                           out.stride(2),
                           out.stride(3)};
      run_blended<ImputePlane>(grid, plane, static_cast<Acc>(tolerance));
    }
  });
}

}  // namespace

Tensor impute_neighbours(Tensor images, Tensor missing, double tolerance) {
  const ImputationOperands found = imputation_operands(images, missing, tolerance);
  if (found.out.numel() == 0) return found.out;
  FASTCAM_DISPATCH(images.scalar_type(), [&] { impute_all<scalar_t>(found, tolerance); });
  return found.out;
}

}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("impute_neighbours", TORCH_BOX(&fastcam::impute_neighbours)); }
