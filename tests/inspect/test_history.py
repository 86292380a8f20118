"""The history of activations in training: the numbers of every step, by hand, in Lightning and in fastai."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastcam

pytestmark = pytest.mark.usefixtures("one_thread")


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )


def batches(count=6):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(3, 1, 8, 8, generator=generator), torch.randint(2, (3,), generator=generator))
        for _ in range(count)
    ]


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def train(model, steps):
    """The plain loop; returns what the first layer gave in every step."""
    optimizer, seen = torch.optim.SGD(model.parameters(), 0.5), []
    for images, labels in steps:
        with torch.no_grad():
            seen.append(nn.functional.conv2d(images, model[0].weight, model[0].bias).double())
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return seen


def test_the_numbers_of_every_step():
    model = small().train()
    history = fastcam.inspect.ActivationHistory(model, [model[0], "1"], bins=10, limits=(-1, 1))
    with history:
        expected = train(model, batches())
        model.eval()
        model(batches()[0][0])  # not training: not counted
    assert hooks(model) == 0
    first = history["0"]
    assert first.steps.tolist() == list(range(6))
    for step, values in enumerate(expected):
        assert first.mean[step] == pytest.approx(values.mean().item(), abs=1e-6)
        assert first.deviation[step] == pytest.approx(values.std(correction=0).item(), rel=1e-5)
        assert first.near_zero[step] == pytest.approx((values.abs() < 0.05).double().mean().item(), abs=1e-6)
        counts = np.histogram(values.clamp(-1, 1).numpy(), 10, (-1, 1))[0]
        assert np.abs(first.histogram[step] - counts).sum() <= 4  # values on an edge, in float32
        assert first.histogram[step].sum() == values.numel()
    assert (history["1"].histogram[:, :4] == 0).all()  # behind a ReLU nothing is negative


def test_the_batches_of_a_dataset():
    model = small().eval()
    with fastcam.inspect.ActivationHistory(model, "0", limits=(-1, 1), only_training=False) as history:
        for images, _ in batches(3):
            model(images)
    assert history["0"].steps.tolist() == [0, 1, 2]


def test_steps_that_are_left_out():
    model = small().train()
    with fastcam.inspect.ActivationHistory(model, "1", every=3) as history:
        for images, _ in batches(7):
            model(images)
    assert history["1"].steps.tolist() == [0, 3, 6]
    assert list(history) == ["1"]


def test_pictures():
    model = small().train()
    history = fastcam.inspect.ActivationHistory(model, ["0", "1"], bins=5, limits=(-1, 1))
    with pytest.raises(ValueError, match="no step was seen"):
        history.figure()
    with history:
        for images, _ in batches(4):
            model(images)
    strip = history["1"].strip("jet")
    assert strip.shape == (5, 4, 3)
    assert (strip[4] == strip[3]).all()  # no negative values: the colour of none in both lowest bins
    assert (strip[2] != strip[4]).any()
    figure = history.figure()
    assert figure.width > 640
    assert figure.height > 240


def test_the_hooks_go_whatever_happens():
    model = small().train()
    history = fastcam.inspect.ActivationHistory(model, "0")
    with pytest.raises(RuntimeError), history:
        model(torch.zeros(1, 2, 8, 8))
    assert hooks(model) == 0


@pytest.mark.parametrize(
    ("options", "word"), [({"bins": 0}, "bins"), ({"every": 0}, "every"), ({"limits": (1, 1)}, "limits")]
)
def test_mistakes(options, word):
    with pytest.raises(ValueError, match=f"`{word}`"):
        fastcam.inspect.ActivationHistory(small(), "0", **options)


def by_hand(steps):
    model = small().train()
    with fastcam.inspect.ActivationHistory(model, "0") as history:
        train(model, steps)
    return history["0"]


@pytest.mark.filterwarnings("ignore")
def test_lightning(tmp_path):
    """The callback sees what the plain loop sees, and nothing of the validation."""
    import pytorch_lightning as lightning

    class Task(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = small()

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch, index):
            self.net(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.5)

    steps = batches()
    data = TensorDataset(torch.cat([images for images, _ in steps]), torch.cat([labels for _, labels in steps]))
    task = Task()
    history = fastcam.inspect.ActivationHistory(task, "net.0")
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[history.for_lightning()], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(task, DataLoader(data, 3), DataLoader(data, 3))
    found, expected = history["net.0"], by_hand(steps)
    assert found.steps.tolist() == list(range(6))
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-6)
    np.testing.assert_allclose(found.histogram, expected.histogram, atol=2)
    assert hooks(task) == 0


@pytest.mark.filterwarnings("ignore")
def test_fastai():
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import SGD

    steps = batches()
    data = TensorDataset(torch.cat([images for images, _ in steps]), torch.cat([labels for _, labels in steps]))
    model = small()
    history = fastcam.inspect.ActivationHistory(model, "0")
    learner = Learner(
        DataLoaders(DataLoader(data, 3), DataLoader(data, 3), device="cpu"),
        model,
        nn.functional.cross_entropy,
        SGD,
        cbs=[history.for_fastai()],
    )
    learner.fit(1, 0.5)
    found, expected = history["0"], by_hand(steps)
    assert found.steps.tolist() == list(range(6))
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-6)
    assert hooks(model) == 0
