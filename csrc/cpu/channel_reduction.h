// map[n, k, p] = sum_c weight[n, k, c(, p)] * activations[n, c, p], in one pass over the inputs.
//
// The channels of an image are summed in chunks of a size that depends on the shape of one image
// alone, and the chunks are added in order: an image's map has the same bits in every batch and
// with every number of threads, and one image still occupies many threads.
#pragma once
#include <algorithm>
#include <vector>

#include "../common/operands.h"
#include "rows.h"

namespace fastcam {

constexpr int64_t kMaxChunk = 512;

// Channels per chunk: enough of them side by side to read memory in long runs, and where the
// positions are many, few enough to stay in L2.
inline int64_t chunk_channels(int64_t positions, bool planes) {
  if (positions > 4096) return 16;
  if (positions > 512) return planes ? 32 : 64;
  return planes ? 128 : kMaxChunk;
}

// One chunk of the channels of one image. W is T for gradients and element weights, the
// accumulation type for channel weights (which use only w and w_channel).
template <class T, class W>
struct Chunk {
  const T* a;
  const W* w;
  int64_t a_channel, a_position, w_channel, w_position;  // strides in elements
  int64_t channels, positions;
  accumulator_t<T>* map;
  W* planes;  // room for kBlock planes, where w is constant over positions (w_position == 0)
};

// Channels taken together where one reading of each plane suffices: long runs of memory, one tensor after the other.
constexpr int64_t kBlock = 32;

// The activations and weights of up to `Most` channels whose planes are contiguous in memory.
template <class T, class W, int64_t Most = kBlock>
struct PlaneBlock {
  int64_t count;
  const T* a[Most];
  const W* w[Most];

  FASTCAM_INLINE PlaneBlock(const Chunk<T, W>& chunk, int64_t first) : count(std::min(Most, chunk.channels - first)) {
    for (int64_t i = 0; i < count; ++i) {
      a[i] = chunk.a + (first + i) * chunk.a_channel;
      w[i] = chunk.w + (first + i) * chunk.w_channel;
      if (chunk.w_position == 0 && chunk.planes != nullptr) {
        W* plane = chunk.planes + i * chunk.positions;
        std::fill_n(plane, chunk.positions, *w[i]);
        w[i] = plane;
      }
    }
  }
};

// Given channel weights.
struct ChannelWeights {
  struct Planes {
    static constexpr bool kPlanes = true;

    template <class Rule, class T, class W>
    static FASTCAM_INLINE void run(const Rule&, const Chunk<T, W>& chunk) {
      using Acc = accumulator_t<T>;
      std::fill_n(chunk.map, chunk.positions, Acc(0));
      for (int64_t c = 0; c < chunk.channels; c += kBlock) {
        const PlaneBlock<T, W> block(chunk, c);
        add_rows(block.count, chunk.positions, chunk.map, [&](int64_t i) {
          return [a = block.a[i], weight = *block.w[i]](int64_t p) { return weight * static_cast<Acc>(a[p]); };
        });
      }
    }
  };

  struct Rows {
    static constexpr bool kPlanes = false;

    template <class Rule, class T, class W>
    static FASTCAM_INLINE void run(const Rule&, const Chunk<T, W>& chunk) {
      accumulator_t<T> weight[kMaxChunk];
      for (int64_t c = 0; c < chunk.channels; ++c) weight[c] = chunk.w[c * chunk.w_channel];
      weigh_rows(chunk, weight);
    }

    // map[p] = sum_c weight[c] * a[p, c]
    template <class T, class W>
    static FASTCAM_INLINE void weigh_rows(const Chunk<T, W>& chunk, const accumulator_t<T>* weight) {
      using Acc = accumulator_t<T>;
      sum_rows(chunk.positions, chunk.channels, chunk.map, [&](int64_t p) {
        return [a = chunk.a + p * chunk.a_position, weight](int64_t c) { return weight[c] * static_cast<Acc>(a[c]); };
      });
    }
  };
};

// Channel weights that follow from activations and gradients by a rule of common/arithmetic.h.
struct RuleWeights {
  // The rule's term for one row of activations and gradients; `sum(j)` is S at column j.
  template <class Rule, class T, class Sum>
  static FASTCAM_INLINE auto term(const Rule& rule, const T* a, const T* g, const Sum& sum) {
    using Acc = accumulator_t<T>;
    return [rule, a, g, sum](int64_t j) {
      const Acc activation = Rule::kReadsActivations ? static_cast<Acc>(a[j]) : Acc(0);
      return rule.term(activation, static_cast<Acc>(g[j]), sum(j));
    };
  }

  struct Planes {
    static constexpr bool kPlanes = true;

    template <class Rule, class T>
    static FASTCAM_INLINE void run(const Rule& rule, const Chunk<T, T>& chunk) {
      using Acc = accumulator_t<T>;
      std::fill_n(chunk.map, chunk.positions, Acc(0));
      for (int64_t c = 0; c < chunk.channels; c += kRows) {
        const PlaneBlock<T, T, kRows> block(chunk, c);  // still in L1 at its second reading
        Acc activation_sum[kRows] = {}, total[kRows], weight[kRows];
        if constexpr (Rule::kReadsActivations) {
          sum_rows(block.count, chunk.positions, activation_sum,
                   [&](int64_t i) { return [a = block.a[i]](int64_t p) { return static_cast<Acc>(a[p]); }; });
        }
        sum_rows(block.count, chunk.positions, total, [&](int64_t i) {
          return term(rule, block.a[i], block.w[i], [sum = activation_sum[i]](int64_t) { return sum; });
        });
        for (int64_t i = 0; i < block.count; ++i) weight[i] = rule.weight(total[i], activation_sum[i], chunk.positions);
        add_rows(block.count, chunk.positions, chunk.map, [&](int64_t i) {
          return [a = block.a[i], w = weight[i]](int64_t p) { return w * static_cast<Acc>(a[p]); };
        });
      }
    }
  };

  struct Rows {
    static constexpr bool kPlanes = false;

    template <class Rule, class T>
    static FASTCAM_INLINE void run(const Rule& rule, const Chunk<T, T>& chunk) {
      using Acc = accumulator_t<T>;
      Acc activation_sum[kMaxChunk], total[kMaxChunk], weight[kMaxChunk];
      std::fill_n(activation_sum, chunk.channels, Acc(0));
      std::fill_n(total, chunk.channels, Acc(0));
      const Acc* sums = activation_sum;
      if constexpr (Rule::kReadsActivations) {
        add_rows(chunk.positions, chunk.channels, activation_sum, [&](int64_t p) {
          return [a = chunk.a + p * chunk.a_position](int64_t c) { return static_cast<Acc>(a[c]); };
        });
      }
      add_rows(chunk.positions, chunk.channels, total, [&](int64_t p) {
        return term(rule, chunk.a + p * chunk.a_position, chunk.w + p * chunk.w_position,
                    [sums](int64_t c) { return sums[c]; });
      });
#pragma omp simd
      for (int64_t c = 0; c < chunk.channels; ++c)
        weight[c] = rule.weight(total[c], activation_sum[c], chunk.positions);
      ChannelWeights::Rows::weigh_rows(chunk, weight);
    }
  };
};

// One weight per element: map[p] = sum_c rule.element(a, w).
struct ElementWeights {
  template <class Rule, class T>
  static FASTCAM_INLINE auto element(const Rule& rule, const T* a, const T* w) {
    using Acc = accumulator_t<T>;
    return [rule, a, w](int64_t j) { return rule.element(static_cast<Acc>(a[j]), static_cast<Acc>(w[j])); };
  }

  struct Planes {
    static constexpr bool kPlanes = true;

    template <class Rule, class T>
    static FASTCAM_INLINE void run(const Rule& rule, const Chunk<T, T>& chunk) {
      std::fill_n(chunk.map, chunk.positions, accumulator_t<T>(0));
      for (int64_t c = 0; c < chunk.channels; c += kBlock) {
        const PlaneBlock<T, T> block(chunk, c);
        add_rows(block.count, chunk.positions, chunk.map,
                 [&](int64_t i) { return element(rule, block.a[i], block.w[i]); });
      }
    }
  };

  struct Rows {
    static constexpr bool kPlanes = false;

    template <class Rule, class T>
    static FASTCAM_INLINE void run(const Rule& rule, const Chunk<T, T>& chunk) {
      sum_rows(chunk.positions, chunk.channels, chunk.map, [&](int64_t p) {
        return element(rule, chunk.a + p * chunk.a_position, chunk.w + p * chunk.w_position);
      });
    }
  };
};

// map = sum of its chunks, in order, then ReLU.
struct Finish {
  template <class Acc>
  static FASTCAM_INLINE void run(const Acc* parts, int64_t chunks, int64_t positions, bool relu, Acc* map) {
    for (int64_t i = 0; i < chunks; ++i) {
      const Acc* part = parts + i * positions;
      if (part == map) continue;
#pragma omp simd
      for (int64_t p = 0; p < positions; ++p) map[p] = i == 0 ? part[p] : map[p] + part[p];
    }
    if (!relu) return;
#pragma omp simd
    for (int64_t p = 0; p < positions; ++p) map[p] = rectify(map[p]);
  }
};

// Runs Kernel on every chunk of every (image, target), then adds the chunks. `maps` is (N, K, P).
template <class Kernel, class Rule, class T, class W>
void reduce_chunks(const Rule& rule, const T* a, const Strides& as, const W* w, const Strides& ws, const Sizes& sizes,
                   bool relu, accumulator_t<T>* maps) {
  using Acc = accumulator_t<T>;
  const int64_t size = chunk_channels(sizes.positions, Kernel::kPlanes);
  const int64_t chunks = std::max<int64_t>(1, (sizes.channels + size - 1) / size);
  const int64_t rows = sizes.images * sizes.targets;
  std::vector<Acc> parts(chunks > 1 ? rows * chunks * sizes.positions : 0);
  Acc* base = chunks > 1 ? parts.data() : maps;
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, size * sizes.positions));

  torch::stable::parallel_for(0, rows * chunks, grain, [&](int64_t begin, int64_t end) {
    std::vector<W> planes(ws.position == 0 ? std::min(size, kBlock) * sizes.positions : 0);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / chunks, first = task % chunks * size;
      const int64_t n = row / sizes.targets, k = row % sizes.targets;
      const Chunk<T, W> chunk{a + n * as.image + first * as.channel,
                              w + n * ws.image + k * ws.target + first * ws.channel,
                              as.channel,
                              as.position,
                              ws.channel,
                              ws.position,
                              std::min(size, sizes.channels - first),
                              sizes.positions,
                              base + task * sizes.positions,
                              planes.data()};
      run<Kernel>(rule, chunk);
    }
  });
  if (chunks == 1 && !relu) return;
  torch::stable::parallel_for(0, rows, std::max<int64_t>(1, 32768 / (chunks * std::max<int64_t>(1, sizes.positions))),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t row = begin; row < end; ++row) {
                                  const Acc* part = base + row * chunks * sizes.positions;
                                  run<Finish>(part, chunks, sizes.positions, relu, maps + row * sizes.positions);
                                }
                              });
}

// Activations (N, C, *S) and gradients or element weights of that shape or (N, K, C, *S): the maps
// (N, [K,] *S) in the accumulation dtype.
template <class Weights, class Rule>
Tensor reduce_elements(Tensor activations, Tensor gradients, const char* label, const Rule& rule, bool relu) {
  const Operands found = element_operands(activations, gradients, label);
  if (found.empty) return found.maps;
  FASTCAM_DISPATCH(found.activations.scalar_type(), [&] {
    const auto* a = found.activations.const_data_ptr<scalar_t>();
    const auto* g = found.weights.const_data_ptr<scalar_t>();
    auto* out = found.maps.mutable_data_ptr<accumulator_t<scalar_t>>();
    if (found.rows) {
      reduce_chunks<typename Weights::Rows>(rule, a, found.as, g, found.ws, found.sizes, relu, out);
    } else {
      reduce_chunks<typename Weights::Planes>(rule, a, found.as, g, found.ws, found.sizes, relu, out);
    }
  });
  return found.maps;
}

}  // namespace fastcam
