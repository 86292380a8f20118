"""The benchmarks' turns: who is called when."""

import pytest

from fastcam.bench.timing import interleave


def called(rounds, **options):
    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in "abc"}
    timings = interleave(contestants, rounds, **options)
    assert list(timings) == ["a", "b", "c"]
    assert all(each.median >= 0 and each.spread >= 0 for each in timings.values())
    return "".join(calls)


def test_everybody_once_a_round_after_one_untimed_round():
    assert called(3) == "abc" * 4


def test_no_untimed_round_for_the_warm():
    assert called(3, warm=True) == "abc" * 3


@pytest.mark.parametrize(("few", "expected"), [(2, "ab" + "abc" + "ab" + "abc"), (4, "abc" * 4), (3, "ab" + "abc" * 3)])
def test_the_slow_take_part_in_some_rounds_evenly_spread(few, expected):
    assert called({"a": 4, "b": 4, "c": few}) == "abc" + expected
