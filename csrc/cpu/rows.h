// The two loops every channel reduction is made of, four rows at a time: the loads of the four
// overlap, and what is summed into is read and written once for the four.
#pragma once
#include <algorithm>
#include <cstdint>

#include "run.h"

namespace fastcam {

constexpr int64_t kRows = 4;

// sums[i] = sum_j term(i, j)
template <class Acc, class Term>
FASTCAM_INLINE void sum_rows(int64_t rows, int64_t columns, Acc* sums, const Term& term) {
  int64_t i = 0;
  for (; i + kRows <= rows; i += kRows) {
    Acc sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
#pragma omp simd reduction(+ : sum0, sum1, sum2, sum3)
    for (int64_t j = 0; j < columns; ++j) {
      sum0 += term(i, j);
      sum1 += term(i + 1, j);
      sum2 += term(i + 2, j);
      sum3 += term(i + 3, j);
    }
    sums[i] = sum0;
    sums[i + 1] = sum1;
    sums[i + 2] = sum2;
    sums[i + 3] = sum3;
  }
  for (; i < rows; ++i) {
    Acc sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < columns; ++j) sum += term(i, j);
    sums[i] = sum;
  }
}

// sums[j] += sum_i term(i, j)
template <class Acc, class Term>
FASTCAM_INLINE void add_rows(int64_t rows, int64_t columns, Acc* sums, const Term& term) {
  int64_t i = 0;
  for (; i + kRows <= rows; i += kRows) {
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) {
      sums[j] += (term(i, j) + term(i + 1, j)) + (term(i + 2, j) + term(i + 3, j));
    }
  }
  for (; i < rows; ++i) {
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) sums[j] += term(i, j);
  }
}

}  // namespace fastcam
