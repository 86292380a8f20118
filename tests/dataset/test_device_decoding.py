"""Decoding on the device of the model, with the CPU as that device: the same code, which really decodes there."""

import io
import random
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

import fastcam.dataset
from fastcam.classifiers.preprocessing import Preprocessing
from fastcam.dataset import device_decoding
from fastcam.dataset.decode import Limits, decode_pixels, is_for_device
from fastcam.dataset.device_decoding import DeviceDecoder
from fastcam.dataset.jpeg_header import is_upright
from fastcam.dataset.loading import Loader
from fastcam.dataset.records import Span
from fastcam.dataset.sources import Item
from tests.dataset.small import PREPROCESSING, SETTINGS, contents, folder, jpeg, network, picture
from tests.dataset.test_decode import mutated
from tests.support.networks import efficientnet_lite0

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
GREY = Preprocessing(18, (16, 16), mean=(0.4,), std=(0.3,))


@pytest.fixture
def on_cpu(monkeypatch):
    """The CPU counts as a device that decodes."""
    monkeypatch.setattr(device_decoding, "_has_nvjpeg", lambda device: True)


def encoded(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture("RGB", (40, 31)), exif=exif)


def bomb():
    """A whole file whose header says 60,000 x 60,000."""
    data = bytearray(jpeg(0))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    return bytes(data)


WHOLE = encoded(picture("RGB", (50, 40)))
FOR_DEVICE = {
    "a photograph": jpeg(1),
    "progressive": encoded(picture("RGB", (50, 40)), progressive=True),
    "grey": encoded(picture("L", (50, 40))),
    "4:4:4": encoded(picture("RGB", (50, 40)), subsampling=0),
    "upright by its metadata": turned(1),
}
FOR_PROCESSOR = {
    **{f"orientation {number}": turned(number) for number in range(2, 9)},
    "CMYK": encoded(picture("CMYK", (50, 40))),
    "PNG": encoded(picture("RGBA", (50, 40)), "PNG"),
    "16 bits": encoded(picture("I;16", (50, 40)), "PNG"),
    "truncated": WHOLE[:-200],
    "something behind the picture": WHOLE + b"text",
    "damaged metadata": WHOLE[:2] + b"\xff\xe1\x00\x10Exif\0\0" + b"\xff" * 8 + WHOLE[2:],
    "empty": b"",
    "no picture": b"no picture",
}


@pytest.mark.parametrize("name", [*FOR_DEVICE, *FOR_PROCESSOR])
def test_who_decodes(name):
    assert is_for_device({**FOR_DEVICE, **FOR_PROCESSOR}[name], Limits()) == (name in FOR_DEVICE)


def test_a_bomb_reaches_no_decoder(on_cpu, monkeypatch):
    monkeypatch.setattr(device_decoding, "find_decode_jpeg", lambda: pytest.fail("decoded"))
    loader = Loader(PREPROCESSING, Limits(), "gpu", pixels=True)
    found = loader(Item("a", "a", None, lambda limits: bomb()))
    assert found.tensor is None
    assert "3,600,000,000 pixels, more than 50,000,000" in found.reason


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_as_in_the_metadata(orientation):
    assert is_upright(turned(orientation)) == (orientation == 1)


KINDS = [
    PREPROCESSING,
    Preprocessing(20, (20, 18), interpolation="bicubic"),
    Preprocessing(40, (40, 40)),
    Preprocessing(30, (30, 30), keep_aspect=False),
]


@pytest.mark.parametrize("preprocessing", KINDS)
@pytest.mark.parametrize("name", FOR_DEVICE)
def test_pixels_are_those_of_the_processor(name, preprocessing):
    planes = torch.from_numpy(decode_pixels(FOR_DEVICE[name], Limits(), "torchcodec")).permute(2, 0, 1)
    others = [planes.flip(0), planes[:, :-3, :-5], planes.transpose(1, 2)]
    found = preprocessing.pixels_of_planes([planes, *others])
    for one, other in zip(found, [planes, *others], strict=True):
        assert torch.equal(one, preprocessing.pixels(other.permute(1, 2, 0).contiguous().numpy()))


def loaded(contents, loader):
    return [
        loader(Item(str(number), str(number), None, lambda limits, data=data: data))
        for number, data in enumerate(contents)
    ]


def test_groups_keep_their_order_and_what_cannot_be_decoded_is_said():
    decoder = DeviceDecoder(CPU, (PREPROCESSING, KINDS[1]), Limits())
    files = [*FOR_DEVICE.values(), *FOR_PROCESSOR.values()] * 2
    random.Random(0).shuffle(files)
    loader = Loader(PREPROCESSING, Limits(), "gpu", more=(KINDS[1],), pixels=True)
    plain = Loader(PREPROCESSING, Limits(), "torchcodec", more=(KINDS[1],), pixels=True)
    images = loaded(files, loader)
    assert sum(image.is_encoded for image in images) == 2 * len(FOR_DEVICE)
    for group in (1, 3, 100):
        spans = [Span(number // 10 * 10, number // 10 * 10 + 10) for number in range(len(images))]
        kept, found = zip(*decoder.ahead(zip(spans, images, strict=True), group), strict=True)
        assert list(kept) == spans
        for one, other in zip(found, loaded(files, plain), strict=True):
            assert (one.item.id, one.sha256, one.reason, one.size) == (
                other.item.id,
                other.sha256,
                other.reason,
                other.size,
            )
            assert (one.tensor is None) == (other.tensor is None)
            if other.tensor is not None:
                for seen, expected in zip((one.tensor, *one.more), (other.tensor, *other.more), strict=True):
                    assert torch.equal(seen, expected)


def test_one_file_that_fails_costs_no_other(monkeypatch):
    """A decoder that fails for a group gets one file after the other; what it refuses the processor decodes."""
    decode, calls = device_decoding.find_decode_jpeg(), []
    refused = encoded(picture("L", (50, 40)))

    def decode_some(files, **options):
        calls.append(len(files))
        if any(bytes(file.numpy().tobytes()) == refused for file in files):
            raise RuntimeError("this device does not decode it")
        return decode(files, **options)

    monkeypatch.setattr(device_decoding, "find_decode_jpeg", lambda: decode_some)
    loader = Loader(PREPROCESSING, Limits(), "gpu", pixels=True)
    images = loaded([jpeg(0), refused, jpeg(1)], loader)
    found = DeviceDecoder(CPU, (PREPROCESSING,), Limits())(images)
    assert calls == [3, 1, 1, 1]
    for image, data in zip(found, [jpeg(0), refused, jpeg(1)], strict=True):
        assert torch.equal(image.tensor, PREPROCESSING.pixels(decode_pixels(data, Limits(), "torchcodec")))


def test_few_pixels_at_a_time(monkeypatch):
    monkeypatch.setattr(device_decoding, "MAX_PIXELS", 7000)  # photographs of 60 x 50
    images = loaded([jpeg(index) for index in range(7)], Loader(PREPROCESSING, Limits(), "gpu", pixels=True))
    assert [len(portion) for portion in device_decoding._portions(images)] == [2, 2, 2, 1]
    found = DeviceDecoder(CPU, (PREPROCESSING,), Limits())(images)
    monkeypatch.undo()
    for one, other in zip(found, DeviceDecoder(CPU, (PREPROCESSING,), Limits())(images), strict=True):
        assert torch.equal(one.tensor, other.tensor)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("too much shared memory")]
)
def test_what_a_device_refuses_is_the_processors_work(monkeypatch, error):
    def refuse(*arguments):
        raise error

    monkeypatch.setattr(Preprocessing, "pixels_of_planes", refuse)
    images = loaded([jpeg(0), jpeg(1)], Loader(PREPROCESSING, Limits(), "gpu", pixels=True))
    for number, found in enumerate(DeviceDecoder(CPU, (PREPROCESSING,), Limits())(images)):
        assert torch.equal(found.tensor, PREPROCESSING.pixels(decode_pixels(jpeg(number), Limits(), "torchcodec")))


def run(source, out, model=None, **options):
    return fastcam.dataset.run(source, model or network(), out, **{**SETTINGS, **options})


def mixed_folder(path):
    folder(path, 10)
    for name, data in {**FOR_DEVICE, **FOR_PROCESSOR, "bomb": bomb()}.items():
        (path / "dogs" / f"{name.replace(' ', '_').replace(':', '')}.jpg").write_bytes(data)
    return path


@pytest.mark.parametrize("decode_in", ["threads", "processes"])
def test_runs_say_the_same_of_every_image(on_cpu, tmp_path, decode_in):
    source = mixed_folder(tmp_path / "in")
    run(source, tmp_path / "cpu", decoder="torchcodec")
    run(source, tmp_path / "gpu", decoder="gpu", decode_in=decode_in)
    expected, found = (fastcam.dataset.open(tmp_path / name).dataset().to_table() for name in ("cpu", "gpu"))
    for column in ("image_id", "label", "sha256", "status"):
        assert found[column].to_pylist() == expected[column].to_pylist()
    scores = [np.array(table["score"].to_pylist(), float) for table in (found, expected)]
    np.testing.assert_allclose(*scores, atol=1e-6)
    assert fastcam.dataset.open(tmp_path / "gpu").identity["decoder"] == "gpu"
    with pytest.raises(ValueError, match="decoder"):
        run(source, tmp_path / "gpu", decoder="torchcodec")


def test_runs_resume_and_make_the_same_bytes(on_cpu, tmp_path):
    source = mixed_folder(tmp_path / "in")
    run(source, tmp_path / "whole", decoder="gpu")

    def interrupt(progress):
        if progress.commit is not None and progress.done > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", decoder="gpu", report=interrupt)
    done = run(source, tmp_path / "out", decoder="gpu")
    assert 0 < done.new < done.total
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_several_models_see_each_photograph_in_their_own_way(on_cpu, tmp_path):
    source = mixed_folder(tmp_path / "in")
    models, kinds = {"a": network(), "b": network(-1)}, {"a": PREPROCESSING, "b": KINDS[1]}
    run(source, tmp_path / "both", models, preprocessing=kinds, decoder="gpu")
    for name, model in models.items():
        run(source, tmp_path / name, model, preprocessing=kinds[name], decoder="gpu")
        assert contents(tmp_path / "both" / name) == contents(tmp_path / name)


def test_what_a_device_cannot_resize_the_processor_makes(on_cpu, tmp_path):
    source = folder(tmp_path / "in", 4)
    for number, preprocessing in enumerate([GREY, Preprocessing(18, (16, 16), interpolation="lanczos")]):
        loader = Loader(preprocessing, Limits(), "gpu", pixels=True)
        (image,) = loaded([jpeg(0)], loader)
        assert image.tensor.shape == (16, 16, len(preprocessing.mean))
        if number:
            run(source, tmp_path / "out", preprocessing=preprocessing, decoder="gpu")


def test_mutated_files_are_pictures_or_refused():
    chance, loader = random.Random(3), Loader(PREPROCESSING, Limits(pixels=10**6), "gpu", pixels=True)
    plain = Loader(PREPROCESSING, Limits(pixels=10**6), "torchcodec", pixels=True)
    files = [mutated(chance.choice(list(FOR_DEVICE.values())), chance) for _ in range(200)]
    found = DeviceDecoder(CPU, (PREPROCESSING,), Limits(pixels=10**6))(loaded(files, loader))
    outcomes = set()
    for one, other in zip(found, loaded(files, plain), strict=True):
        assert one.reason == other.reason
        outcomes.add(one.tensor is None)
        if one.tensor is not None:
            assert torch.equal(one.tensor, other.tensor)
    assert outcomes == {True, False}


def test_maps_of_photographs_keep_their_ranks(on_cpu, tmp_path):
    """With a trained network."""
    from fastcam.cli import demo

    for name, photograph in demo.photographs().items():
        (tmp_path / "in").mkdir(exist_ok=True)
        photograph.convert("RGB").save(tmp_path / "in" / f"{name}.jpg", quality=92)
    for decoder in ("torchcodec", "gpu"):
        model = efficientnet_lite0()
        fastcam.dataset.run(tmp_path / "in", model, tmp_path / decoder, decoder=decoder, dtype="float32", workers=2)
    one, other = (fastcam.dataset.open(tmp_path / name) for name in ("torchcodec", "gpu"))
    for name in one:
        assert spearmanr(one.maps(name)[0].ravel(), other.maps(name)[0].ravel()).statistic > 0.999


def test_a_model_elsewhere_is_refused(tmp_path):
    source = folder(tmp_path / "in", 2)
    for model in (network(), {"a": network()}):
        with pytest.raises(ValueError, match='on a GPU of NVIDIA; this one is on "cpu"'):
            run(source, tmp_path / "out", model, decoder="gpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_nvjpeg(tmp_path):
    source = mixed_folder(tmp_path / "in")
    for decoder in ("torchcodec", "gpu"):
        run(source, tmp_path / decoder, network().cuda(), decoder=decoder)
    expected, found = (fastcam.dataset.open(tmp_path / name).dataset().to_table() for name in ("torchcodec", "gpu"))
    assert found["status"].to_pylist() == expected["status"].to_pylist()
    scores = [np.array(table["score"].to_pylist(), float) for table in (found, expected)]
    np.testing.assert_allclose(*scores, atol=0.1)
