// run<Kernel>(args...) calls Kernel::run compiled for the machine's instruction set. `flatten`
// inlines the whole kernel into each wrapper, so that its loops vectorise for that wrapper's target.
#pragma once
#include <type_traits>

#include "../common/arithmetic.h"
#include "../common/instruction_set.h"

namespace fastcam {

#if FASTCAM_X86
#define FASTCAM_AVX2 __attribute__((target("avx2,fma,f16c"), flatten, noinline))
#define FASTCAM_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=256"), flatten, noinline))

template <class Kernel, class... Args>
FASTCAM_AVX2 void run_avx2(const Args&... args) {
  Kernel::run(args...);
}

template <class Kernel, class... Args>
FASTCAM_AVX512 void run_avx512(const Args&... args) {
  Kernel::run(args...);
}
#endif

template <class Kernel, class... Args>
void run(const Args&... args) {
#if FASTCAM_X86
  static const InstructionSet set = chosen_instruction_set();
  if (set == InstructionSet::avx512) return run_avx512<Kernel>(args...);
  if (set == InstructionSet::avx2) return run_avx2<Kernel>(args...);
#endif
  Kernel::run(args...);
}

// Half and bfloat16 accumulate in float.
template <class T>
using accumulator_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

}  // namespace fastcam
