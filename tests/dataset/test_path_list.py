"""Lists of a million names in little memory."""

import hashlib
import tracemalloc

import pytest

from fastcam.dataset.sources import path_list, source_of
from fastcam.dataset.sources.base import digest_lines
from fastcam.dataset.sources.path_list import PathList

NAMES = ["a.jpg", "", "b/ä.png", "\udce4 from a folder in no encoding.jpg", *(f"c/{i}.jpg" for i in range(9000))]


def test_a_list_of_names():
    packed = PathList(iter(NAMES))
    assert len(packed) == len(NAMES)
    assert list(packed) == NAMES
    assert [packed[i] for i in (0, 3, len(NAMES) - 1)] == [NAMES[0], NAMES[3], NAMES[-1]]
    assert len(PathList([])) == 0


@pytest.mark.parametrize("count", [0, 1, 2, path_list.BLOCK, path_list.BLOCK + 1, len(NAMES)])
def test_the_digest_is_that_of_all_names_together(count):
    assert PathList(NAMES[:count]).digest() == digest_lines(NAMES[:count])
    assert digest_lines(["a", "b"]) == hashlib.sha256(b"a\0b").hexdigest()


def test_a_name_that_occurs_twice():
    with pytest.raises(ValueError, match=r"image id 'c/7\.jpg' occurs twice in the source: ids must be unique"):
        PathList([*NAMES, "c/7.jpg"])


def test_equal_hashes_are_no_equal_names(monkeypatch):
    monkeypatch.setattr(path_list, "hash", len, raising=False)
    assert len(PathList(["ab", "cd", "ef"])) == 3
    with pytest.raises(ValueError, match="'cd' occurs twice"):
        PathList(["ab", "cd", "ef", "cd"])


def test_memory_of_a_long_list():
    paths = (f"/photographs/of/{i % 1000}/{i:08d}.jpg" for i in range(100_000))
    tracemalloc.start()
    source = source_of_iterable(paths)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source) == 100_000
    assert held < 100_000 * 50  # the 31 characters of a path, and 8 bytes
    assert peak < 100_000 * 80


def source_of_iterable(paths):
    return type(source_of(["a.jpg"])).from_list(paths)


def test_links_and_hidden_files(tmp_path):
    """Links to files are files; links to folders are not followed, since they may lead in a circle."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_bytes(b"x")
    (tmp_path / "a.jpg").write_bytes(b"y")
    (tmp_path / ".hidden.jpg").write_bytes(b"z")
    (tmp_path / "a" / "circle").symlink_to(tmp_path)
    (tmp_path / "a" / "link.jpg").symlink_to(tmp_path / "a.jpg")
    assert [item.id for item in source_of(tmp_path).items(0, 3)] == ["a/link.jpg", "a/x.jpg", "a.jpg"]


def test_a_relative_path_is_read_from_where_the_program_runs(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    (item,) = source_of(["a.jpg"]).items(0, 1)
    assert (item.id, item.path) == ("a.jpg", str(tmp_path / "a.jpg"))
    (item,) = source_of([f"file://{tmp_path}/a.jpg"]).items(0, 1)
    assert item.path == str(tmp_path / "a.jpg")
