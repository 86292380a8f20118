// The body of a function of T and Acc (a, stride, channels, positions, out, step), included once for each instruction
// set: the compiler splits vectors that are wider than those of a function's own set before it inlines it into one with
// wider ones. Each plane is read once; lanes are positions, and the last vector overlaps the one before.
using V = typename Lanes<Acc>::Values;
using I = typename Lanes<Acc>::Numbers;
using Number = typename Lanes<Acc>::Number;
constexpr int kCount = sizeof(V) / sizeof(Acc);
constexpr Acc kInfinity = std::numeric_limits<Acc>::infinity();
I lane;
for (int l = 0; l < kCount; ++l) lane[l] = l;
const I counts = lane >= static_cast<Number>(kCount - positions % kCount);  // in the last vector, where it overlaps
for (int64_t c = 0; c < channels; ++c) {
  const T* row = a + c * stride;
  const Acc shift = shift_of(static_cast<Acc>(row[0]));
  V sum = V{}, squares = V{}, top = V{} - kInfinity;
  I zeros = I{}, place = I{};
  for (int64_t first = 0; first < positions; first += kBlockPositions) {
    V part = V{}, part_squares = V{};
    for (int64_t p = first; p < std::min(first + kBlockPositions, positions); p += kCount) {
      const bool overlaps = p + kCount > positions;
      const int64_t from = overlaps ? positions - kCount : p;
      V value;
      FASTCAM_LOAD(value, row + from);
      V difference = value - shift;
      I is_zero = value == Acc(0), is_more = value > top;  // -1 where it holds; not by NaN
      if (overlaps) {
        difference = counts ? difference : V{};
        is_zero &= counts;
        is_more &= counts;
      }
      part += difference;
      part_squares += difference * difference;
      zeros -= is_zero;
      top = is_more ? value : top;
      place = is_more ? lane + static_cast<Number>(from) : place;
    }
    sum += part;
    squares += part_squares;
  }
  typename Lanes<Acc>::HalfValues half[2];
  typename Lanes<Acc>::HalfNumbers numbers[2];
  std::memcpy(half, &top, sizeof(top));
  const Acc highest = fold(half[0] > half[1] ? half[0] : half[1], Largest());
  I where = top == highest ? place : I{} + std::numeric_limits<Number>::max();
  std::memcpy(numbers, &where, sizeof(where));
  const Number first = fold(numbers[0] < numbers[1] ? numbers[0] : numbers[1], Smallest());
  std::memcpy(numbers, &zeros, sizeof(zeros));
  out[c + 2 * step] = static_cast<Acc>(fold(numbers[0] + numbers[1], Sum()));
  std::memcpy(half, &sum, sizeof(sum));
  const Acc total = fold(half[0] + half[1], Sum());
  std::memcpy(half, &squares, sizeof(squares));
  const Moments<Acc> moments = moments_of(shift, total, fold(half[0] + half[1], Sum()), positions);
  out[c] = moments.mean;
  out[c + step] = moments.squares;
  out[c + 3 * step] = highest;
  out[c + 4 * step] = highest == -kInfinity ? Acc(0) : static_cast<Acc>(first);
}
