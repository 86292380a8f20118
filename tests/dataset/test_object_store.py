"""Datasets in an object store, over HTTP to a real server of its own process: the same maps, one request an image."""

import socket
import subprocess
import sys
import threading
import time
from collections import Counter

import fsspec
import pytest
import s3fs

import fastcam.dataset
from fastcam.dataset import Limits, Span, read_ahead
from fastcam.dataset.read_ahead import ReadAhead
from fastcam.dataset.sources import Item, remote, source_of
from fastcam.dataset.sources.remote import UnreachableError
from tests.dataset.small import SETTINGS, contents, folder, network
from tests.dataset.test_sources import parquet, samples, tar

pytestmark = pytest.mark.usefixtures("one_thread")


class Server:
    """An S3 server in memory."""

    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    def start(self):
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the server did not start")

    def stop(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server():
    server = Server()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_MAX_ATTEMPTS", "1"),
            ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}"),
        ):
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield server
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def store(server):
    store = fsspec.filesystem("s3")
    store.mkdir("bucket")
    yield store
    store.rm("bucket", recursive=True)
    store.invalidate_cache()


def upload(store, path, name):
    """A file or a folder, below the bucket."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            store.pipe(
                f"bucket/{name}/{file.relative_to(path)}" if path.is_dir() else f"bucket/{name}", file.read_bytes()
            )
    return f"s3://bucket/{name}"


def rows(out):
    """All that does not depend on where the images lie."""
    return fastcam.dataset.open(out).dataset().to_table().drop_columns(["path"]).to_pylist()


@pytest.mark.parametrize("kind", ["folder", "list", "tar files", "parquet files"])
def test_the_same_maps_as_of_local_files(tmp_path, store, kind):
    local = tmp_path / "in"
    folder(local / "pictures", 10)
    if kind == "folder":
        here, there = local / "pictures", upload(store, local / "pictures", "pictures")
    elif kind == "list":
        url = upload(store, local / "pictures", "pictures")
        there = tmp_path / "there.txt"
        there.write_text("\n".join(f"{url}/{name}" for name in source_of(local / "pictures").names))
        here = local / "pictures"
    elif kind == "tar files":
        for number in (0, 1):
            upload(store, tar(local / f"{number}.tar", samples(5 * number, 5)), f"tars/{number}.tar")
        here, there = str(local / "{0..1}.tar"), "s3://bucket/tars/{0..1}.tar"
    else:
        upload(store, parquet(local / "a.parquet", 0, 10, row_group_size=4), "tables/a.parquet")
        here, there = local / "a.parquet", "s3://bucket/tables/a.parquet"
    for source, out in ((here, "here"), (there, "there")):
        fastcam.dataset.run(source, network(), tmp_path / out, **SETTINGS)
    found, expected = rows(tmp_path / "there"), rows(tmp_path / "here")
    if kind == "list":  # whose ids are its lines, and which has no labels
        found = [{**row, "image_id": row["image_id"].removeprefix("s3://bucket/pictures/")} for row in found]
        expected = [{**row, "label": None} for row in expected]
    assert found == expected
    assert len(found) == 10


def test_one_request_an_image_and_nothing_remembered(tmp_path, store, monkeypatch):
    url, calls, call = upload(store, folder(tmp_path / "in", 10), "pictures"), Counter(), s3fs.S3FileSystem._call_s3

    async def counted(self, method, *arguments, **options):
        calls[method] += 1
        return await call(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    source = source_of(url)
    assert not any("pictures" in name for name in store.dircache)
    calls.clear()
    fastcam.dataset.run(source, network(), tmp_path / "out", **SETTINGS)
    assert calls == {"get_object": 10}


def test_images_that_cannot_be_read(tmp_path, store):
    url = upload(store, folder(tmp_path / "in", 6), "pictures")
    store.pipe("bucket/pictures/dogs/large.jpg", b"x" * 5000)
    store.pipe("bucket/pictures/dogs/nothing.jpg", b"")
    source = source_of(url)
    store.rm("bucket/pictures/cats/001.jpg")
    limits = Limits(bytes=4000)
    done = fastcam.dataset.run(source, network(), tmp_path / "out", limits=limits, **SETTINGS)
    statuses = {row["image_id"]: row["status"] for row in rows(tmp_path / "out")}
    assert done.failed == 3
    assert statuses["dogs/large.jpg"] == "the file has 5,000 bytes, more than 4,000"
    assert statuses["dogs/nothing.jpg"] != "ok"
    assert "not exist" in statuses["cats/001.jpg"]
    assert Counter(statuses.values())["ok"] == 5


def test_a_store_that_goes_away_ends_the_run_and_no_image(tmp_path, server, store, monkeypatch):
    """The committed shards stay, and the same call goes on when it is back."""
    monkeypatch.setattr(remote, "PAUSES", (0.01,))
    pictures = folder(tmp_path / "in", 10)
    url = upload(store, pictures, "pictures")
    source = source_of(url)
    fastcam.dataset.run(source, network(), tmp_path / "whole", **SETTINGS)

    def stop(progress):
        if progress.commit is not None:
            server.stop()

    monkeypatch.setattr(read_ahead, "READERS", 1)
    monkeypatch.setattr(read_ahead, "MAX_AHEAD", 1)
    monkeypatch.setattr(store, "retries", 1)
    try:
        with pytest.raises(UnreachableError, match="does not answer"):
            fastcam.dataset.run(
                source, network(), tmp_path / "out", report=stop, **{**SETTINGS, "shard_size": 1, "batch_size": 1}
            )
        kept = contents(tmp_path / "out")
        assert any(name.startswith("commits/") for name in kept)
    finally:
        server.start()
    store.mkdir("bucket")
    upload(store, pictures, "pictures")
    assert all(row["status"] == "ok" for row in rows(tmp_path / "out"))
    fastcam.dataset.run(source, network(), tmp_path / "out", **{**SETTINGS, "shard_size": 1, "batch_size": 1})
    assert kept.items() <= contents(tmp_path / "out").items()
    assert [row["image_id"] for row in rows(tmp_path / "out")] == [row["image_id"] for row in rows(tmp_path / "whole")]


def test_killed_and_resumed(tmp_path, store):
    """kill -9 of the command line, in the middle; the same command makes the same bytes as one that was left alone."""
    url = upload(store, folder(tmp_path / "in", 60), "pictures")
    options = ["--model", "tests.dataset.small:network", "--size", "16", "--shard-size", "2", "--layer", "features"]

    def start(out):
        program = [sys.executable, "-c", "from fastcam.cli import main; main()", "map", url]
        command = [*program, *options, "--device", "cpu", "--out", str(tmp_path / out)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    whole = start("whole")
    assert whole.wait(300) == 0, whole.stderr.read().decode()
    victim = start("out")
    while not list((tmp_path / "out" / "commits").glob("*.json")):
        assert victim.poll() is None
        time.sleep(0.002)
    victim.kill()
    victim.wait()
    assert start("out").wait(300) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


class Slow:
    """A source whose reads wait, and which counts how many do at a time."""

    is_remote = True

    def __init__(self, count, seconds=0.02, size=1):
        self.count, self.seconds, self.size = count, seconds, size
        self.lock, self.now, self.most, self.read = threading.Lock(), 0, 0, 0

    def __len__(self):
        return self.count

    def digest(self):
        return "slow"

    def items(self, start, stop):
        for index in range(start, stop):
            if index == 40:
                raise RuntimeError("broken listing")
            yield Item(str(index), str(index), None, lambda limits, index=index: self._read(index))

    def _read(self, index):
        with self.lock:
            self.now += 1
            self.read += 1
            self.most = max(self.most, self.now)
        time.sleep(self.seconds * (1 + index % 3))
        with self.lock:
            self.now -= 1
        return bytes(self.size) + str(index).encode()


def test_many_are_read_at_once_and_in_order():
    source, spans = Slow(40), [Span(0, 15), Span(15, 16), Span(20, 40)]
    with ReadAhead(source, spans, Limits()) as ahead:
        for span in spans:
            found = [(item.id, item.read(Limits())) for item in ahead.items(span.start, span.stop)]
            assert found == [(str(index), b"\0" + str(index).encode()) for index in range(span.start, span.stop)]
    assert source.most > 8


def test_no_more_bytes_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(read_ahead, "MAX_BYTES", 1000)
    source = Slow(40, 0.001, size=400)
    with ReadAhead(source, [Span(0, 40)], Limits()) as ahead:
        items = ahead.items(0, 40)
        first = next(items)
        time.sleep(0.5)
        assert source.read <= 3 + read_ahead.READERS
        assert first.read(Limits()).endswith(b"0")
        assert [item.read(Limits())[400:] for item in items] == [str(index).encode() for index in range(1, 40)]


def test_errors_of_the_source_and_what_is_not_wanted_any_more():
    with ReadAhead(Slow(50), [Span(0, 50)], Limits()) as ahead:
        items = ahead.items(0, 50)
        for _ in range(40):
            next(items)
        with pytest.raises(RuntimeError, match="broken listing"):
            next(items)
    before = threading.active_count()
    with ReadAhead(Slow(40), [Span(0, 40)], Limits()) as ahead:
        next(ahead.items(0, 40))
    for _ in range(200):
        if threading.active_count() <= before:
            break
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_a_package_that_is_missing_is_named(tmp_path):
    program = "import sys; sys.modules['s3fs'] = None; from fastcam.cli import main; main()"
    options = ["s3://bucket/pictures", "--model", "tests.dataset.small:network", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", program, "map", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "s3fs" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("url", ["s3://bucket/pictures", "s3://bucket/pictures.txt", "s3://bucket/{0..1}.parquet"])
def test_a_store_that_is_not_there(tmp_path, server, monkeypatch, url):
    """Its library has errors of its own types: they become a sentence."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(OSError, match=r"cannot be read: .*[Cc]onnect"):
            source_of(url)
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
