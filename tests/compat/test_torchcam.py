"""The same calls on torch-cam and on the package that takes its place: the same maps."""

import inspect

import numpy as np
import pytest
import torch
import torchcam
import torchvision
from torch import nn
from torchcam import explain as peer_explain
from torchcam import methods as peer
from torchcam import metrics as peer_metrics
from torchcam import utils as peer_utils
from torchcam.methods import _utils as peer_layers

from fastcam.compat import torchcam as package
from fastcam.compat.torchcam import explain, metrics, utils
from fastcam.compat.torchcam import methods as ours
from fastcam.compat.torchcam.methods import _utils as layers

pytestmark = pytest.mark.usefixtures("one_thread")

GRADIENTS = ["GradCAM", "GradCAMpp", "SmoothGradCAMpp", "XGradCAM", "LayerCAM"]
SCORES = ["ScoreCAM", "SSCAM", "ISCAM"]
CAMS = ["CAM", *GRADIENTS, *SCORES]
QUICK = {"SSCAM": {"num_samples": 2}, "ISCAM": {"num_samples": 3}, "SmoothGradCAMpp": {"num_samples": 3}}
OTHER_FORMULAS = {"GradCAMpp", "SmoothGradCAMpp", *SCORES}  # without exact_peer=True


class Small(nn.Module):
    """Two blocks, mean pooling and a linear layer whose scores lie far apart; smooth after the first block."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.act = nn.ReLU(inplace)
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2), nn.SiLU())
        self.fc = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor, factor: torch.Tensor | None = None) -> torch.Tensor:
        features = self.second(self.act(self.first(images)))
        return 20 * self.fc(features.mean((2, 3))) * (1 if factor is None else factor)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None, num_classes=10).eval()


def called(module, name, model, layer, images, class_idx, *, normalized=True, options=None, **keywords):
    """The maps of one class of extractors, from one state of the random generator."""
    fitting = {"fc_layer": "fc"} if name == "CAM" else QUICK.get(name, {})
    with getattr(module, name)(model, layer, **fitting, **(options or {})) as extractor:
        scores = model(images)
        torch.manual_seed(3)
        return extractor(class_idx, scores, normalized, **keywords)


def error(found, expected):
    """Largest difference as a share of the range of the peer's map."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert expected.max() > expected.min(), "maps without a range test nothing"
    return ((found - expected).abs().max() / (expected.max() - expected.min())).item()


def both(name, *arguments, options=None, **keywords):
    """Our maps with exact_peer=True, and the peer's."""
    exact = {**(options or {}), "exact_peer": True}
    mine = called(ours, name, *arguments, options=exact, **keywords)
    theirs = called(peer, name, *arguments, options=options, **keywords)
    return list(zip(mine, theirs, strict=True))


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", CAMS)
def test_maps_of_the_small_network(small, name, batch, normalized):
    images = torch.randn(batch, 3, 20, 16)
    for class_idx in (2, [4, 0, 2][:batch]):
        for found, expected in both(name, small, "second", images, class_idx, normalized=normalized):
            assert error(found, expected) < 1e-4
        if name not in OTHER_FORMULAS:
            found = called(ours, name, small, "second", images, class_idx, normalized=normalized)[0]
            assert error(found, expected) < 1e-4


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["CAM", *GRADIENTS])
def test_maps_of_resnet18(resnet18, name, batch, normalized):
    images = torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(5))  # no map is 0 all over
    wanted = ["layer4"] if name == "CAM" else ["layer2", resnet18.layer3[0], "layer4.1.bn2"]
    given = [7, 0, 3][:batch]
    for found, expected in both(name, resnet18, wanted, images, given, normalized=normalized):
        assert error(found, expected) < 1e-4
    if name not in OTHER_FORMULAS:
        # bn2 is followed by an addition in place, which changes what the tool looks at.
        pairs = zip(called(ours, name, resnet18, wanted, images, given, normalized=normalized), wanted, strict=True)
        theirs = called(peer, name, resnet18, wanted, images, given, normalized=normalized)
        assert all(error(a, b) < 1e-4 for (a, layer), b in zip(pairs, theirs, strict=True) if layer != wanted[-1])


def test_score_cam_of_resnet18(resnet18):
    ((found, expected),) = both("ScoreCAM", resnet18, "layer1", torch.randn(1, 3, 64, 64), 3)
    assert error(found, expected) < 1e-4


@pytest.mark.parametrize("name", [*GRADIENTS, *SCORES])
def test_callables_in_the_place_of_classes(small, name):
    images = torch.randn(2, 3, 20, 16)
    targets = [lambda row: row[1] - row[2], lambda row: row[4:].sum()]
    for given in (targets, targets[0]):
        for found, expected in both(name, small, ["act", "second"], images, None, targets=given):
            assert error(found, expected) < 1e-4


@pytest.mark.parametrize("name", GRADIENTS)
def test_another_call_after_the_same_pass(small, name):
    images = torch.randn(2, 3, 20, 16)
    results = []
    for module, options in ((ours, {"exact_peer": True}), (peer, {})):
        with getattr(module, name)(small, "second", **options) as extractor:
            scores = small(images)
            torch.manual_seed(0)
            results.append([extractor(each, scores, retain_graph=True)[0] for each in (0, 3)])
    for found, expected in zip(*results, strict=True):
        assert error(found, expected) < 1e-4


@pytest.mark.parametrize("class_idx", [torch.tensor([4, 1]), (4, 1), np.array([4, 1]), torch.tensor(4), np.int64(4)])
def test_classes_of_other_kinds(small, class_idx):
    images = torch.randn(2, 3, 20, 16)
    plain = class_idx.tolist() if hasattr(class_idx, "tolist") else list(class_idx)
    for name in ("CAM", "GradCAM", "ScoreCAM"):
        found = called(ours, name, small, "second", images, class_idx)[0]
        assert torch.equal(found, called(ours, name, small, "second", images, plain)[0])


@pytest.mark.parametrize("base", ["GradCAMpp", "LayerCAM", "ScoreCAM"])
def test_refined_maps(small, base):
    images, results = torch.randn(2, 3, 20, 16), []
    for module, options in ((ours, {"exact_peer": True}), (peer, {})):
        with module.RefineCAM(small, ["act", "second"], base_method=getattr(module, base), **options) as extractor:
            scores = small(images)
            results.append([extractor([1, 3], scores, each, shape)[0] for each, shape in ((True, None),)])
            scores = small(images)
            results[-1].append(extractor(2, scores, False, (9, 8))[0])
    for found, expected in zip(*results, strict=True):
        assert error(found, expected) < 1e-4


@pytest.mark.parametrize("comparison", [None, 1, [1, 2], [[1, 2], [0, 4]]])
@pytest.mark.parametrize("base", ["GradCAM", "GradCAMpp", "LayerCAM"])
def test_finer_maps(small, base, comparison):
    images, results = torch.randn(2, 3, 20, 16), []
    for module, options in ((ours, {"exact_peer": True}), (peer, {})):
        kind = getattr(module, base)
        with module.FinerCAM(small, "second", base_method=kind, gamma=0.8, num_references=2, **options) as extractor:
            results.append(extractor([0, 3], small(images), comparison)[0])
    assert error(*results) < 1e-4


@pytest.mark.parametrize("class_idx", [1, [1, 3]])
def test_legrad(class_idx):
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, 3, 4, 24, 48, num_classes=5).eval()
    nn.init.normal_(model.heads[0].weight)
    images, blocks, results = torch.randn(2, 3, 32, 32), list(model.encoder.layers)[-2:], []
    for module in (ours, peer):
        with module.LeGrad(model, blocks) as extractor:
            model(images)
            results += [extractor(class_idx, retain_graph=True)[0], extractor(class_idx, normalized=False)[0]]
    assert error(results[1], results[3]) < 1e-4
    assert error(results[0], results[2]) < 1e-2  # such small maps lie below what the tool adds to the range
    with ours.LeGrad(model, blocks, exact_peer=True) as extractor, torch.no_grad():
        assert not model(images).requires_grad
        assert error(extractor(class_idx)[0], results[2]) < 1e-4


@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM"])
@pytest.mark.parametrize("shape", [None, (11, 13)])
def test_fused_maps(name, shape):
    maps = [torch.rand(2, 4, 6), torch.rand(2, 8, 3)]
    fuse, fuse_peer = getattr(ours, name).fuse_cams, getattr(peer, name).fuse_cams
    assert error(fuse(maps, shape), fuse_peer(maps, shape)) < 1e-5
    assert fuse(maps[:1]) is maps[0]
    volumes = [torch.rand(2, 3, 4, 6), torch.rand(2, 2, 8, 3)]
    assert error(fuse(volumes), fuse_peer(volumes)) < 1e-5


@pytest.mark.parametrize("which", ["resnet18", "small"])
def test_the_layer_that_is_chosen(request, which):
    model = request.getfixturevalue(which)
    for shape in ((3, 32, 32), (3, 64, 48)):
        name = layers.locate_candidate_layer(model, shape)
        assert name == peer_layers.locate_candidate_layer(model, shape)
        with ours.GradCAM(model, input_shape=shape) as extractor:
            assert extractor.target_names == [name]
    assert layers.locate_linear_layer(model) == "fc"
    model.train()
    try:
        before = {key: value.clone() for key, value in model.state_dict().items()}
        layers.locate_candidate_layer(model, (3, 32, 32))
        assert all(module.training for module in model.modules())
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    finally:
        model.eval()


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("class_idx", [None, 1, [1, 0, 4]])
def test_metrics(small, class_idx, softmax):
    images = torch.randn(3, 3, 20, 16)
    function = (lambda logits: logits.softmax(-1)) if softmax else None
    for name, options in (
        ("ClassificationMetric", {}),
        ("DeletionInsertionMetric", {"steps": 7, "batch_size": 5}),
        ("DeletionInsertionMetric", {"baseline": lambda given: given.mean((2, 3), keepdim=True)}),
    ):
        found = []
        for module, kinds in ((metrics, ours), (peer_metrics, peer)):
            with kinds.LayerCAM(small, ["act", "second"]) as extractor:
                metric = getattr(module, name)(extractor, function, **options)
                for _ in range(2):
                    metric.update(images, class_idx)
                found.append((metric.summary(), metric.total, metric.nan_count))
        assert found[0][0] == pytest.approx(found[1][0], rel=1e-4, abs=1e-5)
        assert found[0][1:] == found[1][1:]


def test_metrics_of_callables_and_nan(small):
    images, found = torch.randn(3, 3, 20, 16), []
    images[1] = torch.nan
    for module, kinds in ((metrics, ours), (peer_metrics, peer)):
        with kinds.GradCAM(small, "second") as extractor:
            extractor.fuse_cams = lambda maps: torch.where(
                torch.tensor([1.0, torch.nan, 1])[:, None, None] > 0, maps[0], torch.nan
            )
            for name in ("ClassificationMetric", "DeletionInsertionMetric"):
                metric = getattr(module, name)(extractor)
                metric.update(images, targets=lambda row: row[1])
                found.append(([*metric.summary().values()], metric.total, metric.nan_count))
    for mine, theirs in zip(found[:2], found[2:], strict=True):
        assert mine[0] == pytest.approx(theirs[0], rel=1e-4)
        assert mine[1:] == theirs[1:] == (2, 1)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("colormap", ["jet", "viridis"])
def test_pictures(mode, colormap):
    from PIL import Image

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)).convert(mode)
    values = np.random.default_rng(1).random((7, 9), np.float32)
    for mask in (Image.fromarray(values), Image.fromarray((255 * values).astype(np.uint8))):
        mine = utils.overlay_mask(image, mask, colormap, 0.4, exact_peer=True)
        assert np.array_equal(mine, peer_utils.overlay_mask(image, mask, colormap, 0.4))
    floats, whole = (utils.overlay_mask(image, each, colormap) for each in (Image.fromarray(values), mask))
    assert np.abs(np.asarray(floats, float) - np.asarray(whole, float)).mean() < 2
    assert np.array_equal(floats, peer_utils.overlay_mask(image, Image.fromarray(values), colormap))


def test_explain(small, tmp_path):
    from PIL import Image

    image = torch.randn(1, 3, 20, 16)
    results = [
        module.explain(small, image, expected_class_idx=1, class_names=list("abcde"), target_layer=["act", "second"])
        for module in (explain, peer_explain)
    ]
    mine, theirs = results
    assert list(mine.cams) == list(theirs.cams)
    assert all(error(a, b) < 1e-4 for key in mine.cams for a, b in zip(mine.cams[key], theirs.cams[key], strict=True))
    for name in ("predicted_class_idx", "expected_class_idx", "method", "target_layers", "model", "input_shape"):
        assert getattr(mine, name) == getattr(theirs, name)
    picture = Image.new("RGB", (32, 40))
    for result, name in ((mine, "mine"), (theirs, "theirs")):
        result.save(tmp_path / name, picture)
    files = [sorted(each.name for each in (tmp_path / name).iterdir()) for name in ("mine", "theirs")]
    assert files[0] == files[1]
    with pytest.raises(FileExistsError):
        mine.save(tmp_path / "mine", picture)


PUBLIC = [
    (kind, name)
    for kind, theirs in (("methods", peer), ("metrics", peer_metrics), ("utils", peer_utils), ("explain", peer_explain))
    for name in getattr(theirs, "__all__", [each for each in vars(theirs) if not each.startswith("_")])
    if getattr(getattr(theirs, name), "__module__", "").startswith("torchcam.")
]


def parameters(function, left_out=()):
    found = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, getattr(p.default, "__name__", p.default)) for p in found if p.name not in left_out]


@pytest.mark.parametrize(("kind", "name"), PUBLIC)
def test_signatures(kind, name):
    theirs, mine = getattr(getattr(torchcam, kind), name), getattr(getattr(package, kind), name)
    assert parameters(mine, {"exact_peer"}) == parameters(theirs)
    for each, function in vars(theirs).items() if isinstance(theirs, type) else ():
        if inspect.isfunction(function) and not each.startswith("_"):
            assert parameters(getattr(mine, each)) == parameters(function), each


def test_the_bases_and_the_deep_paths():
    assert len(PUBLIC) >= 17
    from fastcam.compat.torchcam.methods.activation import CAM, ScoreCAM
    from fastcam.compat.torchcam.methods.core import _CAM
    from fastcam.compat.torchcam.methods.gradient import GradCAM, _GradCAM

    assert issubclass(GradCAM, _GradCAM)
    assert issubclass(_GradCAM, _CAM)
    assert issubclass(ours.SmoothGradCAMpp, _GradCAM)
    assert issubclass(ours.SSCAM, ScoreCAM)
    assert CAM is ours.CAM
    assert parameters(_CAM, {"exact_peer"}) == parameters(peer.core._CAM)
    for name in ("fuse_cams", "compute_cams", "__call__"):
        mine, theirs = ([p[::2] for p in parameters(getattr(each, name))] for each in (_CAM, peer.core._CAM))
        assert mine == theirs


def test_what_objects_say_of_themselves(small):
    for name in CAMS:
        fitting = {"fc_layer": "fc"} if name == "CAM" else {}
        with (
            getattr(ours, name)(small, "second", **fitting) as mine,
            getattr(peer, name)(small, "second", **fitting) as theirs,
        ):
            assert repr(mine) == repr(theirs)
    for name, wanted in (("FinerCAM", "second"), ("RefineCAM", ["act", "second"])):
        with getattr(ours, name)(small, wanted) as mine, getattr(peer, name)(small, wanted) as theirs:
            assert repr(mine) == repr(theirs)
            assert mine.target_names == theirs.target_names
