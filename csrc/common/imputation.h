// The linear imputation of ROAD (arXiv:2202.00449), written once for CPU and CUDA: each missing pixel of a plane is the
// mean of its 8 neighbours in the image, the direct ones with weight 1/6 and the diagonal ones with 1/12. Conjugate
// gradients, preconditioned by one V-cycle over coarser and coarser grids with a Jacobi step before and after.
//
// A team runs over the cells of a grid: `each(lines, columns, f)` calls f(y, x) for all of them, `sum` adds what it
// returns in a fixed order. One thread is a team on a CPU, a block of threads on a GPU. What a call writes, the next
// one may read. Indices are of the team's type: 64 bits where loops are vectorised, which a sum of 32 bits that may
// wrap around would prevent.
#pragma once
#include "arithmetic.h"

#if defined(__CUDACC__)
#define FASTCAM_TEAM _Pragma("nv_exec_check_disable") template <class Team, class Acc>
#else
#define FASTCAM_TEAM template <class Team, class Acc>
#endif

namespace fastcam {

constexpr int kImputationSteps = 500;  // at most

// One grid, and in what memory: arrays with a border of zeros, so that no neighbour needs a test. The arrays of the
// next coarser grid follow them.
template <class Acc>
struct Grid {
  int lines, columns;
  Acc* memory;

  FASTCAM_INLINE int stride() const { return columns + 3; }  // one before a line, two after it
  FASTCAM_INLINE int64_t size() const { return static_cast<int64_t>(lines + 3) * stride(); }
  FASTCAM_INLINE Acc* array(int index) const { return memory + index * size() + stride() + 1; }

  FASTCAM_INLINE Acc* residual() const { return array(0); }
  FASTCAM_INLINE Acc* values() const { return array(1); }
  FASTCAM_INLINE Acc* corrected() const { return array(2); }
  FASTCAM_INLINE Acc* direction() const { return array(3); }  // of the finest grid alone, as the next one
  FASTCAM_INLINE Acc* solution() const { return array(4); }

  // After them the weights of a pixel's columns, then a byte for each cell: 1 where it is unknown.
  FASTCAM_INLINE int64_t arrays(bool finest) const { return (finest ? 5 : 3) * size(); }
  FASTCAM_INLINE Acc* across(bool finest) const { return memory + arrays(finest); }
  FASTCAM_INLINE uint8_t* unknown(bool finest) const {
    return reinterpret_cast<uint8_t*>(across(finest) + stride()) + stride() + 1;
  }
  FASTCAM_INLINE int64_t elements(bool finest) const {
    const int64_t bytes = sizeof(Acc);
    return arrays(finest) + stride() + (size() + bytes - 1) / bytes;
  }

  FASTCAM_INLINE bool has_coarser() const { return lines > 2 && columns > 2; }
  FASTCAM_INLINE Grid coarser(bool finest) const {
    return {(lines + 1) / 2, (columns + 1) / 2, memory + elements(finest)};
  }

  // The grid after `depth` coarser ones.
  FASTCAM_INLINE Grid at(int depth) const {
    Grid grid = *this;
    for (int i = 0; i < depth; ++i) grid = grid.coarser(i == 0);
    return grid;
  }
};

template <class Acc>
FASTCAM_INLINE int depth_of(Grid<Acc> grid) {
  int depth = 0;
  for (; grid.has_coarser(); ++depth) grid = grid.coarser(depth == 0);
  return depth;
}

// Elements of the arrays of all grids of a plane.
template <class Acc>
FASTCAM_INLINE int64_t imputation_size(int64_t lines, int64_t columns) {
  Grid<Acc> grid{static_cast<int>(lines), static_cast<int>(columns), nullptr};
  int64_t elements = grid.elements(true);
  for (bool finest = true; grid.has_coarser(); finest = false) {
    grid = grid.coarser(finest);
    elements += grid.elements(false);
  }
  return elements;
}

// The weights (1, 2, 1) x (1, 2, 1) / 12 without the middle.
template <class Acc>
FASTCAM_INLINE Acc neighbours(const Acc* v, int stride) {
  const Acc corners = (v[-stride - 1] + v[-stride + 1]) + (v[stride - 1] + v[stride + 1]);
  const Acc sides = (v[-stride] + v[stride]) + (v[-1] + v[1]);
  return (corners + Acc(2) * sides) * Acc(1.0 / 12.0);
}

// The equations of the unknown cells of a grid: the weights of the neighbours in the image times the value, less the
// neighbours' sum.
template <class Acc>
struct Equations {
  const Acc* across;
  const uint8_t* unknown;
  int stride, last;  // line

  FASTCAM_INLINE Equations(const Grid<Acc>& grid, bool finest)
      : across(grid.across(finest)), unknown(grid.unknown(finest)), stride(grid.stride()), last(grid.lines - 1) {}

  // The left side for values that are 0 where pixels are known; there it is 0.
  template <class Index>
  FASTCAM_INLINE Acc left_side(const Acc* values, Index y, Index x) const {
    const Acc down = Acc(4 - (y == 0) - (y == last)) * Acc(1.0 / 12.0);
    const Acc* v = values + y * stride + x;
    const Acc side = (down * across[x] - Acc(1.0 / 3.0)) * v[0] - neighbours(v, stride);
    return unknown[y * stride + x] ? side : Acc(0);
  }
};

// 0 where a plane is solved and both are.
template <class Acc>
FASTCAM_INLINE Acc ratio(Acc a, Acc b) {
  return b == Acc(0) ? Acc(0) : a / b;
}

// Sets the equations of all grids: those of a coarser one are of cells none of whose pixels is known.
FASTCAM_TEAM
FASTCAM_INLINE void set_equations(const Team& team, Grid<Acc> grid, const bool* missing) {
  uint8_t* unknown = grid.unknown(true);
  const int first = grid.stride(), width = grid.columns;
  team.each(grid.lines, width, [=](auto y, auto x) { unknown[y * first + x] = missing[y * width + x] ? 1 : 0; });
  for (bool finest = true;; finest = false) {
    const int lines = grid.lines, columns = grid.columns, stride = grid.stride();
    Acc* across = grid.across(finest);
    team.each(1, columns, [=](auto, auto x) { across[x] = Acc(4 - (x == 0) - (x == columns - 1)); });
    if (!grid.has_coarser()) return;
    const Grid<Acc> next = grid.coarser(finest);
    const uint8_t* fine = grid.unknown(finest);
    uint8_t* coarse = next.unknown(false);
    const int step = next.stride();
    team.each(next.lines, next.columns, [=](auto y, auto x) {
      const uint8_t* cell = fine + 2 * y * stride + 2 * x;
      const bool right = 2 * x + 1 < columns, below = 2 * y + 1 < lines;
      const bool open =
          cell[0] && (!right || cell[1]) && (!below || cell[stride]) && (!right || !below || cell[stride + 1]);
      coarse[y * step + x] = open ? 1 : 0;
    });
    grid = next;
  }
}

// What a Jacobi step for the residual, from nothing, leaves for the coarser grid. With these weights a step of 1 leaves
// a third of what that grid cannot show.
FASTCAM_TEAM
FASTCAM_INLINE void descend(const Team& team, const Grid<Acc>& grid, const Grid<Acc>& coarser, bool finest) {
  const int stride = grid.stride(), step = coarser.stride();
  const Equations<Acc> equations(grid, finest);
  const Acc* residual = grid.residual();
  Acc *left = grid.corrected(), *cells = coarser.residual();
  const uint8_t* unknown = coarser.unknown(false);
  team.each(grid.lines, grid.columns, [=](auto y, auto x) {
    left[y * stride + x] = residual[y * stride + x] - equations.left_side(residual, y, x);
  });
  team.each(coarser.lines, coarser.columns, [=](auto y, auto x) {  // (1, 3, 3, 1) / 4 along both axes
    const Acc* cell = left + 2 * y * stride + 2 * x;
    Acc lines[4];
    for (int k = 0; k < 4; ++k) {
      const Acc* line = cell + (k - 1) * stride;
      lines[k] = Acc(0.75) * (line[0] + line[1]) + Acc(0.25) * (line[-1] + line[2]);
    }
    const Acc sum = Acc(0.75) * (lines[1] + lines[2]) + Acc(0.25) * (lines[0] + lines[3]);
    cells[y * step + x] = unknown[y * step + x] ? sum : Acc(0);
  });
}

// That step, and the coarser grid's correction between its cells: the transpose of what `descend` does.
FASTCAM_TEAM
FASTCAM_INLINE void ascend(const Team& team, const Grid<Acc>& grid, const Grid<Acc>& coarser, bool finest) {
  const int stride = grid.stride(), step = coarser.stride();
  const Acc *coarse = coarser.corrected(), *residual = grid.residual();
  const uint8_t* unknown = grid.unknown(finest);
  Acc* values = grid.values();
  team.each(coarser.lines, coarser.columns, [=](auto y, auto x) {
    const Acc* from = coarse + y * step + x;
    for (int k = 0; k < 2; ++k) {
      const int near = k == 0 ? -step : step;
      const auto i = (2 * y + k) * stride + 2 * x;
      const Acc middle = Acc(0.75) * from[0] + Acc(0.25) * from[near];
      const Acc before = Acc(0.75) * from[-1] + Acc(0.25) * from[near - 1];
      const Acc after = Acc(0.75) * from[1] + Acc(0.25) * from[near + 1];
      // Cells reach beyond an odd end, into the border, where all is 0.
      values[i] = residual[i] + (unknown[i] ? Acc(0.75) * middle + Acc(0.25) * before : Acc(0));
      values[i + 1] = residual[i + 1] + (unknown[i + 1] ? Acc(0.75) * middle + Acc(0.25) * after : Acc(0));
    }
  });
}

// corrected = values and a Jacobi step for the residual; returns its product with the residual.
FASTCAM_TEAM
FASTCAM_INLINE Acc relax(const Team& team, const Grid<Acc>& grid, const Acc* values, bool finest) {
  const int stride = grid.stride();
  const Equations<Acc> equations(grid, finest);
  const Acc* residual = grid.residual();
  Acc* corrected = grid.corrected();
  return team.template sum<Acc>(grid.lines, grid.columns, [=](auto y, auto x) {
    const auto i = y * stride + x;
    const Acc value = values[i] + (residual[i] - equations.left_side(values, y, x));
    corrected[i] = value;
    return residual[i] * value;
  });
}

// Sets `corrected` to nearly the solution for the residual, by a symmetric, positive operator.
FASTCAM_TEAM
FASTCAM_INLINE Acc correct(const Team& team, const Grid<Acc>& finest, int depth) {
  Grid<Acc> grid = finest;
  for (int i = 0; i < depth; ++i) {
    const Grid<Acc> coarser = grid.coarser(i == 0);
    descend(team, grid, coarser, i == 0);
    grid = coarser;
  }
  Acc product = relax(team, grid, static_cast<const Acc*>(grid.residual()), depth == 0);
  for (int i = depth - 1; i >= 0; --i) {
    const Grid<Acc> finer = finest.at(i);
    ascend(team, finer, grid, i == 0);
    product = relax(team, finer, static_cast<const Acc*>(finer.values()), i == 0);
    grid = finer;
  }
  return product;
}

// Fills `solution` in for the residual, which is changed; `tolerance` is a share of it.
FASTCAM_TEAM
FASTCAM_INLINE void solve(const Team& team, const Grid<Acc>& grid, Acc tolerance) {
  const int stride = grid.stride(), lines = grid.lines, columns = grid.columns, depth = depth_of(grid);
  const Equations<Acc> equations(grid, true);
  Acc *residual = grid.residual(), *direction = grid.direction(), *solution = grid.solution();
  const Acc* corrected = grid.corrected();
  Acc norm = team.template sum<Acc>(lines, columns, [=](auto y, auto x) {
    const auto i = y * stride + x;
    direction[i] = solution[i] = Acc(0);
    return residual[i] * residual[i];
  });
  if (!(norm - norm == Acc(0))) {  // a value that is not finite, or too large to be squared: unknown pixels are NaN
    team.each(lines, columns, [=](auto y, auto x) { solution[y * stride + x] = norm - norm; });
    return;
  }
  const Acc share = tolerance * std::sqrt(norm), least = std::numeric_limits<Acc>::min();
  const Acc limit = share < least ? least : share;
  Acc before = 1;
  for (int n = 0; n < kImputationSteps && std::sqrt(norm) > limit; ++n) {
    const Acc product = correct(team, grid, depth), kept = ratio(product, before);
    team.each(lines, columns, [=](auto y, auto x) {
      const auto i = y * stride + x;
      direction[i] = kept * direction[i] + corrected[i];
    });
    const Acc energy = team.template sum<Acc>(lines, columns, [=](auto y, auto x) {
      return direction[y * stride + x] * equations.left_side(direction, y, x);
    });
    const Acc length = ratio(product, energy);
    norm = team.template sum<Acc>(lines, columns, [=](auto y, auto x) {  // the left side once more: it is not stored
      const auto i = y * stride + x;
      solution[i] += length * direction[i];
      const Acc left = residual[i] - length * equations.left_side(direction, y, x);
      residual[i] = left;
      return left * left;
    });
    before = product;
  }
}

// A plane of an image, its elements so many apart, and its missing pixels (lines, columns).
template <class T>
struct Plane {
  const T* image;
  const bool* missing;
  T* out;
  int64_t line, column, out_line, out_column;
};

// Writes the plane with its missing pixels filled in; `read` and `write` convert to and from the accumulation type.
template <class Team, class Acc, class T, class Read, class Write>
FASTCAM_INLINE void impute_plane(const Team& team, const Grid<Acc>& grid, const Plane<T>& plane, Acc tolerance,
                                 Read read, Write write) {
  const int stride = grid.stride(), lines = grid.lines, columns = grid.columns;
  const uint8_t* unknown = grid.unknown(true);
  Acc *values = grid.values(), *residual = grid.residual();
  const Plane<T> p = plane;
  team.each(lines, columns, [=](auto y, auto x) {
    values[y * stride + x] = p.missing[y * columns + x] ? Acc(0) : read(p.image[y * p.line + x * p.column]);
  });
  team.each(lines, columns, [=](auto y, auto x) {
    const auto i = y * stride + x;
    residual[i] = unknown[i] ? neighbours(values + i, stride) : Acc(0);
  });
  solve(team, grid, tolerance);
  const Acc* solution = grid.solution();
  team.each(lines, columns, [=](auto y, auto x) {
    const T known = p.image[y * p.line + x * p.column];
    T* out = p.out + y * p.out_line + x * p.out_column;
    if (p.missing[y * columns + x]) {
      write(solution[y * stride + x], *out);
    } else {
      *out = known;
    }
  });
}

}  // namespace fastcam
