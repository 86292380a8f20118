"""Random weights, perturbed photographs, and the similarities that both read: against plain statements."""

import numpy as np
import pytest
import torch
from skimage.feature import hog
from skimage.metrics import structural_similarity

import fastcam
from fastcam import evaluate
from fastcam.evaluate.perturbations import PERTURBATIONS
from fastcam.evaluate.similarity import similarities
from tests.evaluate.support import images_for, pearson, random_maps, spearman
from tests.support.conv_net import Call, conv_net
from tests.support.model_state import snapshot
from tests.support.networks import efficientnet_lite0, photographs

pytestmark = pytest.mark.usefixtures("one_thread")


def test_similarities():
    maps, others = random_maps(3, 1, (40, 36)) - 0.5, random_maps(3, 2, (40, 36)) - 0.4
    others = (others + maps).round(decimals=1)  # ties
    found = similarities(maps, others)
    for index, (a, b) in enumerate(zip(maps.numpy(), others.numpy(), strict=True)):
        assert found["spearman"][index].item() == pytest.approx(spearman(a, b))
        assert found["spearman_abs"][index].item() == pytest.approx(spearman(abs(a), abs(b)))
        scaled = a / abs(a).max(), b / abs(b).max()
        assert found["ssim"][index].item() == pytest.approx(structural_similarity(*scaled, win_size=7, data_range=2.0))
        features = [hog(each, pixels_per_cell=(16, 16), cells_per_block=(1, 1)) for each in scaled]
        assert found["hog"][index].item() == pytest.approx(pearson(*features))
    same = similarities(maps, 3 * maps)
    assert all(values.numpy() == pytest.approx(1) for values in same.values())
    maps[0], others[1] = 0.25, torch.nan
    for values in similarities(maps, others).values():
        assert values.isnan().tolist() == [True, True, False]
    assert set(similarities(torch.rand(2, 9), torch.rand(2, 9))) == {"spearman", "spearman_abs"}


def test_cascading_and_independent_randomisation():
    """Each step by hand: the weights named so far, or one of them, replaced by noise of the same mean and deviation."""
    model, images = conv_net().double(), images_for()
    model.stem[0].weight.requires_grad_(False)
    before = snapshot(model)
    cascading = evaluate.randomisation(model, images, "saliency", seed=3)
    assert snapshot(model) == before
    assert cascading.layers == ["classifier", "features.1", "features.0", "stem.1", "stem.0"]
    trained = fastcam.explain(model, images, "saliency")
    again = evaluate.randomisation(model, images, "saliency", seed=3)
    independent = evaluate.randomisation(model, images, "saliency", order="independent", seed=3)
    other = evaluate.randomisation(model, images, "saliency", seed=4)
    for name in cascading.similarity:
        torch.testing.assert_close(cascading.similarity[name], again.similarity[name], rtol=0, atol=0)
        torch.testing.assert_close(cascading.similarity[name][0], independent.similarity[name][0], rtol=0, atol=0)
        assert not torch.equal(cascading.similarity[name], other.similarity[name])
    assert not torch.equal(cascading.similarity["spearman"][1], independent.similarity["spearman"][1])
    torch.testing.assert_close(cascading.to_last[-1], torch.ones(4).double())
    # The first step: the classifier alone, explained for the classes of the trained model.
    random = conv_net().double()
    from fastcam.evaluate.random_weights import _randomise

    _randomise(random, "classifier", 3)
    weight, was = random.classifier.weight, model.classifier.weight
    assert weight.mean().item() == pytest.approx(was.mean().item(), abs=0.1)
    assert weight.std().item() == pytest.approx(was.std().item(), rel=0.3)
    assert not torch.equal(weight[0, :5], random.classifier.bias[:5])
    maps = fastcam.explain(random, images, "saliency", trained.targets).raw
    expected = [spearman(a.numpy(), b.numpy()) for a, b in zip(trained.raw, maps, strict=True)]
    np.testing.assert_allclose(cascading.similarity["spearman"][0], expected, rtol=1e-9)


def test_equal_shapes_get_other_weights():
    from fastcam.evaluate.random_weights import _randomise

    model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Linear(6, 6))
    for name in ("0", "1"):
        _randomise(model, name, 0)
    scaled = [(each.weight - each.weight.mean()) / each.weight.std() for each in model]
    assert not torch.allclose(scaled[0], scaled[1], atol=0.1)


def test_real_weights_tell_methods_apart():
    """The paper's finding: Grad-CAM follows the weights from the top; guided backpropagation hardly sees them."""
    model, images = efficientnet_lite0(), photographs()
    layers = ["_fc", "_blocks.15", "_blocks.12", "_blocks.0", "_conv_stem"]
    grad_cam = evaluate.randomisation(model, images, layers=layers)
    guided = evaluate.randomisation(model, images, "guided_backprop", layers=layers)
    assert (grad_cam.similarity["spearman"].nanmean(1)[:2] < 0.5).all()
    assert (guided.similarity["spearman"].nanmean(1)[:2] > 0.95).all()
    assert "once the layers from the output to '_fc' are random" in grad_cam.verdict
    assert "once the layers from the output to '_conv_stem'" in guided.verdict or "'_blocks.0'" in guided.verdict
    alone = evaluate.randomisation(model, images, "guided_backprop", layers=layers, order="independent")
    assert "hardly depends on the weights of _fc, _blocks.15" in alone.verdict
    figure = grad_cam.plot()
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == layers


def test_a_map_that_ignores_the_model():
    """The verdict of a method that returns the image itself."""

    @fastcam.method("the_image", needs=("images",), returns="map", paper="none")
    def the_image(images):
        return images.mean(1 if images.dim() == 4 else 2)

    try:
        found = evaluate.randomisation(conv_net(), images_for().float(), "the_image")
        assert found.verdict == "the_image hardly depends on the weights: the rank correlation stays at 1"
    finally:
        del fastcam.methods.registry._methods["the_image"]


def test_randomisation_that_cannot_be():
    model, images = conv_net(), images_for().float()
    with pytest.raises(ValueError, match="`order` must be one of cascading, independent, got 'random'"):
        evaluate.randomisation(model, images, order="random")
    with pytest.raises(ValueError, match="layer 'relu' has no weights that could be random"):
        evaluate.randomisation(model, images, layers=["relu"])
    with pytest.raises(ValueError, match="'nothing'"):
        evaluate.randomisation(model, images, layers=["nothing"])


def test_stability():
    """Each perturbation by hand, in pixels; the class is that of the unchanged image."""
    model = conv_net()
    pixels = torch.rand(3, 3, 12, 10, generator=torch.Generator().manual_seed(1))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    shift, scale = (torch.tensor(each)[:, None, None] for each in (mean, std))
    images = (pixels - shift) / scale
    levels = {"brightness": [0.5, 1.5], "noise": [0.1]}
    found = evaluate.stability(model, images, "saliency", mean=mean, std=std, levels=levels)
    clean = fastcam.explain(model, images, "saliency")
    assert found.levels == [("brightness", 0.5), ("brightness", 1.5), ("noise", 0.1)]
    for index, level in enumerate((0.5, 1.5)):
        changed = ((pixels * level).clamp(0, 1) - shift) / scale
        explanation = fastcam.explain(model, changed, "saliency", clean.targets)
        assert found.flipped[index].tolist() == (model(changed).argmax(1) != clean.targets).tolist()
        expected = [spearman(a.numpy(), b.numpy()) for a, b in zip(clean.raw, explanation.raw, strict=True)]
        np.testing.assert_allclose(found.similarity[index], expected, atol=1e-5)
    rows = list(found.rows())
    assert rows[0]["perturbation"] == "brightness"
    assert 0 <= rows[0]["flipped"] <= 1
    assert len(str(found).splitlines()) == 4
    assert [panel.get_title() for panel in found.plot().axes] == ["brightness", "noise"]


def test_stability_as_a_measure():
    """One number an image; perturbed once for both measures and methods, and like the function."""
    net = conv_net()
    # Bright images are of the first class.
    model = Call(lambda x: torch.cat([100 * (x.mean((1, 2, 3)) - 0.3)[:, None] + net(x)[:, :1], net(x)[:, 1:]], 1))
    images = torch.rand(3, 3, 12, 10, generator=torch.Generator().manual_seed(1))
    levels = {"blur": [1, 2], "brightness": [0.1, 1.3]}
    methods = ["saliency", "input_x_gradient"]
    explanations, explainer = fastcam.explain(model.eval(), images, methods), fastcam.Explainer(model, methods)
    names = ["map_stability", "prediction_stability"]
    found = evaluate.run(explanations, names, explainer=explainer, options={name: {"levels": levels} for name in names})
    assert found.passes == 8
    for method in methods:
        whole = evaluate.stability(model, images, method, levels=levels)
        stays = ~whole.flipped
        assert 0 < stays.sum() < stays.numel()
        expected = whole.similarity.masked_fill(whole.flipped, torch.nan).nanmean(0)
        torch.testing.assert_close(found[method, names[0]].values, expected, check_dtype=False, equal_nan=True)
        torch.testing.assert_close(found[method, names[1]].values, stays.float().mean(0))
        assert found[method, names[1]].details["flipped"].shape == (3, 4)
    alone = evaluate.prediction_stability(model, images, explanations["saliency"], levels=levels)
    torch.testing.assert_close(alone, found["saliency", names[1]].values)


def test_predictions_of_one_output():
    """A single logit: above 0 or not."""
    net = conv_net()
    model = Call(lambda x: net(x)[:, :1] - net(x)[:, :1].mean()).eval()
    images = torch.rand(4, 3, 12, 10, generator=torch.Generator().manual_seed(1))
    explanation = fastcam.explain(model, images, "saliency")
    levels = {"brightness": [0.1]}
    found = evaluate.prediction_stability(model, images, explanation, levels=levels)
    expected = (model(images) > 0) == (model(images * 0.1) > 0)
    assert found.tolist() == expected[:, 0].tolist()


def test_perturbations():
    pixels = torch.rand(2, 3, 32, 24, generator=torch.Generator().manual_seed(1))
    noise = PERTURBATIONS["noise"](pixels, 0.1, 0) - pixels
    assert noise.std().item() == pytest.approx(0.1, rel=0.05)
    torch.testing.assert_close(noise[0], noise[1], atol=1e-6, rtol=0)
    ramp = torch.linspace(0, 1, 24).expand(2, 3, 32, 24)
    mild, strong = ((PERTURBATIONS["jpeg"](ramp, level, 0) - ramp).abs().mean() for level in (95, 5))
    assert 0 < mild < 0.01 < strong
    smooth = PERTURBATIONS["blur"](torch.eye(31)[None, None], 2.0, 0)
    assert smooth.sum().item() == pytest.approx(31, rel=0.05)
    column = torch.zeros(1, 1, 41, 41)
    column[..., 20, 20] = 1
    spread = PERTURBATIONS["blur"](column, 2.0, 0)[0, 0].sum(0)
    offsets = torch.arange(41) - 20.0
    assert (spread * offsets**2).sum().sqrt().item() == pytest.approx(2, rel=0.03)


def test_stability_that_cannot_be_measured():
    model = conv_net()
    images = torch.rand(2, 3, 12, 10)
    with pytest.raises(ValueError, match="one of noise, jpeg, blur, brightness, got 'rain'"):
        evaluate.stability(model, images, levels={"rain": [1]})
    with pytest.raises(ValueError, match="no pixels in \\[0, 1\\]: pass the `mean` and `std`"):
        evaluate.stability(model, 4 * images - 2)
    with pytest.raises(ValueError, match="of one target an image"):
        evaluate.stability(model, images, target=[[0, 1]] * 2)
    with pytest.raises(ValueError, match="stability needs an output"):
        evaluate.stability(Call(lambda x: x[:, :2]).eval(), images, "saliency", lambda out: out.sum((1, 2, 3)))
