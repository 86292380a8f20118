// The two loops every channel reduction is made of, four rows at a time: the loads of the four
// overlap, and what is summed into is read and written once for the four. `row(i)` gives the
// function of the column for row i, so that addresses are computed once a row.
#pragma once
#include <algorithm>
#include <cstdint>

#include "run.h"

namespace fastcam {

constexpr int64_t kRows = 4;

// sums[i] = sum_j row(i)(j)
template <class Acc, class Row>
FASTCAM_INLINE void sum_rows(int64_t rows, int64_t columns, Acc* sums, const Row& row) {
  int64_t i = 0;
  for (; i + kRows <= rows; i += kRows) {
    const auto row0 = row(i), row1 = row(i + 1), row2 = row(i + 2), row3 = row(i + 3);
    Acc sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
#pragma omp simd reduction(+ : sum0, sum1, sum2, sum3)
    for (int64_t j = 0; j < columns; ++j) {
      sum0 += row0(j);
      sum1 += row1(j);
      sum2 += row2(j);
      sum3 += row3(j);
    }
    sums[i] = sum0;
    sums[i + 1] = sum1;
    sums[i + 2] = sum2;
    sums[i + 3] = sum3;
  }
  for (; i < rows; ++i) {
    const auto only = row(i);
    Acc sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < columns; ++j) sum += only(j);
    sums[i] = sum;
  }
}

// sums[j] += sum_i row(i)(j)
template <class Acc, class Row>
FASTCAM_INLINE void add_rows(int64_t rows, int64_t columns, Acc* sums, const Row& row) {
  int64_t i = 0;
  for (; i + kRows <= rows; i += kRows) {
    const auto row0 = row(i), row1 = row(i + 1), row2 = row(i + 2), row3 = row(i + 3);
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) sums[j] += (row0(j) + row1(j)) + (row2(j) + row3(j));
  }
  for (; i < rows; ++i) {
    const auto only = row(i);
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) sums[j] += only(j);
  }
}

}  // namespace fastcam
