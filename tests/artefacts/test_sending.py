"""Models that are files in other processes: what arrives gives the same maps."""

import pickle

import pytest
import torch

import fastcam
from fastcam import artefacts
from fastcam.classifiers.models import Classifier
from fastcam.classifiers.preprocessing import Preprocessing
from tests.support.networks import small_images, small_network
from tests.support.tiers import slow

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]


def exported(model):
    rows = torch.export.Dim("rows", min=1, max=512)
    return torch.export.export(model, (small_images()[:2],), dynamic_shapes=({0: rows},))


def saved(kind, model, path):
    """A file of the model, loaded."""
    if kind == "package":
        torch._inductor.aoti_compile_and_package(exported(model), package_path=str(path.with_suffix(".pt2")))
        return fastcam.load(path.with_suffix(".pt2"), trust=True)
    if kind == "program":
        torch.export.save(exported(model), path.with_suffix(".pt2"))
        return fastcam.load(path.with_suffix(".pt2"), trust=True)
    make = {"script": torch.jit.script, "trace": lambda it: torch.jit.trace(it, small_images())}[kind]
    torch.jit.save(make(model), path.with_suffix(".pt"))
    return fastcam.load(path.with_suffix(".pt"), trust=True)


@pytest.mark.parametrize("kind", ["script", "trace", "program", *slow("package")])
def test_what_arrives_gives_the_same_maps(tmp_path, kind):
    opened = saved(kind, small_network("gap"), tmp_path / "model")
    sent = Classifier(opened, Preprocessing(), given_names=("a", "b"))
    data = pickle.dumps(sent)
    for file in tmp_path.iterdir():
        file.unlink()  # another machine does not have it
    arrived = pickle.loads(pickle.dumps(pickle.loads(data)))  # from there to a third
    assert (arrived.given_names, arrived.preprocessing) == (sent.given_names, sent.preprocessing)
    assert not any(module.training for module in arrived.model.modules())
    if kind == "package":
        method, options = "occlusion", {"window": 3}
    else:
        method, options = "layer_cam", {}
    for images in (small_images(), small_images()[:1]):
        found = fastcam.explain(arrived.model, images, method, 1, **options)
        expected = fastcam.explain(opened, images, method, 1, **options)
        assert torch.equal(found.maps, expected.maps)
        assert torch.equal(found.scores, expected.scores)


def test_any_other_model_is_pickled_as_ever():
    model = small_network("gap")
    assert artefacts.packed(model) is model
    arrived = pickle.loads(pickle.dumps(Classifier(model, Preprocessing()))).model
    assert torch.equal(arrived(small_images()), model(small_images()))


def test_what_is_not_sent(tmp_path):
    program = saved("program", small_network("gap"), tmp_path / "model")
    with torch.no_grad():
        next(program.parameters()).add_(1)
    with pytest.raises(ValueError, match="weights of the exported program were changed since it was loaded"):
        pickle.dumps(Classifier(program, Preprocessing()))
    other = saved("program", small_network("gap"), tmp_path / "model").double()  # the same values
    with pytest.raises(ValueError, match="weights of the exported program were changed since it was loaded"):
        pickle.dumps(Classifier(other, Preprocessing()))


class Constant(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = small_network("gap")
        self.register_buffer("factor", torch.tensor(2.0), persistent=False)

    def forward(self, x):
        return self.model(x * self.factor)


def test_constants_of_a_program_are_weights(tmp_path):
    program = saved("program", Constant().eval(), tmp_path / "model")
    arrived = pickle.loads(pickle.dumps(Classifier(program, Preprocessing()))).model
    assert torch.equal(arrived(small_images()), program(small_images()))
    with torch.no_grad():
        dict(program.named_buffers())["factor"].mul_(5)
    with pytest.raises(ValueError, match="weights of the exported program were changed since it was loaded"):
        pickle.dumps(Classifier(program, Preprocessing()))


@pytest.mark.parametrize("kind", ["script", "program"])
def test_a_copy_on_the_cpu(tmp_path, kind):
    opened = saved(kind, small_network("gap"), tmp_path / "model")
    copied = artefacts.on_cpu(opened)
    assert copied is not opened
    assert torch.equal(copied(small_images()), opened(small_images()))


@pytest.mark.slow
def test_a_package_that_is_gone(tmp_path):
    package = saved("package", small_network("gap"), tmp_path / "model")
    (tmp_path / "model.pt2").unlink()
    with pytest.raises(ValueError, match=r"model.pt2' cannot be read any more: No such file"):
        pickle.dumps(Classifier(package, Preprocessing()))
