"""Scripts that cannot be edited: an unchanged import finds the package here, and then the tool again."""

import importlib
import sys

import pytest

from fastcam import compat


@pytest.fixture
def active():
    compat.activate("pytorch_grad_cam")
    yield
    compat.deactivate("pytorch_grad_cam")


def test_an_unchanged_import_finds_ours_and_then_the_tool_again():
    import pytorch_grad_cam

    before = {name for name in sys.modules if name.split(".")[0] == "pytorch_grad_cam"}
    compat.activate("pytorch_grad_cam")
    compat.activate("pytorch_grad_cam")  # twice is once
    try:
        namespace = {}
        exec(
            "from pytorch_grad_cam import GradCAM\n"
            "from pytorch_grad_cam.grad_cam import GradCAM as Deep\n"
            "from pytorch_grad_cam.utils.image import show_cam_on_image\n"
            "import pytorch_grad_cam.metrics.road as road\n",
            namespace,
        )
        ours = importlib.import_module("fastcam.compat.pytorch_grad_cam")
        assert namespace["GradCAM"] is namespace["Deep"] is ours.GradCAM
        assert namespace["show_cam_on_image"] is ours.utils.image.show_cam_on_image
        assert namespace["road"] is ours.metrics.road
        assert ours.utils.image.__spec__.name == "fastcam.compat.pytorch_grad_cam.utils.image"
    finally:
        compat.deactivate("pytorch_grad_cam")
    compat.deactivate("pytorch_grad_cam")
    import pytorch_grad_cam as again

    assert again is pytorch_grad_cam
    assert {name for name in sys.modules if name.split(".")[0] == "pytorch_grad_cam"} == before


def test_modules_that_are_not_there(active):
    with pytest.raises(ModuleNotFoundError, match=r"fastcam\.compat has no module 'pytorch_grad_cam\.none'"):
        importlib.import_module("pytorch_grad_cam.none")


@pytest.mark.parametrize("call", [compat.activate, compat.deactivate])
def test_names_that_are_not_known(call):
    with pytest.raises(ValueError, match="`name` must be one of captum, pytorch_grad_cam, torchcam, got 'tensorflow'"):
        call("tensorflow")
