"""Killed processes, lost power, full and broken disks: what is committed stays, the rest is made anew, the same."""

import errno
import fcntl
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch

import fastcam.dataset
from fastcam.dataset import device_decoding, durable_files
from fastcam.dataset.durable_files import set_aside, sweep, write_once
from fastcam.dataset.table import read_shard
from tests.dataset import victim
from tests.dataset.disk import Disk
from tests.dataset.small import SETTINGS, contents, folder, network
from tests.support.tiers import covering, slow


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Sums differ in their last digit with the number of threads, and bytes with them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("source"), 10)


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    run(source, out)
    return contents(out)


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.dataset.victim"])
    return context


def run(source, out, **options):
    return fastcam.dataset.run(source, network(), out, **{**SETTINGS, **options})


def check_what_is_there(out):
    """No reader sees anything torn, and whatever counts as committed is as it was committed."""
    for shard in (out / "shards").glob("*.parquet"):
        read_shard(shard.read_bytes())
    if (out / "run.json").exists():
        assert fastcam.dataset.verify(out) == []
        maps = fastcam.dataset.open(out)
        assert len(maps) == sum(each.stop - each.start for each in maps.commits)


def check_goes_on(source, out, undisturbed, **options):
    done = run(source, out, **options)
    assert done.done == 10
    assert contents(out) == undisturbed


FEEDERS = {"processes": {"decode_in": "processes"}, "the device": {"decoder": "gpu"}}


@pytest.mark.parametrize("feeder", FEEDERS)
@pytest.mark.parametrize(("stage", "number", "after"), [("write", 2, False), ("link", 3, True)])
def test_killed_while_others_decode(source, processes, tmp_path, monkeypatch, feeder, stage, number, after):
    monkeypatch.setattr(device_decoding, "_has_nvjpeg", lambda device: True)
    out, options = tmp_path / "out", FEEDERS[feeder]
    run(source, tmp_path / "undisturbed", **options)
    process = processes.Process(target=victim.work, args=(source, out, stage, number, after), kwargs=options)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    check_what_is_there(out)
    check_goes_on(source, out, contents(tmp_path / "undisturbed"), **options)


@pytest.mark.parametrize(("stage", "number", "after"), covering(victim.STAGES, [1, 2, 3, 6], [False, True]))
def test_killed_at_every_stage_of_writing(source, undisturbed, processes, tmp_path, stage, after, number):
    out = tmp_path / "out"
    process = processes.Process(target=victim.work, args=(source, out, stage, number, after))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    check_what_is_there(out)
    check_goes_on(source, out, undisturbed)


@pytest.mark.parametrize("seed", [0, 1, *slow(*range(2, 6))])
def test_killed_at_any_time_again_and_again(source, undisturbed, processes, tmp_path, seed):
    out, chance = tmp_path / "out", random.Random(seed)
    for _ in range(3):
        process = processes.Process(target=victim.work, args=(source, out))
        process.start()
        time.sleep(chance.uniform(0.0, 0.4))
        process.kill()
        process.join()
        check_what_is_there(out)
    check_goes_on(source, out, undisturbed)


@pytest.mark.parametrize("seed", [*range(10), *slow(*range(10, 25))])
def test_power_loss(source, undisturbed, tmp_path, monkeypatch, seed):
    """At any moment: what was not brought to the disk is cut, zeroed or gone, names and data alike."""
    disk = Disk(tmp_path / "out")
    with monkeypatch.context() as patch:
        disk.watch(patch)
        run(source, tmp_path / "out")
    assert len(disk.operations) > 30
    chance = random.Random(seed)
    crashed = tmp_path / "crashed"
    moment = chance.randrange(len(disk.operations))
    disk.after_power_loss(moment, chance, crashed)
    promised = disk.promised(moment)
    there = contents(crashed)
    assert all(there.get(name) == undisturbed[name] for name in promised)
    check_goes_on(source, crashed, undisturbed)


@pytest.mark.parametrize(
    ("stage", "number", "code"),
    covering(["open", "write", "fsync", "link"], [1, 2, 3, 6], [errno.ENOSPC, errno.EIO, errno.EACCES]),
)
def test_disks_that_fail(source, undisturbed, tmp_path, monkeypatch, stage, code, number):
    out, original, calls = tmp_path / "out", getattr(os, stage), 0

    def failing(*arguments, **options):
        nonlocal calls
        if stage != "open" or str(arguments[0]).endswith(".tmp"):
            calls += 1
            if calls == number:
                raise OSError(code, os.strerror(code))
        return original(*arguments, **options)

    monkeypatch.setattr(os, stage, failing)
    with pytest.raises(OSError, match=f"{os.strerror(code)}.*out"):
        run(source, out)
    monkeypatch.undo()
    check_what_is_there(out)
    assert not list(out.rglob("*.tmp"))
    check_goes_on(source, out, undisturbed)


def test_short_writes(source, undisturbed, tmp_path, monkeypatch):
    original = os.write
    monkeypatch.setattr(os, "write", lambda file, data: original(file, data[: max(1, len(data) // 3)]))
    run(source, tmp_path / "out")
    assert contents(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("damage", ["cut", "zeroed", "one bit", "gone", "record", "record gone", "uncommitted"])
def test_damage_is_found_and_mended(source, undisturbed, tmp_path, damage):
    out = tmp_path / "out"
    run(source, out)
    shard, record = sorted((out / "shards").iterdir())[1], sorted((out / "commits").iterdir())[1]
    data = shard.read_bytes()
    middle = len(data) // 2
    changed = {"cut": data[:middle], "zeroed": bytes(len(data)), "uncommitted": data[:middle]}
    changed["one bit"] = data[:50] + bytes([data[50] ^ 1]) + data[51:]
    if damage in changed:
        shard.write_bytes(changed[damage])
    if damage == "gone":
        shard.unlink()
    if damage == "record":
        record.write_bytes(b"\0" * 100)
    if damage in ("record gone", "uncommitted"):
        record.unlink()
    if damage in ("record gone", "uncommitted"):
        assert fastcam.dataset.verify(out) == []  # it does not count
    else:
        ((span, reason),) = fastcam.dataset.verify(out)
        assert span == fastcam.dataset.Span(4, 8)
        assert "part-000000004-000000008" in reason
        with pytest.raises(ValueError, match=r"damaged|missing"):
            fastcam.dataset.open(out).mean_maps()
        assert len(fastcam.dataset.verify(out, repair=True)) == 1
        assert fastcam.dataset.verify(out) == []
    assert run(source, out).new == 4
    found = contents(out)
    assert {name: found[name] for name in undisturbed} == undisturbed
    assert all(name.endswith(".damaged") for name in found if name not in undisturbed)


def test_a_run_mends_what_shows_without_a_hash(source, undisturbed, tmp_path):
    out = tmp_path / "out"
    run(source, out)
    shard = sorted((out / "shards").iterdir())[0]
    shard.write_bytes(shard.read_bytes()[:-10])
    assert run(source, out).new == 4
    found = contents(out)
    assert {name: found[name] for name in undisturbed} == undisturbed


def test_write_once_leaves_what_is_there(tmp_path):
    assert write_once(tmp_path / "a", b"first")
    assert not write_once(tmp_path / "a", b"second")
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"first"
    assert set_aside(tmp_path / "a").read_bytes() == b"first"
    assert write_once(tmp_path / "a", b"second")


def test_only_the_dead_are_swept(tmp_path):
    (tmp_path / ".dead.tmp").write_bytes(b"half")
    with durable_files._temporary_file(tmp_path) as (alive, _):
        sweep(tmp_path)
        assert [each.name for each in tmp_path.iterdir()] == [alive.name]


def test_a_file_that_is_swept_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    """Another process may open the folder in between."""
    make, made = os.open, []

    def make_and_sweep(path, flags, *mode):
        descriptor = make(path, flags, *mode)
        if flags & os.O_EXCL:
            made.append(path)
            if len(made) < 3:
                sweep(tmp_path)
                assert not os.path.exists(path)
        return descriptor

    monkeypatch.setattr(os, "open", make_and_sweep)
    assert write_once(tmp_path / "file", b"data")
    assert len(made) == 3
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"data")]


def test_a_file_that_is_being_swept_is_made_again(tmp_path, monkeypatch):
    make, held = os.open, []

    def make_and_hold(path, flags, *mode):
        descriptor = make(path, flags, *mode)
        if flags & os.O_EXCL and not held:
            held.append(make(path, os.O_RDONLY))
            fcntl.flock(held[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor

    monkeypatch.setattr(os, "open", make_and_hold)
    assert write_once(tmp_path / "file", b"data")
    os.close(held[0])
    sweep(tmp_path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"data")]


def test_a_damaged_run_file_is_told(source, tmp_path):
    run(source, tmp_path / "out")
    (tmp_path / "out" / "run.json").write_bytes(b"{")
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError, match=r"run\.json' is damaged"):
        run(source, tmp_path / "out")
    assert contents(tmp_path / "out") == before
