"""Scores of what is not normal: by their formulas, fitted in one pass, with gradients, in any batch."""

import pytest
import torch
from torch import nn

import fastcam
from fastcam import targets
from fastcam.targets.anomaly import representatives, shrunk
from tests.support.conv_net import conv_net, images_for

pytestmark = pytest.mark.usefixtures("one_thread")


def features(count: int = 60, size: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(count, size, generator=generator).double() @ torch.randn(size, size, generator=generator).double()
    )


def normal_images(count: int = 12) -> torch.Tensor:
    return images_for(count=count, seed=7).double()


def pooled(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model.features(model.stem(images)).mean((2, 3)).detach()


def test_shrinkage():
    """The best share by the formula of Chen, Wiesel, Eldar and Hero, and any other; of more axes than vectors too."""
    for count, size in ((60, 5), (8, 12)):
        values = features(count, size)
        centred = values - values.mean(0)
        covariance = centred.T @ centred / count
        found = shrunk(covariance, count, "oas")
        squares, trace = covariance.square().sum(), covariance.trace()
        wanted = (1 - 2 / size) * squares + trace**2
        share = min(1.0, float(wanted / ((count + 1 - 2 / size) * (squares - trace**2 / size))))
        exact = (1 - share) * covariance + share * trace / size * torch.eye(size).double()
        torch.testing.assert_close(found, exact)
        other = 0.7 * covariance + 0.3 * trace / size * torch.eye(size).double()
        torch.testing.assert_close(shrunk(covariance, count, 0.3), other)


@pytest.mark.parametrize("sizes", [[12], [5, 5, 2], [1] * 12])
@pytest.mark.parametrize("shrinkage", ["oas", 0.1])
def test_distance_is_fitted_in_one_pass(sizes, shrinkage):
    """In any batches, with a label beside the images or without."""
    model, images = conv_net().double(), normal_images()
    batches = [(batch, torch.zeros(len(batch))) for batch in images.split(sizes)]
    found = targets.Distance.fit(model, batches, "features", shrinkage)
    values = pooled(model, images)
    covariance = torch.cov(values.T, correction=0)
    torch.testing.assert_close(found.mean, values.mean(0))
    torch.testing.assert_close(found.precision, torch.linalg.inv(shrunk(covariance, 12, shrinkage)))


def test_distance_and_its_map():
    """The closed form: behind the mean over positions the gradient is 2 precision (f - mean) / positions."""
    model, images = conv_net().double(), images_for(count=3).double()
    score = targets.Distance.fit(model, [normal_images()], "features", 0.2)
    found = fastcam.explain(model, images, "grad_cam", score, "features", relu=False)
    difference = pooled(model, images) - score.mean
    exact = torch.einsum("nd,de,ne->n", difference, score.precision, difference)
    torch.testing.assert_close(found.scores, exact)
    maps = model.features(model.stem(images)).detach()
    positions = maps.shape[2] * maps.shape[3]
    weights = 2 * difference @ score.precision / positions
    torch.testing.assert_close(found.native, (weights[:, :, None, None] * maps).sum(1))


def test_distance_of_the_output_in_methods_of_many_copies():
    model, images = conv_net().double(), images_for(count=3).double()
    score = targets.Distance.fit(model, [normal_images()])
    together = fastcam.explain(model, images, "occlusion", score, window=4, batch_size=5)
    for row in range(3):
        alone = fastcam.explain(model, images[row : row + 1], "occlusion", score, window=4, batch_size=1)
        torch.testing.assert_close(together.native[row], alone.native[0])


@pytest.mark.parametrize("k", [1, 3])
def test_nearest_neighbours(k):
    """The mean distance to the k nearest, of the position that is farthest; its gradient by autograd."""
    model, images = conv_net().double(), images_for(count=3).double()
    score = targets.NearestNeighbours.fit(model, normal_images().split(5), "features", k, share=0.5)
    maps = model.features(model.stem(images)).detach().requires_grad_()
    rows = maps.flatten(2).transpose(1, 2)
    distances = (rows[:, :, None] - score.bank).norm(dim=-1).sort(-1).values[..., :k].mean(-1)
    torch.testing.assert_close(score.distances(maps).flatten(1), distances)
    exact = distances.amax(1)
    (gradient,) = torch.autograd.grad(exact.sum(), maps)
    found = fastcam.explain(model, images, "hires_cam", score, "features", relu=False)
    torch.testing.assert_close(found.scores, exact.detach())
    torch.testing.assert_close(found.native, (gradient * maps).sum(1).detach())


def test_nearest_neighbours_of_vectors():
    model, images = conv_net().double(), images_for(count=3).double()
    score = targets.NearestNeighbours.fit(model, [normal_images()], share=1.0)
    found = fastcam.explain(model, images, "saliency", score)
    exact = torch.cdist(model(images), model(normal_images())).amin(1)
    torch.testing.assert_close(found.scores, exact.detach())


def test_representatives():
    """Each is the farthest from all before it; all of them where there are no more."""
    values = features(30)
    chosen = representatives(values, 8, seed=3).tolist()
    assert len(set(chosen)) == 8
    for number in range(1, 8):
        nearest = torch.cdist(values, values[chosen[:number]]).amin(1)
        assert nearest[chosen[number]] == nearest.max()
    assert sorted(representatives(values[:4], 9).tolist()) == [0, 1, 2, 3]
    assert representatives(values, 8, seed=3).tolist() == chosen


def test_a_defect_is_farther_and_its_place_is_marked():
    """On textures: the score parts normal from defect images, and the map is highest where the defect is."""
    generator = torch.Generator().manual_seed(0)
    texture = torch.rand(40, 3, 32, 32, generator=generator).double()
    defect = texture[30:].clone()
    defect[:, :, 4:10, 20:26] = 1.5
    model = conv_net().double()
    for score in (
        targets.NearestNeighbours.fit(model, texture[:30].split(10), "features"),
        targets.Distance.fit(model, texture[:30].split(10), "features"),
    ):
        found = fastcam.explain(
            model, torch.cat([texture[30:], defect]), "occlusion", score, window=6, stride=2, baseline=0.5
        )
        assert found.scores[10:].min() > found.scores[:10].max()
        for map_ in found.raw[10:]:
            row, column = divmod(int(map_.argmax()), 32)
            assert 2 <= row <= 12
            assert 18 <= column <= 28


@pytest.mark.parametrize("kind", [targets.Distance, targets.NearestNeighbours])
def test_mistakes(kind):
    model = conv_net()
    with pytest.raises(ValueError, match="no normal images"):
        kind.fit(model, [])
    with pytest.raises(ValueError, match="no layer named 'layer9'"):
        kind.fit(model, [images_for()], "layer9")
    score = kind.fit(model, [images_for(count=4)], "features")
    score.layer = None
    with pytest.raises(ValueError, match=r"the model must return features \(2, 8, ...\), got shape \(2, 5\)"):
        fastcam.explain(model, images_for(), "saliency", score)


def test_wrong_numbers():
    model, images = conv_net(), [images_for(count=4)]
    with pytest.raises(ValueError, match="`shrinkage` must be"):
        targets.Distance.fit(model, images, shrinkage=2)
    with pytest.raises(ValueError, match="`share` must lie"):
        targets.NearestNeighbours.fit(model, images, share=0)
    with pytest.raises(ValueError, match="`k` must lie in"):
        targets.NearestNeighbours(torch.zeros(3, 2), 4)
    with pytest.raises(ValueError, match="`bank` must be"):
        targets.NearestNeighbours(torch.zeros(3))
    with pytest.raises(ValueError, match="`mean` and `precision` must be"):
        targets.Distance(torch.zeros(3), torch.zeros(2, 2))


def test_log_likelihood():
    """Against torch's own normal distribution."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    covariance = features.T.cov()
    target = targets.LogLikelihood(features.mean(0), torch.linalg.inv(covariance))
    exact = torch.distributions.MultivariateNormal(features.mean(0), covariance).log_prob(features[:5])
    torch.testing.assert_close(target.score(features[:5]), exact)
    torch.testing.assert_close(target.bind(features[:5], 5)(features[:5], torch.arange(5)), exact)


def test_distances_of_positions():
    """The density's own map: fitted to the features of all positions, position by position by hand."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(4, 3, 5, 6, generator=generator, dtype=torch.float64) for _ in range(2)]
    target = targets.Distance.fit(torch.nn.Identity(), batches, shrinkage=0.1, positions=True)
    rows = torch.cat(batches).movedim(1, -1).reshape(-1, 3)
    covariance = rows.T.cov(correction=0)
    shrunk = 0.9 * covariance + 0.1 * covariance.trace() / 3 * torch.eye(3)
    features = batches[0][:2]
    difference = features.movedim(1, -1) - rows.mean(0)
    exact = torch.einsum("nhwi,ij,nhwj->nhw", difference, torch.linalg.inv(shrunk), difference)
    torch.testing.assert_close(target.distances(features), exact)
