"""What a run waited for, and what its stages could do."""

import json
import tempfile
import time

import pytest
import torch

import fastcam.dataset
from fastcam.dataset import Stages, api, runner
from fastcam.dataset.loading import LoadedImage
from tests.cli.command_line import run as command
from tests.dataset.nodes import Slow, as_kind
from tests.dataset.small import SETTINGS, folder, network
from tests.support.conv_net import ConvNet

pytestmark = pytest.mark.usefixtures("one_thread")
PAUSE = 0.1


class Pausing:
    """Samples that take a while."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(PAUSE)
        return torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(index))


def run(source, out, model=None, **options):
    return fastcam.dataset.run(source, model or network(), out, **{**SETTINGS, **options}).stages


@pytest.mark.parametrize(
    ("seconds", "limit"),
    [
        ({"explain": 9.0, "waited_for_loading": 0.5, "waited_for_writing": 0.4}, "explaining"),
        ({"explain": 8.0, "waited_for_loading": 1.5, "waited_for_writing": 0.5}, "loading"),
        ({"explain": 2.0, "waited_for_loading": 1.0, "waited_for_writing": 3.0}, "writing"),
    ],
)
def test_the_limit_is_what_the_others_wait_for(seconds, limit):
    assert Stages(images=10, **seconds).limit == limit
    assert Stages(**seconds).limit is None  # nothing was explained


def test_rates_are_those_of_each_stage_alone():
    stages = Stages(4, images=100, written=50, read=2.0, decode=8.0, explain=5.0, write=0.5)
    assert stages.rates == {"read": 200.0, "decode": 50.0, "explain": 20.0, "write": 100.0}
    assert Stages().rates == {}


def test_stages_of_processes_at_the_same_time():
    one = Stages(2, images=10, written=8, read=1.0, decode=2.0, explain=4.0, write=1.0, waited_for_loading=1.0)
    two = Stages(2, images=30, written=24, read=1.0, decode=2.0, explain=4.0, write=3.0, waited_for_loading=0.2)
    both = Stages.together([one, two])
    assert both == Stages(4, 40, 32, 2.0, 4.0, 0.0, 8.0, 4.0, 1.2, 0.0, processes=2)
    assert both.rates == {"read": 80.0, "decode": 40.0, "explain": 10.0, "write": 16.0}
    assert both.limit == "loading"


def test_seconds_of_images_are_added_and_forgotten():
    stages = Stages(2)
    stages.add([LoadedImage(None, None, None, None, seconds=(1.0, 2.0, 3.0))] * 2)
    assert (stages.images, stages.read, stages.decode, stages.preprocess) == (2, 2.0, 4.0, 6.0)
    stages.start_again()
    assert stages == Stages(2)


def test_a_slow_source_is_the_limit(tmp_path):
    stages = run(Pausing(), tmp_path / "out", workers=2)
    assert stages.limit == "loading"
    assert stages.images == 12 - SETTINGS["batch_size"]  # the first batch is not counted
    assert stages.rates["read"] <= 2 / PAUSE
    assert "decode" not in stages.rates or stages.decode < stages.read


def test_a_slow_model_is_the_limit(tmp_path):
    stages = run(folder(tmp_path / "in", 12), tmp_path / "out", as_kind(Slow))
    assert stages.limit == "explaining"
    assert stages.rates["explain"] <= SETTINGS["batch_size"] / Slow.seconds
    assert {"read", "decode", "preprocess", "explain", "write"} == set(stages.rates)


class SlowAtFirst(ConvNet):
    """Takes two seconds over its first images, as a model does that is compiled with them."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "is_warm"):
            self.is_warm = True
            time.sleep(2)
        return super().forward(images)


def test_the_first_batch_is_not_counted(tmp_path):
    assert run(folder(tmp_path / "in", 12), tmp_path / "out", as_kind(SlowAtFirst)).explain < 2


def test_a_slow_disk_is_the_limit(tmp_path, monkeypatch):
    commit = runner.Store.commit
    monkeypatch.setattr(runner.Store, "commit", lambda *arguments: time.sleep(0.3) or commit(*arguments))
    stages = run(folder(tmp_path / "in", 12), tmp_path / "out")
    assert stages.limit == "writing"
    assert stages.rates["write"] <= SETTINGS["shard_size"] / 0.3
    assert stages.written == 12


def test_a_plan_keeps_nothing(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    stages = fastcam.dataset.plan(folder(tmp_path / "in", 12), network(), **SETTINGS)
    assert stages.images == 9
    assert stages.limit
    assert not list(temporary.iterdir())
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_plan_has_batches_as_large_as_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(api, "PLAN_SHARD_SIZE", 2)
    stages = fastcam.dataset.plan(folder(tmp_path / "in", 12), network(), **{**SETTINGS, "batch_size": 6})
    assert stages.images == 6


def test_a_plan_ends_in_time():
    """A source that would take ten minutes."""

    class Endless(Pausing):
        def __len__(self) -> int:
            return 12_000

    start = time.monotonic()
    stages = fastcam.dataset.plan(Endless(), network(), seconds=0.5, **{**SETTINGS, "workers": 1})
    assert stages.limit == "loading"
    assert time.monotonic() - start < 60


def test_a_plan_of_too_few_images(tmp_path):
    assert fastcam.dataset.plan(folder(tmp_path / "in", 2), network(), **SETTINGS).limit is None


@pytest.mark.parametrize("name", ["out", "report", "ray"])
def test_what_a_plan_does_not_take(tmp_path, name):
    with pytest.raises(ValueError, match=f"keeps nothing: `{name}` is not possible"):
        fastcam.dataset.plan(folder(tmp_path / "in", 2), network(), **SETTINGS, **{name: "x"})


@pytest.mark.parametrize("options", [{}, {"devices": ["cpu", "cpu"]}])
def test_the_folder_keeps_what_the_last_run_said(tmp_path, options):
    source, out = folder(tmp_path / "in", 12), tmp_path / "out"
    done = fastcam.dataset.run(source, network(), out, **SETTINGS, **options)
    kept = fastcam.dataset.open(out).last_run
    assert kept == json.loads(json.dumps(done.summary()))
    assert (kept["images"], kept["failed"]) == (12, 0)
    assert kept["images_a_second"] == pytest.approx(12 / kept["seconds"])
    assert kept["limit"] == done.stages.limit
    assert kept["images_a_second_alone"] == done.stages.rates
    lines = command("stats", str(out)).stdout
    assert "12 images in" in lines
    before = (out / "last-run.json").read_bytes()
    assert fastcam.dataset.run(source, network(), out, **SETTINGS, **options).new == 0
    assert (out / "last-run.json").read_bytes() == before  # a run that makes nothing has nothing to say
    (out / "last-run.json").write_bytes(b"{")
    assert fastcam.dataset.open(out).last_run is None
    assert "last run" not in command("stats", str(out)).stdout


def test_models_that_share_a_pass_keep_it_each(tmp_path):
    source = folder(tmp_path / "in", 5)
    fastcam.dataset.run(source, {"a": network(), "b": network(-1)}, tmp_path / "out", **SETTINGS)
    kept = [fastcam.dataset.open(tmp_path / "out" / name).last_run for name in "ab"]
    assert kept[0] == kept[1]
    assert kept[0]["images"] == 5
