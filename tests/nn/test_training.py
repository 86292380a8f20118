"""The loss does what it is for: filters that stay on their part, at the same accuracy."""

import pytest

from benchmarks import interpretable


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_filters_stay_on_parts():
    measured = {}
    for name, weight in (("plain", 0.0), ("interpretable", 3.0)):
        model = interpretable.network(name == "interpretable")
        interpretable.train(model, 12, weight)
        measured[name] = interpretable.measure(model)
    plain, readable = measured["plain"], measured["interpretable"]
    assert min(plain["accuracy"], readable["accuracy"]) > 0.95
    assert readable["location instability"] < 0.8 * plain["location instability"]
    assert readable["share of the map near its peak"] > plain["share of the map near its peak"] + 0.03
