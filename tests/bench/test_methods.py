"""The methods' benchmark: who takes part, who is refused, and that the tools agree where their definitions do."""

import time

import pytest
import torch
from torch import nn

import fastcam
from fastcam.bench import methods, peers
from fastcam.bench.contest import Case, Contestant, Setting, bare_forward, normalize, randomize_zeros, with_fastcam
from fastcam.bench.timing import Patience
from tests.support.networks import small_network

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = Patience.of(0.001)
TOOLS = {tool.name: tool for tool in peers.installed()}


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def at():
    torch.manual_seed(0)
    return Setting.of("small", small_network("gap"), torch.randn(1, 3, 28, 35), "body.3")


def tool(name, call):
    """A tool that has Grad-CAM, as `call` makes it of fastcam's."""

    def enter(case, at):
        (own,) = with_fastcam(case, at)
        return [Contestant(lambda: call(own.call()))]

    return peers.Tool(name, "1.0", {"grad_cam": enter})


def with_tools(monkeypatch, *tools):
    monkeypatch.setattr(methods, "installed", lambda: tools)


def test_every_method_is_a_case_in_the_registrys_order():
    names = [case.method for case in methods.every_case((224, 224))]
    assert names == [method.name for method in fastcam.list_methods()]
    assert [case.method for case in methods.every_case((224, 224), ("rise", "cam"))] == ["cam", "rise"]


@pytest.mark.parametrize(("size", "window"), [((224, 224), 32), ((9, 11), 1), ((4, 4), 1)])
def test_windows_fit_the_images(size, window):
    (case,) = methods.every_case(size, ("occlusion",))
    assert case.options == {"window": window, "stride": window}


def test_every_tool_has_methods_of_the_registry():
    for each in TOOLS.values():
        assert set(each.entrants) <= {method.name for method in fastcam.list_methods()}


@pytest.mark.parametrize(
    ("name", "method"), [(name, method) for name, each in TOOLS.items() for method in each.entrants]
)
def test_the_tools_agree_and_are_timed(at, name, method):
    (case,) = methods.every_case(at.size, (method,))
    rows = {row["tool"]: row for row in methods.measure(case, at, QUICK)}
    assert rows[name]["refused"] == ""
    assert 0 <= rows[name]["difference"] <= case.limit
    assert rows["fastcam"]["difference"] is None
    for row in rows.values():
        assert row["times_forward"] == pytest.approx(row["milliseconds"] / row["forward_milliseconds"])
        assert row["milliseconds"] > 0
        assert row["rounds"] >= 1


def test_a_tool_whose_map_differs_is_refused_and_never_timed(at, monkeypatch):
    calls = []
    wrong = tool("wrong", lambda maps: calls.append("wrong") or maps + 0.25)
    right = tool("right", lambda maps: calls.append("right") or maps + 1e-6)
    with_tools(monkeypatch, wrong, right)
    own, other, same = methods.measure(Case("grad_cam"), at, Patience(1.0, 7))
    assert (own["tool"], other["tool"], same["tool"]) == ("fastcam", "wrong", "right")
    assert calls.count("wrong") == 1
    assert calls.count("right") == 1 + 7
    assert other["difference"] == pytest.approx(0.25)
    assert other["refused"] == "differs from fastcam by 2.5e-01 of the range, more than 1e-04"
    assert other["milliseconds"] is other["times_forward"] is None
    assert same["difference"] == pytest.approx(1e-6, rel=0.2)
    assert (own["rounds"], other["rounds"], same["rounds"]) == (7, 0, 7)


def test_a_tool_that_cannot_be_compared_says_why(at, monkeypatch):
    def broken(_):
        raise KeyError("no such\nlayer")

    with_tools(
        monkeypatch,
        tool("broken", broken),
        tool("half", lambda maps: maps[:, ::2]),
        tool("lost", lambda maps: maps * float("nan")),
    )
    _, *rows = methods.measure(Case("grad_cam"), at, QUICK)
    reasons = {row["tool"]: row["refused"] for row in rows}
    assert "no such" in reasons["broken"]
    assert reasons["half"] == "returns (1, 14, 35) where fastcam returns (1, 28, 35)"
    assert reasons["lost"] == "differs from fastcam by nan of the range, more than 1e-04"


def test_tools_may_be_left_out_and_the_fastest_setting_takes_part(at, monkeypatch):
    def slow():
        torch.rand(2_000_000).sort()
        return maps

    (own,) = with_fastcam(Case("grad_cam"), at)
    maps = own.call()
    two = [Contestant(slow, setting="slow"), Contestant(lambda: maps, setting="quick")]
    with_tools(monkeypatch, peers.Tool("two", "1.0", {"grad_cam": lambda case, at: two}))
    assert [row["setting"] for row in methods.measure(Case("grad_cam"), at, QUICK)] == ["", "quick"]
    assert [row["tool"] for row in methods.measure(Case("grad_cam", without=("two",)), at, QUICK)] == ["fastcam"]


def test_another_way_of_our_own_is_compared_with_the_first(at, monkeypatch):
    def prepared(case, at):
        (own,) = with_fastcam(case, at)
        return [Contestant(lambda: own.call() + 0.5)]

    with_tools(monkeypatch)
    monkeypatch.setitem(methods.OWN, "fastcam prepared", prepared)
    own, other = methods.measure(Case("grad_cam"), at, QUICK)
    assert (own["tool"], own["refused"]) == ("fastcam", "")
    assert (other["tool"], other["difference"]) == ("fastcam prepared", pytest.approx(0.5))


def test_a_contestant_may_have_a_limit_of_its_own(at, monkeypatch):
    def rough(case, at):
        return [Contestant(with_fastcam(case, at)[0].call, finish=lambda maps: maps + 0.25, limit=0.3)]

    with_tools(monkeypatch)
    _, row = methods.measure(Case("grad_cam"), at, QUICK, {"rough": rough})
    assert (row["tool"], row["difference"], row["refused"]) == ("rough", pytest.approx(0.25), "")


def test_a_method_that_does_not_suit_the_model_says_so_alone(at):
    (row,) = methods.measure(Case("gmp_cam"), at, QUICK)
    assert "global max pooling" in row["refused"]
    assert row["difference"] is row["milliseconds"] is None


def test_a_map_without_a_range_compares_with_nothing():
    with pytest.raises(methods.RefusedError, match="no range"):
        methods.largest_difference(torch.ones(1, 3, 3), torch.ones(1, 3, 3))


def test_the_difference_is_a_share_of_each_images_range():
    reference = torch.tensor([[[0.0, 10.0]], [[0.0, 1.0]]])
    found = reference + torch.tensor([[[0.0, 1.0]], [[0.2, 0.0]]])
    assert methods.largest_difference(reference, found) == pytest.approx(0.2)


def test_maps_are_compared_at_the_size_of_the_images_and_in_their_range():
    maps = normalize(torch.tensor([[[2.0, 4.0]]]), (1, 4))
    assert maps.tolist() == [[[0.0, 0.25, 0.75, 1.0]]]


def test_the_logits_get_the_spread_and_the_model_stays_as_it_was(at):
    before = {name: value.clone() for name, value in at.model.state_dict().items()}
    wide = at.with_spread(500.0)
    with torch.inference_mode():
        # The biases are scaled along, so that the logits are multiples of what they were.
        assert float(wide.model(at.images).std()) == pytest.approx(500, rel=1e-4)
        factor = wide.model(at.images) / at.model(at.images)
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor))
    assert all(torch.equal(value, before[name]) for name, value in at.model.state_dict().items())


def test_the_class_is_one_whose_map_shows_something(at):
    assert at.layer == "body.3"
    assert len(at.targets) == len(at.images)
    highest = [fastcam.explain(at.model, at.images, "grad_cam", k, "body.3").native.max() for k in range(5)]
    assert highest[at.targets[0]] == max(highest)


def test_what_is_no_classifier_is_refused():
    with pytest.raises(ValueError, match=r"output is \(N, classes\); this model's is \(1, 4, 6, 6\)"):
        Setting.of("map", nn.Conv2d(3, 4, 3).eval(), torch.rand(1, 3, 8, 8), "")
    assert bare_forward(nn.Identity(), torch.ones(2))().tolist() == [1, 1]


def test_random_weights_get_statistics_that_tell_something():
    norm = randomize_zeros(nn.Sequential(nn.BatchNorm2d(3)))[0]
    assert norm.bias.abs().min() > 0
    assert norm.running_mean.abs().min() > 0
    mute = nn.Linear(400, 50)
    nn.init.zeros_(mute.weight)
    nn.init.ones_(mute.bias)
    assert float(randomize_zeros(mute).weight.std()) == pytest.approx(400**-0.5, rel=0.05)
    assert mute.bias.tolist() == [1] * 50


def test_a_slow_first_call_does_not_decide(at, monkeypatch):
    calls = []

    def call():
        time.sleep(0 if calls else 0.15)
        calls.append("call")
        return maps

    (own,) = with_fastcam(Case("grad_cam"), at)
    maps = own.call()
    with_tools(monkeypatch, peers.Tool("lazy", "1.0", {"grad_cam": lambda case, at: [Contestant(call)]}))
    _, row = methods.measure(Case("grad_cam"), at, Patience(0.1, 4, 2, once=0.1))
    assert row["rounds"] == 4
    assert len(calls) == 2 + 4
