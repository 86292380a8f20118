"""Exported explainers give the maps of the explainer: any number of images, any classes, in a process of their own."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import fastcam
from fastcam import targets
from tests.support.conv_net import Call, ConvNet, conv_net, images_for, suited
from tests.support.model_state import snapshot
from tests.support.small_transformers import build
from tests.support.tiers import slow

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]
METHODS = [method.name for method in fastcam.list_methods() if method.is_one_pass]
COPYING = {  # options, among them fewer copies at a time than there are
    "score_cam": {"target_layer": "features", "batch_size": 3},
    "occlusion": {"window": 3, "stride": 2, "baseline": "blur"},
    "integrated_gradients": {"steps": 20, "batch_size": 7},
    "ablation_cam": {"target_layer": "relu"},
}
SUFFIX = {"torchscript": ".pt", "pt2": ".pt2", "aoti": ".pt2"}


def exported(folder, model, images, format="torchscript", **settings):
    """A report, and the file as a function of images and classes."""
    report = fastcam.export(model, images, folder / f"program{SUFFIX[format]}", format=format, **settings)
    if format == "torchscript":
        return report, torch.jit.load(report.path)
    if format == "pt2":
        return report, torch.export.load(report.path).module()
    return report, torch._inductor.aoti_load_package(str(report.path))


def assert_explains(program, explainer, images, classes, target=None):
    scores, maps, explained = program(images, torch.tensor(classes))
    expected = explainer(images, list(classes) if target is None else target)
    torch.testing.assert_close(maps, expected.maps, rtol=0, atol=1e-5)
    torch.testing.assert_close(scores, expected.scores, rtol=1e-5, atol=1e-6)
    assert torch.equal(explained, expected.targets)


@pytest.mark.parametrize(
    ("format", "method"),
    [("torchscript", method) for method in METHODS]
    + [("pt2", method) for method in ("grad_cam", "guided_grad_cam")]
    + slow(*(("pt2", method) for method in METHODS), *(("aoti", method) for method in METHODS)),
)
def test_all_methods(tmp_path, format, method):
    model, layer = suited(method)
    images = images_for(count=2)
    settings = {"target_layer": layer} if fastcam.get_method(method).has_layer else {}
    report, program = exported(tmp_path, model, images, format, method=method, **settings)
    explainer = fastcam.Explainer(model, method, **settings)
    for count in (1, 2, 17):  # from 16 on libraries choose other kernels
        more = images_for(count=count, seed=count)
        assert_explains(program, explainer, more, [(3 * image) % 5 for image in range(count)])
        assert_explains(program, explainer, more, [-1] * count, explainer(more).targets)
    assert report.difference <= 1e-5
    assert report.layer == settings.get("target_layer", "")
    assert report.images == (None, *images.shape[1:])
    assert [each.name for each in tmp_path.iterdir()] == [report.path.name]


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_a_class_that_there_is_not(tmp_path, format):
    _, program = exported(tmp_path, conv_net(), images_for(), format, target_layer="features")
    scores, maps, explained = program(images_for(), torch.tensor([5, 2]))
    assert explained.tolist() == [-1, 2]
    assert maps[0].isnan().all()
    assert scores[0].isnan()
    assert maps[1].max() == 1


def test_torchscript_without_classes_explains_the_highest(tmp_path):
    model = conv_net()
    _, program = exported(tmp_path, model, images_for(), target_layer="features")
    assert torch.equal(program(images_for())[1], fastcam.explain(model, images_for(), target_layer="features").maps)


@pytest.mark.parametrize("score", [targets.Probability, targets.LogProbability])
def test_other_scores(tmp_path, score):
    model = conv_net()
    _, program = exported(tmp_path, model, images_for(), score=score(), target_layer="stem.0", method="hires_cam")
    explainer = fastcam.Explainer(model, "hires_cam", "stem.0")
    assert_explains(program, explainer, images_for(count=3), [4, 0, 1], score([4, 0, 1]))


@pytest.mark.parametrize("axes", [1, 3])
def test_signals_and_volumes(tmp_path, axes):
    model = conv_net(axes=axes)
    report, program = exported(tmp_path, model, images_for(axes), target_layer="features", any_size=True)
    assert report.images == (None, 3, *[None] * axes)
    larger = torch.cat([images_for(axes, 3)] * 2, -1)
    assert_explains(program, fastcam.Explainer(model, target_layer="features"), larger, [1, 2, 3])


@pytest.mark.parametrize("method", ["grad_cam", "saliency", "eigen_cam", "full_grad"])
@pytest.mark.parametrize("format", ["torchscript", *slow("pt2")])
def test_any_size(tmp_path, method, format):
    model = conv_net()
    settings = {"target_layer": "features"} if fastcam.get_method(method).has_layer else {}
    report, program = exported(tmp_path, model, images_for(), format, method=method, any_size=True, **settings)
    assert report.images == (None, 3, None, None)
    explainer = fastcam.Explainer(model, method, **settings)
    for size in ((12, 10), (13, 40), (8, 8)):
        images = torch.randn(3, 3, *size)
        if method == "eigen_cam" and size == (13, 40):  # more positions than channels: another Gram matrix is smaller
            continue
        assert_explains(program, explainer, images, [1, 2, 3])


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_what_depends_on_the_size_is_a_condition(tmp_path, format):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = conv_net()

        def forward(self, images):
            return self.inner(images * 2 if images.shape[2] > 11 else images)

    report, program = exported(
        tmp_path, Branches().eval(), images_for(), format, target_layer="inner.features", any_size=True
    )
    assert report.conditions == ("images.shape[2] > 11",)
    assert "only where images.shape[2] > 11" in str(report)
    program(torch.randn(2, 3, 12, 30), torch.tensor([1, 2]))
    with pytest.raises(Exception, match=r"images|Guard"):
        program(torch.randn(2, 3, 11, 30), torch.tensor([1, 2]))


def test_another_size_is_refused(tmp_path):
    _, program = exported(tmp_path, conv_net(), images_for(), target_layer="features")
    with pytest.raises(Exception, match=r"exported for images \[-1, 3, 12, 10\]"):
        program(torch.randn(2, 3, 12, 11))


@pytest.mark.parametrize("name", ["torchvision_vit", "timm_swin"])
def test_tokens(tmp_path, name):
    model, images = build(name), torch.randn(2, 3, 64, 64)
    report, program = exported(tmp_path, model, images)
    explainer = fastcam.Explainer(model)
    assert_explains(program, explainer, torch.randn(3, 3, 64, 64), [1, 2, 3])
    assert report.notes == tuple(explainer(images).notes)
    with pytest.raises(ValueError, match="tokens are those of one image size"):
        exported(tmp_path, build("torchvision_vit"), images, any_size=True)


def test_models_that_are_scripts(tmp_path):
    model = conv_net()
    script = torch.jit.trace(model, images_for())
    _, program = exported(tmp_path, script, images_for(), target_layer="features", method="layer_cam")
    assert_explains(program, fastcam.Explainer(model, "layer_cam", "features"), images_for(count=3), [1, 2, 3])


def test_models_that_are_programs(tmp_path):
    model = conv_net()
    count = torch.export.Dim("count", min=1, max=64)
    source = torch.export.export(model, (images_for(),), dynamic_shapes=({0: count},))
    _, program = exported(tmp_path, source, images_for(), "pt2", target_layer="features", method="layer_cam")
    assert_explains(program, fastcam.Explainer(model, "layer_cam", "features"), images_for(count=3), [1, 2, 3])


def test_preparation_and_precision_are_carried_over(tmp_path):
    model = conv_net()
    prepared = fastcam.prepare(model, images_for(), precision="bf16", target_layer="features")
    _, program = exported(tmp_path, prepared, images_for(), target_layer="features", method="layer_cam")
    explainer = fastcam.Explainer(prepared, "layer_cam", "features")
    assert torch.equal(program(images_for())[1], explainer(images_for()).maps)
    _, program = exported(tmp_path, model.double(), images_for().double(), target_layer="features")
    assert program(images_for().double())[1].dtype == torch.float64


def test_fused_layers_and_options(tmp_path):
    model = conv_net()
    settings = {"target_layer": ["stem.0", "features"], "fuse": "max", "relu": False}
    report, program = exported(tmp_path, model, images_for(), method="xgrad_cam", eps=1e-3, **settings)
    explainer = fastcam.Explainer(model, "xgrad_cam", eps=1e-3, **settings)
    assert_explains(program, explainer, images_for(count=3), [1, 2, 3])
    assert report.layer == "stem.0 + features"


def test_the_model_is_not_changed(tmp_path):
    model = conv_net()
    model.requires_grad_(True)
    before = snapshot(model)
    exported(tmp_path, model, images_for(), method="full_grad")
    assert snapshot(model) == before
    assert all(parameter.requires_grad for parameter in model.parameters())


FRESH = """
import sys, torch
torch.ops.load_library(sys.argv[1])
assert "fastcam" not in sys.modules
if sys.argv[4] == "torchscript":
    run = torch.jit.load(sys.argv[2])
elif sys.argv[4] == "pt2":
    run = torch.export.load(sys.argv[2]).module()
else:
    import torch._inductor
    run = torch._inductor.aoti_load_package(sys.argv[2])
images, classes, expected = torch.load(sys.argv[3])
torch.testing.assert_close(run(images, classes)[1], expected, rtol=0, atol=1e-5)
"""


@pytest.mark.parametrize("format", ["torchscript", "pt2", *slow("aoti")])
def test_a_fresh_process_without_this_package(tmp_path, format):
    """The library of the ops and the file are all it needs."""
    model, classes = conv_net(), torch.tensor([1, 2, 3])
    report, _ = exported(tmp_path, model, images_for(), format, target_layer="features", method="grad_cam_pp")
    moved = tmp_path / "elsewhere" / f"explainer{report.path.suffix}"
    moved.parent.mkdir()
    report.path.rename(moved)
    images = images_for(count=3)
    expected = fastcam.explain(model, images, "grad_cam_pp", classes, "features").maps
    torch.save((images, classes, expected), tmp_path / "expected.pt")
    arguments = [str(fastcam.library_path()), str(moved), str(tmp_path / "expected.pt"), format]
    command = [sys.executable, "-c", FRESH, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("format", "method"),
    [
        *(("torchscript", method) for method in COPYING),
        ("pt2", "score_cam"),
        *slow(*((format, method) for format in ("pt2", "aoti") for method in COPYING)),
    ],
)
def test_methods_of_many_copies(tmp_path, format, method):
    """They run in a loop of the program."""
    model, settings = conv_net(), COPYING[method]
    report, program = exported(tmp_path, model, images_for(count=3), format, method=method, **settings)
    explainer = fastcam.Explainer(model, method, **settings)
    for count in (1, 2, 5):
        images = images_for(count=count, seed=count)
        assert_explains(program, explainer, images, [(2 * image) % 5 for image in range(count)])
    assert report.images == (None, 3, 12, 10)
    with pytest.raises(ValueError, match="copies of images are made for one image size"):
        exported(tmp_path, model, images_for(), format, method=method, any_size=True, **settings)


@pytest.mark.parametrize(
    ("method", "settings", "reason"),
    [
        ("rise", {}, "needs the numbers of the copies in a step"),
        ("smooth_grad", {}, "needs the numbers of the copies in a step"),
        ("ablation_cam", {"target_layer": "features"}, "depends on values of tensors"),
        ("occlusion", {"refine": 0.5}, "any number of images|cannot be exported"),
    ],
)
def test_methods_that_are_not_exported(tmp_path, method, settings, reason):
    with pytest.raises(ValueError, match=reason):
        exported(tmp_path, conv_net(), images_for(), method=method, **settings)
    assert not list(tmp_path.iterdir())


def reads_values(images):
    return images * 2 if float(images.sum()) > 0 else images


@pytest.mark.parametrize(
    ("model", "settings", "sentence"),
    [
        (ConvNet(), {}, "in training mode"),
        (conv_net(), {"format": "onnx"}, "`format` must be one of pt2, aoti, torchscript, got 'onnx'"),
        (conv_net(), {"graph": True}, "`graph` is no part of an exported program"),
        (conv_net(), {"score": targets.Logit(3)}, "the classes are an argument of the program"),
        (conv_net(), {"target_layer": ["stem.0", "features"], "fuse": None}, "one map per image"),
        (conv_net(), {"target_layer": "nothing"}, "no layer named 'nothing'"),
        (
            nn.Sequential(Call(reads_values), conv_net()).eval(),
            {},
            "grad_cam of this model cannot be exported: what it does",
        ),
    ],
)
def test_sentences(tmp_path, model, settings, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        fastcam.export(model, images_for(), tmp_path / "program.pt2", **settings)
    assert not list(tmp_path.iterdir())


def test_paths_are_checked(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.pt2, got 'program\.pt'"):
        fastcam.export(conv_net(), images_for(), tmp_path / "program.pt")
    with pytest.raises(ValueError, match="there is no folder"):
        fastcam.export(conv_net(), images_for(), tmp_path / "nowhere" / "program.pt2")
    for wrong in (torch.tensor(1.0), images_for()[:0], torch.ones(1, 3, 4, 4, dtype=torch.uint8)):
        with pytest.raises((TypeError, ValueError), match="`images` must "):
            fastcam.export(conv_net(), wrong, tmp_path / "program.pt2")
    with pytest.raises(TypeError, match=r"`example` must be a tensor \(N, C, \.\.\.\) of images, got tuple"):
        fastcam.export(conv_net(), (images_for(),), tmp_path / "program.pt2")


def test_a_model_that_fixes_the_number_of_images(tmp_path):
    model = nn.Sequential(Call(lambda images: images.reshape(2, 3, 12, 10)), conv_net()).eval()
    with pytest.raises(ValueError, match="any number of images"):
        fastcam.export(model, images_for(), tmp_path / "program.pt2", target_layer="1.features")
    fastcam.explain(conv_net(), images_for(), "occlusion")  # nothing of the trace is kept


def test_a_program_that_differs_is_not_written(tmp_path):
    """This model draws new random numbers whenever it runs."""
    noisy = nn.Sequential(Call(lambda images: images + torch.randn_like(images)), conv_net()).eval()
    (tmp_path / "program.pt").write_text("of before")
    with pytest.raises(RuntimeError, match=r"(differ|explains classes).*nothing was written"):
        exported(tmp_path, noisy, images_for(), target_layer="1.features", method="layer_cam")
    assert [each.read_text() for each in tmp_path.iterdir()] == ["of before"]
