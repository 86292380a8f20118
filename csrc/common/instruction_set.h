// Which x86-64 instruction set the CPU kernels use, decided once at run time. One wheel serves
// every machine: kernels are compiled for each set from the same source (see `run`).
#pragma once
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define FASTCAM_X86 1
#else
#define FASTCAM_X86 0
#endif

namespace fastcam {

enum class InstructionSet { plain = 0, avx2 = 1, avx512 = 2 };

inline InstructionSet supported_instruction_set() {
#if FASTCAM_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) return InstructionSet::avx512;
  if (avx2) return InstructionSet::avx2;
#endif
  return InstructionSet::plain;
}

// FASTCAM_CPU_CAPABILITY=plain|avx2|avx512 lowers the choice (for tests and for comparing), never raises it.
inline InstructionSet chosen_instruction_set() {
  const InstructionSet best = supported_instruction_set();
  const char* wish = std::getenv("FASTCAM_CPU_CAPABILITY");
  if (wish == nullptr) return best;
  InstructionSet wanted = best;
  if (std::strcmp(wish, "plain") == 0) wanted = InstructionSet::plain;
  if (std::strcmp(wish, "avx2") == 0) wanted = InstructionSet::avx2;
  return wanted < best ? wanted : best;
}

inline const char* name(InstructionSet set) {
  switch (set) {
    case InstructionSet::avx512:
      return "AVX-512";
    case InstructionSet::avx2:
      return "AVX2";
    default:
      return "plain";
  }
}

}  // namespace fastcam
