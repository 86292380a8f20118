"""Models that are files with code in them: loaded with trust alone, and then explained like the modules they were."""

import io

import pytest
import torch
from torch import nn

import fastcam
import fastcam.dataset
from fastcam import artefacts
from fastcam.classifiers import models
from fastcam.dataset.identity import weights_digest
from tests.cli.command_line import run, sentence, square

METHODS = ("saliency", "occlusion", "integrated_gradients")


class Listed(nn.Module):
    """Its parts in a list."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList([part, nn.Flatten()])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            images = part(images)
        return images


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    ).eval()


@pytest.fixture
def files(work):
    """The network as a script, a trace, an exported program and a state dict."""
    model, images = network(), torch.randn(2, 3, 32, 32)
    torch.jit.script(model).save("script.pt")
    torch.jit.trace(model, images).save("trace.ts")
    count = torch.export.Dim("count", min=1, max=512)
    torch.export.save(torch.export.export(model, (images,), dynamic_shapes=({0: count},)), "program.pt2")
    torch.save(model.state_dict(), "weights.pt")
    return work


@pytest.mark.parametrize("name", ["script.pt", "trace.ts", "program.pt2"])
def test_a_file_is_explained_like_the_module(files, name):
    model, images = models.load(name, trust=True).model, torch.randn(2, 3, 32, 32)
    for method in METHODS:
        options = {"steps": 8} if method == "integrated_gradients" else {}
        found = fastcam.explain(model, images, method, [1, 3], **options)
        expected = fastcam.explain(network(), images, method, [1, 3], **options)
        assert (found.maps - expected.maps).abs().max() < 1e-5
        assert torch.equal(found.targets, expected.targets)


class Canary:
    """Says so where it is unpickled."""

    def __reduce__(self):
        return print, ("the file ran",)


@pytest.mark.parametrize("name", ["script.pt", "trace.ts", "program.pt2"])
def test_nothing_is_loaded_without_trust(files, name, capsys):
    with pytest.raises(ValueError, match=f"'{name}' holds code as well as weights, .* pass `trust=True`"):
        models.load(name)
    bad = io.BytesIO()
    torch.save(Canary(), bad)
    (files / name).write_bytes(bad.getvalue())
    with pytest.raises(ValueError, match="pass `trust=True`"):
        models.load(name)
    assert capsys.readouterr().out == ""


def test_files_that_hold_no_model(files):
    with pytest.raises(ValueError, match=r"'weights\.pt' holds no model .* a state dict is loaded into an"):
        artefacts.load("weights.pt", trust=True)
    (files / "bad.pt2").write_bytes(b"bad")
    with pytest.raises(ValueError, match=r"'bad\.pt2' holds no model that torch can load: "):
        artefacts.load("bad.pt2", trust=True)
    with pytest.raises(ValueError, match=r"there is no model file 'none\.pt'"):
        artefacts.load("none.pt", trust=True)
    with pytest.raises(ValueError, match=r"must end in \.pt, .*, got 'none\.onnx'"):
        artefacts.load("none.onnx", trust=True)
    with pytest.raises(ValueError, match="holds its own weights and number of classes"):
        models.load("script.pt", "weights.pt", trust=True)


def test_the_code_is_part_of_a_runs_identity(files):
    other = torch.jit.script(nn.Sequential(*[nn.Tanh() if isinstance(each, nn.ReLU) else each for each in network()]))
    script = artefacts.load("script.pt", trust=True)
    assert weights_digest(script) != weights_digest(other)
    assert weights_digest(script) == weights_digest(artefacts.load("script.pt", trust=True))
    lists = [torch.jit.script(Listed(each).eval()) for each in (nn.ReLU(), nn.Tanh())]  # parts that have no `forward`
    assert weights_digest(lists[0]) != weights_digest(lists[1])
    programs = [torch.export.export(Listed(each).eval(), (torch.zeros(1, 3, 8, 8),)) for each in (nn.ReLU(), nn.Tanh())]
    assert weights_digest(artefacts.as_module(programs[0])) != weights_digest(artefacts.as_module(programs[1]))
    assert weights_digest(artefacts.as_module(programs[0])) == weights_digest(artefacts.as_module(programs[0]))


def test_the_command_line_maps_a_file(files):
    for index in range(3):
        square(files / "photos" / f"{index}.png", (255, 80 * index, 0), (40, 40))
    arguments = ("map", "photos", "--model", "script.pt", "--method", "saliency", "--out", "maps")
    assert "pass --trust-model if you know where it comes from" in sentence(run(*arguments), 2)
    assert not (files / "maps").exists()
    done = run(*arguments, "--trust-model")
    assert done.exit_code == 0, done.output
    assert [row["status"] for name in fastcam.dataset.open("maps") for row in fastcam.dataset.open("maps").rows(name)]
    done = run(*arguments[:-1], "more", "--trust-model", "--method", "grad_cam")
    assert done.exit_code == 0, done.output
    rows = [row for name in fastcam.dataset.open("more") for row in fastcam.dataset.open("more").rows(name)]
    assert {row["layer"] for row in rows} == {"", "2"}
