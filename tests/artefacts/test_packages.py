"""AOTInductor packages are explained by the methods that need scores alone, for any number of copies."""

import os

import pytest
import torch

import fastcam
from tests.support.networks import small_images, small_network
from tests.support.tiers import slow

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]


@pytest.fixture(scope="module", params=["two rows", *slow("any rows")])
def package(request, tmp_path_factory):
    """A package of the network for two rows alone, or for any number of them, which for torch is two at least."""
    shapes = ({0: torch.export.Dim("rows", min=1, max=512)},) if request.param == "any rows" else None
    model = small_network("gap")
    program = torch.export.export(model, (small_images()[:2],), dynamic_shapes=shapes)
    path = tmp_path_factory.mktemp("package") / "model.pt2"
    torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    return path


def test_methods_that_need_scores_alone(package):
    opened, model = fastcam.load(package, trust=True), small_network("gap")
    before = os.environ.get("AOTI_RUNTIME_CHECK_INPUTS")
    for count in (1, 2, 3):
        images = torch.cat([small_images()] * 2)[:count]
        for method, options in (("occlusion", {"window": 3, "stride": 2}), ("rise", {"masks": 21, "grid": 3})):
            found = fastcam.explain(opened, images, method, 1, **options)
            expected = fastcam.explain(model, images, method, 1, **options)
            torch.testing.assert_close(found.native, expected.native, rtol=1e-4, atol=1e-5)
    assert os.environ.get("AOTI_RUNTIME_CHECK_INPUTS") == before


@pytest.mark.parametrize("method", ["saliency", "grad_cam", "integrated_gradients"])
def test_gradients_are_refused(package, method):
    with pytest.raises((RuntimeError, ValueError), match="machine code, without layers or gradients"):
        fastcam.explain(fastcam.load(package, trust=True), small_images(), method, 1)


def test_another_size_is_refused_and_not_read_beyond(package):
    with pytest.raises(RuntimeError, match=r"not compiled for inputs of shape \(2, 3, 5, 5\): .*at 2, "):
        fastcam.load(package, trust=True)(torch.randn(2, 3, 5, 5))


def test_it_is_not_loaded_without_trust(package):
    with pytest.raises(ValueError, match="trust=True"):
        fastcam.load(package)
