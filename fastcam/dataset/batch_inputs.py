"""The images of a batch as one tensor on the model's device."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastcam.classifiers.preprocessing import Preprocessing
from fastcam.dataset.device_decoding import used_here
from fastcam.dataset.loading import LoadedImage


@dataclass
class _Memory:
    """Images on the CPU, and when they were copied from there to a GPU."""

    tensor: Tensor
    copied: "torch.cuda.Event | None" = None

    def holds(self, image: Tensor, count: int) -> bool:
        """Whether so many images of this kind have room."""
        shape, dtype = self.tensor.shape, self.tensor.dtype
        return shape[0] >= count and shape[1:] == image.shape and dtype == image.dtype


@dataclass
class BatchInputs:
    """Makes the inputs of batches, by way of the memory of earlier ones: new memory would cost more than the copy.

    Attributes:
        device: of the model.
        preprocessing: makes floats of pixels, on the device.
        ahead: batches that are used while the next one's inputs are made.
    """

    device: torch.device
    preprocessing: Preprocessing
    ahead: int = 0
    _memory: deque[_Memory] = field(init=False, default_factory=deque)  # of as many batches as may be used

    def __call__(self, images: Sequence[LoadedImage]) -> Tensor:
        """Return what the model sees of images (N, C, *S)."""
        tensors = [used_here(image.tensor) for image in images if image.tensor is not None]
        if all(tensor.device.type == "cpu" for tensor in tensors):
            inputs = self._stacked(tensors)
        else:  # the device decoded some of them
            is_later = self.device.type == "cuda"  # what copies to the CPU must have come before it is read
            inputs = torch.stack([tensor.to(self.device, non_blocking=is_later) for tensor in tensors])
        is_pixels = inputs.dtype == torch.uint8 and images[0].size is not None
        return self.preprocessing.normalized(inputs) if is_pixels else inputs

    def _stacked(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return images as one tensor on the device. For a GPU the memory is pinned, for a copy without the host."""
        first, count, is_pinned = tensors[0], len(tensors), self.device.type == "cuda"
        memory = self._memory.popleft() if len(self._memory) > self.ahead else None
        if memory is None or not memory.holds(first, count):
            memory = _Memory(torch.empty((count, *first.shape), dtype=first.dtype, pin_memory=is_pinned))
        elif memory.copied is not None:
            memory.copied.synchronize()  # as a rule it was, long ago
        inputs = torch.stack(list(tensors), out=memory.tensor[:count]).to(self.device, non_blocking=True)
        memory.copied = torch.cuda.current_stream(self.device).record_event() if is_pinned else None
        self._memory.append(memory)
        return inputs
