"""What is special about devices; see tests/engine/test_no_waiting.py for what is sent."""

import pytest
import torch

from fastcam.devices import uses_tf32


@pytest.mark.parametrize(
    ("device", "capability", "convolutions", "products", "expected"),
    [
        ("cuda", (8, 0), True, False, True),
        ("cuda", (9, 0), False, True, True),
        ("cuda", (9, 0), False, False, False),
        ("cuda", (7, 5), True, True, False),
        ("cpu", (9, 0), True, True, False),
    ],
)
def test_tf32(monkeypatch, device, capability, convolutions, products, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    before = torch.backends.cuda.matmul.allow_tf32
    with torch.backends.cudnn.flags(allow_tf32=convolutions):
        torch.backends.cuda.matmul.allow_tf32 = products
        try:
            assert uses_tf32(torch.device(device)) == expected
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
