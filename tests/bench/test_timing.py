"""The benchmarks' turns: who is called when."""

import pytest

from fastcam.bench.timing import Patience, interleave, time_call


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


@pytest.mark.parametrize(
    ("took", "turns"),
    [(0.001, 9), (0.1, 9), (0.2, 5), (0.4, 3), (1.0, 3), (2.0, 3), (2.5, 1)],  # 9 at most, 3 at least, once above 2 s
)
def test_the_slow_get_fewer_samples(took, turns):
    assert Patience(seconds=1.0, rounds=9, fewest=3, once=2.0).turns(took) == turns


def test_patience_of_so_many_seconds():
    assert [Patience.of(2.0).turns(took) for took in (0.01, 0.5, 1.5, 2.5)] == [50, 4, 2, 1]


def test_one_call_waits_and_returns_what_was_found():
    calls = []
    seconds, found = time_call(lambda: calls.append("call") or 7, lambda: calls.append("wait"))
    assert (calls, found) == (["call", "wait"], 7)
    assert seconds >= 0


def test_every_sample_waits():
    calls = []
    interleave({"a": lambda: calls.append("a")}, 2, finish=lambda: calls.append("wait"))
    assert calls == ["a", "wait"] * 3
