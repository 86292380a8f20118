"""Decoding of JPEG files on a GPU, by nvJPEG in torchcodec, and resizing there: a group of images ahead of the model.

The same code decodes on the CPU, where the tests run it.
"""

import contextlib
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fastcam.classifiers.preprocessing import Preprocessing
from fastcam.dataset.decode import Limits, decode_pixels, find_decode_jpeg
from fastcam.dataset.loading import LoadedImage, Loader, reason_of
from fastcam.dataset.records import Span

MAX_PIXELS = 64_000_000  # decoded together: of 9 bytes each, on the way
GROUPS_AHEAD = 2  # of images, which are decoded while the model explains those before them


def device_decoder(loader: Loader, device: torch.device) -> "DeviceDecoder | None":
    """Return the decoder of what a loader leaves to the device of its model; None for a loader that leaves nothing.

    Raises:
        ValueError: for another device than a GPU of NVIDIA.
    """
    if loader.decoder != "gpu":
        return None
    if not _has_nvjpeg(device):
        raise ValueError(f'`decoder` gpu decodes where the model is, on a GPU of NVIDIA; this one is on "{device}"')
    return DeviceDecoder(device, (loader.preprocessing, *loader.more), loader.limits)


def _has_nvjpeg(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.cuda is not None


@dataclass
class DeviceDecoder:
    """Decodes JPEG files, and resizes and crops them, on the device of the models.

    Attributes:
        device: of the models.
        preprocessings: say what each of them sees of a photograph.
        limits: of images that the processor has to decode.
    """

    device: torch.device
    preprocessings: tuple[Preprocessing, ...]
    limits: Limits
    _stream: "torch.cuda.Stream | None" = field(init=False, default=None)

    def ahead(self, images: Iterable[tuple[Span, LoadedImage]], group: int) -> Iterator[tuple[Span, LoadedImage]]:
        """Yield images with pixels in place of encoded files, decoded on a thread while those before are used.

        Args:
            images: in order, each with its span.
            group: how many are decoded together.
        """
        waiting: deque[tuple[Sequence[Span], Future[list[LoadedImage]]]] = deque()
        source = iter(images)
        with ThreadPoolExecutor(1, "fastcam-gpu-decode") as thread:
            try:
                while True:
                    while len(waiting) <= GROUPS_AHEAD and (some := list(itertools.islice(source, group))):
                        decoded = thread.submit(self, [image for _, image in some])
                        waiting.append(([span for span, _ in some], decoded))
                    if not waiting:
                        return
                    spans, decoded = waiting.popleft()
                    yield from zip(spans, decoded.result(), strict=True)
            finally:
                thread.shutdown(wait=True, cancel_futures=True)

    def __call__(self, images: Sequence[LoadedImage]) -> list[LoadedImage]:
        """Return images with pixels (H, W, C) uint8 in place of encoded files; any error becomes the reason.

        Those that the device cannot decode are decoded by the processor.
        """
        with self._on_stream():
            return [image for portion in _portions(images) for image in self._portion(portion)]

    def _portion(self, images: Sequence[LoadedImage]) -> list[LoadedImage]:
        inputs = iter(self._inputs(self._decoded([image.tensor for image in images if image.is_encoded])))
        return [self._with_pixels(image, next(inputs)) if image.is_encoded else image for image in images]

    def _with_pixels(self, image: LoadedImage, inputs: Sequence[Tensor]) -> LoadedImage:
        """Return an image with what the models see of it; decoded by the processor if that is nothing yet."""
        if not inputs:
            assert image.tensor is not None
            try:
                decoded = decode_pixels(image.tensor.numpy().tobytes(), self.limits, "torchcodec")
            except Exception as error:
                return replace(image, tensor=None, more=(), reason=reason_of(error))
            inputs = [preprocessing.pixels(decoded) for preprocessing in self.preprocessings]
        return replace(image, tensor=inputs[0], more=tuple(inputs[1:]))

    def _decoded(self, files: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return planes (3, h, w) uint8 of encoded files; None for those that cannot be decoded here."""
        decode_jpeg = find_decode_jpeg()
        assert decode_jpeg is not None
        try:
            return list(decode_jpeg(list(files), mode="RGB", device=self.device)) if files else []
        except (RuntimeError, ValueError):
            if len(files) == 1:
                return [None]
            return [decoded for file in files for decoded in self._decoded([file])]

    def _inputs(self, photographs: Sequence[Tensor | None]) -> list[list[Tensor]]:
        """Return what the models see of photographs, (H, W, 3) uint8, or nothing."""
        seen = iter(self._resized([photograph for photograph in photographs if photograph is not None]))
        return [[] if photograph is None else next(seen) for photograph in photographs]

    def _resized(self, photographs: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return what the models see of photographs; nothing of one for which there is no memory."""
        if not photographs:
            return []
        with contextlib.suppress(RuntimeError):
            seen = [preprocessing.pixels_of_planes(photographs) for preprocessing in self.preprocessings]
            return [list(inputs) for inputs in zip(*seen, strict=True)]
        if len(photographs) == 1:
            return [[]]
        return [inputs for photograph in photographs for inputs in self._resized([photograph])]

    @contextlib.contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Work on a stream beside the model's; what was done there is done when the context ends."""
        if self.device.type != "cuda":
            yield
            return
        self._stream = self._stream or torch.cuda.Stream(self.device)
        with torch.cuda.stream(self._stream):
            yield
        self._stream.synchronize()


def _portions(images: Sequence[LoadedImage]) -> Iterator[list[LoadedImage]]:
    """Yield images in order, each time so many that their pixels are MAX_PIXELS at most, or one."""
    portion: list[LoadedImage] = []
    pixels = 0
    for image in images:
        height, width = image.size or (0, 0)
        if portion and pixels + height * width > MAX_PIXELS:
            yield portion
            portion, pixels = [], 0
        portion.append(image)
        pixels += height * width
    if portion:
        yield portion


def used_here(tensor: Tensor) -> Tensor:
    """Return a tensor that the decoder made on a stream of its own, kept until the present stream is done with it."""
    if tensor.device.type == "cuda":
        tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return tensor
