"""Measuring many things at once: sharing, batches, targets, memory, and sentences for what does not fit."""

import numpy as np
import pytest
import torch

import fastcam
from fastcam import evaluate
from tests.evaluate.support import COUNT, classifier, images_for, probability, random_maps, with_maps, without
from tests.support.conv_net import Call, conv_net
from tests.support.model_state import snapshot

pytestmark = pytest.mark.usefixtures("one_thread")

ALL = [each.name for each in evaluate.list_measures() if "attributions" not in each.needs]
FEW = {
    "deletion": {"steps": 4},
    "insertion": {"steps": 4},
    "pixel_flipping": {"pixels": 30},
    "road": {"percentages": [30, 60]},
    "infidelity": {"regions": 5},
    "faithfulness_correlation": {"regions": 5},
    "max_sensitivity": {"samples": 2},
    "local_lipschitz": {"samples": 2},
    "max_box_accuracy": {"thresholds": [0.2, 0.5]},
    "map_stability": {"levels": {"jpeg": [50]}, "mean": (0.5,), "std": (0.02,)},
    "prediction_stability": {"levels": {"noise": [0.1]}, "mean": (0.5,), "std": (0.02,)},
}


def everything(explainer, explanations, images, **arguments):
    masks = torch.zeros(len(images), 12, 10, dtype=torch.bool)
    masks[:, 3:8, 2:6] = True
    return evaluate.run(explanations, ALL, images=images, explainer=explainer, masks=masks, options=FEW, **arguments)


def test_every_measure_has_a_function_of_its_own():
    for each in evaluate.list_measures():
        function = getattr(evaluate, each.name)
        assert each.name in evaluate.__all__
        assert function.__name__ == each.name
        assert each.formula in function.__doc__
        assert each.summary
        assert each.formula
        assert each.paper


def test_several_methods_share_what_can_be_shared():
    model, images = classifier(), images_for()
    explainer = fastcam.Explainer(model, ["grad_cam", "saliency"])
    explanations = explainer(images)
    both = everything(explainer, explanations, images)
    assert both.passes < sum(each.passes for each in both.values())
    for method in explanations:
        one = fastcam.Explainer(model, method)
        alone = everything(one, one(images), images)
        for name in ALL:
            torch.testing.assert_close(
                both[method, name].values, alone[method, name].values, rtol=1e-9, atol=1e-12, equal_nan=True
            )
    # 5 regions, 5 sets of cells, 2 + 2 noises and the two baselines are of the images alone.
    shared = sum(each.passes for each in both.values()) - both.passes
    assert shared >= 2 * 16 - 16


@pytest.mark.parametrize("batch_size", [1, 3, "auto"])
def test_values_do_not_depend_on_the_batch(batch_size):
    model, images = classifier(), images_for()
    explainer = fastcam.Explainer(model, "grad_cam")
    whole = everything(explainer, explainer(images), images)
    order = [2, 0, 3, 1]
    parts = [everything(explainer, explainer(images[[i]]), images[[i]], batch_size=batch_size) for i in order]
    for name in ALL:
        joined = torch.cat([part["grad_cam", name].values for part in parts])
        torch.testing.assert_close(joined, whole["grad_cam", name].values[order], rtol=1e-9, atol=1e-12, equal_nan=True)


def test_targets_of_an_image_are_measured_each_for_its_class():
    model, images = classifier(), images_for()
    classes = torch.tensor([[0, 3], [4, 1], [2, 2], [1, 0]])
    maps = random_maps(2 * COUNT).reshape(COUNT, 2, 12, 10)
    explanation = with_maps(model, images, maps, classes)
    results = evaluate.run(
        explanation, ["deletion", "average_drop", "infidelity"], model, options={"deletion": {"steps": 3}}
    )
    for k in range(2):
        one = with_maps(model, images, maps[:, k], classes[:, k])
        alone = evaluate.run(one, ["deletion", "average_drop", "infidelity"], model, options={"deletion": {"steps": 3}})
        for name in ("deletion", "average_drop", "infidelity"):
            torch.testing.assert_close(
                results["mine", name].values[:, k], alone["mine", name].values, rtol=1e-9, atol=0
            )
    zeros = torch.zeros_like(images)
    curves = [probability(model, without(images, zeros, maps[:, 1], n), classes[:, 1]) for n in (0, 40, 80, 120)]
    np.testing.assert_allclose(results["mine", "deletion"].details["curve"][:, 1], np.stack(curves, 1), rtol=1e-9)


def test_other_scores():
    """A function of the output, a score object and one output alone, in place of classes."""
    model, images = classifier(), images_for()
    score = fastcam.targets.Difference(1, 3)
    explanation = fastcam.explain(model, images, target=score)
    found = evaluate.deletion(model, images, explanation, target=score, steps=2)
    half = without(images, torch.zeros_like(images), explanation.maps, 60)
    curve = [(logits := model(x).detach())[:, 1] - logits[:, 3] for x in (images, half, torch.zeros_like(images))]
    torch.testing.assert_close(found, (curve[0] + 2 * curve[1] + curve[2]) / 4, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="pass it as `target`"):
        evaluate.deletion(model, images, fastcam.explain(model, images, target=lambda out: out[:, 1] ** 2))
    one = Call(lambda x: model(x)[:, :1]).eval()
    explanation = fastcam.explain(one, images, "saliency", target=0)
    curve = [torch.sigmoid(one(x).detach()[:, 0]) for x in (images, torch.zeros_like(images))]
    found = evaluate.deletion(one, images, explanation, steps=1)
    torch.testing.assert_close(found, (curve[0] + curve[1]) / 2, rtol=1e-9, atol=1e-12)


def test_models_with_other_arguments():
    model = classifier()
    images, weights = images_for(), torch.rand(COUNT, 5, dtype=torch.float64)
    both = Call(lambda x, w: model(x) * w).eval()
    explanation = fastcam.explain(both, (images, weights), "saliency")
    zeros, classes = torch.zeros_like(images), explanation.targets
    for batch_size in ("auto", 3):
        found = evaluate.deletion(both, (images, weights), explanation, steps=1, batch_size=batch_size)
        expected = [both(x, weights).detach().softmax(1).gather(1, classes[:, None])[:, 0] for x in (images, zeros)]
        torch.testing.assert_close(found, (expected[0] + expected[1]) / 2, rtol=1e-9, atol=1e-12)


def test_arguments_by_name_and_inference_mode():
    """What explains the copies gets them in the form in which the images came, and may record a graph."""
    model = classifier()

    class Named(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, pixel_values, scale):
            return self.net(pixel_values) * scale

    images = images_for()
    with torch.inference_mode():
        given = {"pixel_values": images.clone(), "scale": torch.ones(COUNT, 5, dtype=torch.float64)}
        explainer = fastcam.Explainer(Named().eval(), "saliency", explain_input="pixel_values")
        named = evaluate.run(
            explainer(given), ["coherency", "deletion"], images=given, explainer=explainer, explain_input="pixel_values"
        )
    plain = fastcam.Explainer(model, "saliency")
    expected = evaluate.run(plain(images), ["coherency", "deletion"], explainer=plain)
    for name in ("coherency", "deletion"):
        torch.testing.assert_close(named["saliency", name].values, expected["saliency", name].values)


def test_ties_are_broken_alike_and_not_from_a_corner():
    model, images = classifier(), images_for()
    constant = with_maps(model, images, torch.zeros(COUNT, 12, 10, dtype=torch.float64))
    batch = evaluate.case.Batch(images, torch.arange(COUNT))
    ranks = evaluate.api.case_of(constant, batch).ranks
    assert (ranks == ranks[:1]).all()
    assert ranks[0].flatten().sort().values.tolist() == list(range(120))
    first = (ranks[0] < 60).float()
    assert 20 <= first[:6].sum() <= 40  # half of them in the upper half
    assert not evaluate.deletion(model, images, constant).isnan().any()


def test_maps_that_are_not_finite_have_no_value():
    model, images = classifier(), images_for()
    maps = random_maps()
    maps[1, 0, 0], maps[3, 2, 2] = torch.nan, -torch.inf
    explanation = with_maps(model, images, maps)
    for name in ("deletion", "road", "average_drop", "infidelity", "sufficiency"):
        found = evaluate.run(explanation, name, model, options={name: FEW.get(name, {})})["mine", name]
        assert found.values.isnan().tolist() == [False, True, False, True]
        assert found.undefined == 2
        for each in found.details.values():
            assert each[1].isnan().all()
            assert not each[0].isnan().any()
        low, high = found.interval()
        assert low <= found.mean <= high


def test_the_model_is_left_as_it_was():
    model, images = conv_net(), images_for().float()
    model.stem[0].weight.requires_grad_(False)
    before, copy = snapshot(model), images.clone()
    explainer = fastcam.Explainer(model, "grad_cam")
    everything(explainer, explainer(images), images)
    assert snapshot(model) == before
    assert torch.equal(images, copy)


def test_memory_that_runs_out_halves_the_batch():
    model, images = classifier(), images_for()
    seen = []

    def limited(x):
        seen.append(len(x))
        if len(x) > 5:
            raise torch.OutOfMemoryError("out of memory")
        return model(x)

    explanation = fastcam.explain(model, images)
    found = evaluate.deletion(Call(limited).eval(), images, explanation)
    torch.testing.assert_close(found, evaluate.deletion(model, images, explanation), rtol=1e-9, atol=0)
    assert max(seen) > 5
    assert sum(count for count in seen if count <= 5) == COUNT * 21


def test_what_a_result_says():
    model, images = classifier(), images_for()
    explanation = fastcam.explain(model, images)
    evaluation = evaluate.run(explanation, ["insertion", "deletion"], model, options={"deletion": {"steps": 5}})
    about = evaluation["grad_cam", "deletion"].about
    assert about["steps"] == "5"
    assert about["baseline"] == "0.0 in units of the input"
    assert about["better"] == "lower"
    assert about["passes"] == "5"
    assert "probability" in about["f"]
    lines = str(evaluation).splitlines()
    assert lines[0].split() == ["insertion", "deletion"]
    assert lines[1].startswith("grad_cam")
    rows = list(evaluation.rows())
    assert len(rows) == 2 * COUNT
    assert rows[0] == {
        "image": 0, "target": 0, "method": "grad_cam", "layer": explanation.layer, "measure": "insertion",
        "value": evaluation["grad_cam", "insertion"].values[0].item(),
    }  # fmt: skip


def test_intervals_cover_the_mean():
    """Of 200 samples of 40 images about 95 % have the true mean in their interval."""
    generator = torch.Generator().manual_seed(0)
    inside = 0
    for _ in range(200):
        low, high = evaluate.bootstrap.interval(torch.rand(40, generator=generator), samples=500)
        inside += low <= 0.5 <= high
    assert 180 <= inside <= 199
    values = torch.tensor([[1.0, torch.nan], [1.0, 3.0]])
    low, high = evaluate.bootstrap.interval(values)
    assert 1 <= low <= high <= 2


def test_a_measure_of_your_own():
    @evaluate.measure("twice_the_score", needs=("scores",), formula="2 f(x without anything)", paper="none")
    def twice(case, *, factor: float = 2.0):
        """Twice the score of black."""
        scores = yield evaluate.requests.Scores([evaluate.copies.Emptied(0.0)])
        return factor * scores[:, 0]

    try:
        model, images = classifier(), images_for()
        explanation = fastcam.explain(model, images)
        found = evaluate.run(explanation, "twice_the_score", model, options={"twice_the_score": {"factor": 3.0}})
        expected = 3 * probability(model, torch.zeros_like(images), explanation.targets)
        np.testing.assert_allclose(found["grad_cam", "twice_the_score"].values, expected, rtol=1e-9)
        with pytest.raises(ValueError, match="registered already"):
            evaluate.measure("twice_the_score", formula="", paper="")(twice)
    finally:
        del evaluate.registry._measures["twice_the_score"]


def test_sentences():
    model, images = classifier(), images_for()
    explanation = fastcam.explain(model, images)
    for call, text in (
        (lambda: evaluate.run(explanation, "insertions", model), "did you mean 'insertion'"),
        (lambda: evaluate.run(explanation, "insertion"), "changes the images and asks the model: pass `model`"),
        (lambda: evaluate.run(explanation, "coherency", model), "pass the explainer"),
        (lambda: evaluate.run(explanation, "insertion", model, options={"deletion": {}}), "which is not measured"),
        (lambda: evaluate.run(explanation, "insertion", model, images[:2]), r"must be those that were explained"),
        (lambda: evaluate.run({"a": explanation, "b": fastcam.explain(model, images[:2])}, "insertion", model),
         "must be of the same images and targets"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            call()
    with pytest.raises(TypeError, match=r"must be what fastcam\.explain returns, got Tensor"):
        evaluate.run(explanation.maps, "insertion", model)
