// The body of a function of T and Acc (a, stride, channels, positions, out, step) for channels that lie side by side,
// included once for each instruction set as moment_planes.h is: lanes are channels. Returns how many it has done.
using V = typename Lanes<Acc>::Values;
using I = typename Lanes<Acc>::Numbers;
using Number = typename Lanes<Acc>::Number;
constexpr int kCount = sizeof(V) / sizeof(Acc);
constexpr Acc kInfinity = std::numeric_limits<Acc>::infinity();
int64_t c = 0;
for (; c + kCount <= channels; c += kCount) {
  V value, shift = V{}, sum = V{}, squares = V{}, top = V{} - kInfinity;
  I zeros = I{}, place = I{};
  for (int64_t first = 0; first < positions; first += kRowsPerBlock) {
    V part = V{}, part_squares = V{};
    for (int64_t p = first; p < std::min(first + kRowsPerBlock, positions); ++p) {
      FASTCAM_LOAD(value, a + p * stride + c);
      if (p == 0) shift = value - value == V{} ? value : V{};  // what is not finite is no shift
      const V difference = value - shift;
      const I is_more = value > top;  // -1 where it holds; not by NaN
      part += difference;
      part_squares += difference * difference;
      zeros -= value == Acc(0);
      top = is_more ? value : top;
      place = is_more ? I{} + static_cast<Number>(p) : place;
    }
    sum += part;
    squares += part_squares;
  }
  for (int l = 0; l < kCount; ++l) {
    const Moments<Acc> moments = moments_of(shift[l], sum[l], squares[l], positions);
    out[c + l] = moments.mean;
    out[c + l + step] = moments.squares;
    out[c + l + 2 * step] = static_cast<Acc>(zeros[l]);
    out[c + l + 3 * step] = top[l];
    out[c + l + 4 * step] = static_cast<Acc>(place[l]);
  }
}
return c;
