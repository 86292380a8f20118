"""The long versions of the tests of durability and of damaged images: ``make soak``."""

import random
import resource

import pytest

import fastcam.dataset
from tests.dataset import test_decode, test_durability, victim
from tests.dataset.small import contents, folder
from tests.dataset.test_durability import _one_thread, processes, run, source, undisturbed  # noqa: F401 - fixtures

pytestmark = pytest.mark.soak


@pytest.mark.parametrize("seed", range(200))
def test_two_hundred_kills(source, undisturbed, processes, tmp_path, seed):  # noqa: F811 - fixtures
    chance = random.Random(seed)
    stage = chance.choice([*victim.STAGES, ""])
    if stage:
        test_durability.test_killed_at_every_stage_of_writing(
            source, undisturbed, processes, tmp_path, stage, chance.random() < 0.5, chance.randrange(1, 7)
        )
    else:
        test_durability.test_killed_at_any_time_again_and_again(source, undisturbed, processes, tmp_path, seed)


@pytest.mark.parametrize("seed", range(100, 200))
def test_a_hundred_power_losses(source, undisturbed, tmp_path, monkeypatch, seed):  # noqa: F811 - fixtures
    test_durability.test_power_loss(source, undisturbed, tmp_path, monkeypatch, seed)


def test_twenty_thousand_mutated_images(tmp_path):
    chance = random.Random(0)
    originals = test_decode.seeds()
    into = tmp_path / "in"
    into.mkdir()
    for index in range(20_000):
        data = test_decode.mutated(chance.choice(originals), chance)
        (into / f"{index:05d}.jpg").write_bytes(data)
    peaks = []

    def report(progress):
        if progress.commit is not None:
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    limits = fastcam.dataset.Limits(pixels=10**6)
    done = run(into, tmp_path / "out", report=report, limits=limits, shard_size=1000)
    assert done.done == 20_000
    assert 0 < done.failed < 20_000
    assert max(peaks) - peaks[1] < 100 * 1024  # kilobytes
    assert fastcam.dataset.verify(tmp_path / "out") == []


def test_the_folder_is_like_an_undisturbed_one_after_fifty_kills(processes, tmp_path):  # noqa: F811 - fixture
    many, chance = folder(tmp_path / "in", 200), random.Random(7)
    run(many, tmp_path / "whole")
    for _ in range(50):
        process = processes.Process(target=victim.work, args=(many, tmp_path / "out"))
        process.start()
        process.join(chance.uniform(0.1, 1.0))
        process.kill()
        process.join()
    run(many, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
