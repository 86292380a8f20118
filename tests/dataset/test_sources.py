"""Sources: the same images in the same order, wherever they lie, from any position."""

import io
import pickle
import tarfile

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fastcam.dataset
from fastcam.dataset import Limits
from fastcam.dataset.sources import source_of, webdataset
from tests.dataset.small import SETTINGS, folder, jpeg, network


def facts(source, start=0, stop=None):
    stop = len(source) if stop is None else stop
    return [(each.id, each.label, each.read(Limits())) for each in source.items(start, stop)]


def tar(path, members):
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def samples(first, count):
    return [
        member
        for index in range(first, first + count)
        for member in ((f"{index:04d}.jpg", jpeg(index)), (f"{index:04d}.cls", b"%d" % (index % 3)))
    ]


def check_any_part(source):
    whole = facts(source)
    assert len(whole) == len(source)
    for start in range(len(source)):
        for stop in range(start, len(source) + 1):
            assert facts(source, start, stop) == whole[start:stop]


def test_a_folder_of_classes(tmp_path):
    folder(tmp_path, 6)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.jpg").write_bytes(jpeg(9))
    found = source_of(str(tmp_path))
    expected = [(f"{'cats' if i < 3 else 'dogs'}/{i:03d}.jpg", "cats" if i < 3 else "dogs", jpeg(i)) for i in range(6)]
    assert facts(found) == expected
    check_any_part(found)


def test_a_flat_folder_has_no_labels(tmp_path):
    (tmp_path / "b.jpg").write_bytes(jpeg(1))
    (tmp_path / "a.JPG").write_bytes(jpeg(0))
    assert facts(source_of(tmp_path)) == [("a.JPG", None, jpeg(0)), ("b.jpg", None, jpeg(1))]


def test_lists_keep_their_order(tmp_path):
    folder(tmp_path, 4)
    paths = [str(each) for each in sorted(tmp_path.rglob("*.jpg"), reverse=True)]
    (tmp_path / "list.txt").write_text("\n".join(paths) + "\n")
    for source in (source_of(paths), source_of(str(tmp_path / "list.txt"))):
        assert [each[0] for each in facts(source)] == paths
        assert [each[2] for each in facts(source)] == [jpeg(i) for i in (3, 2, 1, 0)]
    with pytest.raises(ValueError, match="occurs twice"):
        source_of([paths[0], paths[0]])
    with pytest.raises(ValueError, match="empty"):
        source_of([])


def test_web_datasets(tmp_path):
    for number in range(3):
        tar(tmp_path / f"train-{number:03d}.tar", samples(4 * number, 4))
    expected = [(f"train-{i // 4:03d}.tar/{i:04d}", str(i % 3), jpeg(i)) for i in range(12)]
    for name in ("", "train-*.tar", "train-{000..002}.tar"):
        source = source_of(str(tmp_path / name))
        assert facts(source) == expected
    check_any_part(source)
    assert facts(source_of(str(tmp_path / "train-001.tar"))) == expected[4:8]


def test_members_that_are_no_plain_files_are_left_alone(tmp_path):
    path = tmp_path / "hostile.tar"
    with tarfile.open(path, "w") as file:
        for name, kind in (
            ("link.jpg", tarfile.SYMTYPE),
            ("hard.jpg", tarfile.LNKTYPE),
            ("pipe.jpg", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)
        for name in ("../../escape.jpg", "/root/absolute.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(jpeg(0))
            file.addfile(info, io.BytesIO(jpeg(0)))
    before = sorted(tmp_path.rglob("*"))
    found = facts(source_of(str(path)))
    assert [each[0] for each in found] == ["hostile.tar/../../escape", "hostile.tar//root/absolute"]
    assert {each[2] for each in found} == {jpeg(0)}
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("cut", [100, 600, 2000])
def test_damaged_tars_are_refused(tmp_path, cut):
    whole = tar(tmp_path / "whole.tar", samples(0, 3)).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:cut])
    with pytest.raises(ValueError, match=r"no uncompressed tar file|no pictures in the tar"):
        source_of(str(tmp_path / "cut.tar"))


def test_a_member_larger_than_the_limit_is_not_read(tmp_path):
    source = source_of(str(tar(tmp_path / "a.tar", samples(0, 1))))
    (item,) = source.items(0, 1)
    with pytest.raises(ValueError, match="more than"):
        item.read(Limits(bytes=10))


def parquet(path, first, count, **options):
    images = [{"bytes": jpeg(i), "path": f"{i}.jpg"} for i in range(first, first + count)]
    table = pa.table({"image": images, "label": [i % 3 for i in range(first, first + count)]})
    pq.write_table(table, path, **options)
    return path


def test_parquet_as_hugging_face_has_it(tmp_path):
    parquet(tmp_path / "train-0.parquet", 0, 7, row_group_size=3)
    parquet(tmp_path / "train-1.parquet", 7, 2)
    source = source_of(str(tmp_path))
    names = [f"train-0.parquet:{i}" for i in range(7)] + [f"train-1.parquet:{i}" for i in range(2)]
    assert facts(source) == [(name, str(i % 3), jpeg(i)) for i, name in enumerate(names)]
    check_any_part(source)
    assert [each.path for each in source.items(5, 8)] == ["5.jpg", "6.jpg", "7.jpg"]


def test_a_row_group_is_read_once(tmp_path, monkeypatch):
    parquet(tmp_path / "a.parquet", 0, 9, row_group_size=5)
    parquet(tmp_path / "b.parquet", 9, 4)
    source, read = source_of(str(tmp_path)), []
    batches = pq.ParquetFile.iter_batches

    def watched(file, *arguments, row_groups, **options):
        read.append(file.metadata.row_group(row_groups[0]).num_rows)
        return batches(file, *arguments, row_groups=row_groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    parts = [fact for start in range(0, 13, 2) for fact in facts(source, start, min(start + 2, 13))]
    assert read == [5, 4, 4]
    assert parts == facts(source)
    assert pickle.loads(pickle.dumps(source)).digest() == source.digest()
    read.clear()
    assert [each[0] for each in facts(source, 6, 8)] == [
        "a.parquet:6",
        "a.parquet:7",
    ]
    assert read == [4]


@pytest.mark.parametrize(("most", "calls"), [(1, 6), (4 * 2**20, 1), (2 * len(jpeg(0)) + 2048, None)])
def test_neighbours_in_a_tar_are_read_together(monkeypatch, most, calls):
    buffer = io.BytesIO()
    members = samples(0, 6)
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    memory = fsspec.filesystem("memory")
    memory.pipe("/tars/a.tar", buffer.getvalue())
    monkeypatch.setattr(webdataset, "MAX_BLOCK_BYTES", most)
    try:
        source, read, cat = source_of("memory://tars"), [], type(memory).cat_file

        def watched(system, path, start=None, end=None, **options):
            read.append((start, end))
            return cat(system, path, start=start, end=end, **options)

        monkeypatch.setattr(type(memory), "cat_file", watched)
        assert [data for _, _, data in facts(source)] == [jpeg(i) for i in range(6)]
        assert len(read) == calls if calls else 1 < len(read) < 6
        check_any_part(source)

        def failing(system, path, start=None, end=None, **options):
            if start <= source.samples[2][2] < end:
                raise OSError(5, "the disk is broken here")
            return cat(system, path, start=start, end=end, **options)

        monkeypatch.setattr(type(memory), "cat_file", failing)
        for index, item in enumerate(source.items(0, 6)):
            if index == 2:
                with pytest.raises(OSError, match="the disk is broken here"):
                    item.read(Limits())
            else:
                assert item.read(Limits()) == jpeg(index)
    finally:
        memory.rm("/tars", recursive=True)


def test_files_of_one_name_in_two_folders_stay_apart(tmp_path):
    for number, name in enumerate(("test", "train")):
        (tmp_path / "p" / name).mkdir(parents=True)
        (tmp_path / "t" / name).mkdir(parents=True)
        parquet(tmp_path / "p" / name / "0.parquet", 3 * number, 3)
        tar(tmp_path / "t" / name / "0.tar", samples(3 * number, 3))
    for kind, between in (("p", ".parquet:"), ("t", ".tar/000")):
        found = facts(source_of(str(tmp_path / kind)))
        ids = [f"test/0{between}{i}" for i in range(3)]
        ids += [f"train/0{between}{i + (3 if kind == 't' else 0)}" for i in range(3)]
        assert [each[0] for each in found] == ids
        assert [each[2] for each in found] == [jpeg(i) for i in range(6)]


def test_parquet_of_bare_bytes_and_of_none(tmp_path):
    pq.write_table(pa.table({"picture": [jpeg(0), None]}), tmp_path / "a.parquet")
    first, second = source_of(str(tmp_path / "a.parquet")).items(0, 2)
    assert first.read(Limits()) == jpeg(0)
    assert first.label is None
    with pytest.raises(ValueError, match="holds no bytes"):
        second.read(Limits())


def test_hostile_parquet(tmp_path):
    whole = parquet(tmp_path / "a.parquet", 0, 3).read_bytes()
    for name, data in (("cut", whole[:-20]), ("empty", b""), ("text", b"PAR1" + b"\0" * 50 + b"PAR1")):
        (tmp_path / f"{name}.parquet").write_bytes(data)
        with pytest.raises(ValueError, match="no Parquet file that can be read"):
            source_of(str(tmp_path / f"{name}.parquet"))
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "words.parquet")
    with pytest.raises(ValueError, match="must have one column of image bytes"):
        source_of(str(tmp_path / "words.parquet"))


def test_urls(tmp_path):
    memory = fsspec.filesystem("memory")
    for index in range(3):
        memory.pipe(f"/photos/birds/{index}.jpg", jpeg(index))
    try:
        source = source_of("memory://photos")
        assert facts(source) == [(f"birds/{i}.jpg", "birds", jpeg(i)) for i in range(3)]
        fastcam.dataset.run("memory://photos", network(), tmp_path / "out", **SETTINGS)
        assert list(fastcam.dataset.open(tmp_path / "out")) == [f"birds/{i}.jpg" for i in range(3)]
    finally:
        memory.rm("/photos", recursive=True)


def test_every_kind_gives_the_same_maps(tmp_path):
    folder(tmp_path / "folder", 5)
    tar(tmp_path / "a.tar", samples(0, 5))
    parquet(tmp_path / "a.parquet", 0, 5)
    columns = []
    kept = ["sha256", "target", "predicted", "score", "status", "map", "map_scale"]
    for name in ("folder", "a.tar", "a.parquet"):
        fastcam.dataset.run(tmp_path / name, network(), tmp_path / f"{name}.maps", **SETTINGS)
        table = fastcam.dataset.open(tmp_path / f"{name}.maps").dataset().to_table()
        columns.append(table.select(kept).to_pylist())
    assert columns[0] == columns[1] == columns[2]
    assert len(columns[0]) == 5


@pytest.mark.parametrize(
    ("source", "error", "sentence"),
    [
        ("/no/such/place", ValueError, "there is nothing at '/no/such/place'"),
        (7, TypeError, "`source` must be a path, a URL, a list of paths or a dataset"),
    ],
)
def test_what_is_no_source(source, error, sentence):
    with pytest.raises(error, match=sentence):
        source_of(source)


def test_an_empty_folder(tmp_path):
    with pytest.raises(ValueError, match=r"holds no pictures, \.tar files, \.parquet files"):
        source_of(str(tmp_path))


def test_a_folder_of_two_kinds_is_ambiguous(tmp_path):
    folder(tmp_path, 2)
    tar(tmp_path / "a.tar", samples(5, 2))
    with pytest.raises(ValueError, match=r"holds pictures and \.tar files: name one kind with a glob"):
        source_of(str(tmp_path))
    assert [each[0] for each in facts(source_of(f"{tmp_path}/*.tar"))] == ["a.tar/0005", "a.tar/0006"]
    assert [each[2] for each in facts(source_of(f"{tmp_path}/*/*.jpg"))] == [jpeg(0), jpeg(1)]


def test_the_digest_tells_datasets_apart(tmp_path):
    folder(tmp_path, 4)
    before = source_of(str(tmp_path)).digest()
    assert source_of(str(tmp_path)).digest() == before
    (tmp_path / "cats" / "000.jpg").rename(tmp_path / "cats" / "000b.jpg")
    assert source_of(str(tmp_path)).digest() != before
