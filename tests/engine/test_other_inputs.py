"""Other arguments of the model: which have a row per image, names, and the explained one."""

import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam.model.inputs import Inputs
from tests.support.token_networks import pictures

pytestmark = pytest.mark.usefixtures("one_thread")

COPYING = {
    "score_cam": {},
    "ablation_cam": {},
    "rise": {"masks": 7},
    "integrated_gradients": {"steps": 4},
    "smooth_grad": {"samples": 3},
    "occlusion dense": {"window": 4, "stride": 4, "engine": "dense"},
    "occlusion incremental": {"window": 4, "stride": 4, "engine": "incremental"},
}


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)


class ImageText(nn.Module):
    """Similarity (N, texts) of every image to every text, as CLIP gives; the ids in front."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.vision = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 6, 3, padding=1), nn.Tanh())
        self.words = nn.Embedding(20, 6)

    def forward(self, ids: Tensor, pixels: Tensor, scale: float = 2.0) -> Tensor:
        texts = self.words(ids).mean(1)
        return scale * self.vision(pixels).mean((2, 3)) @ texts.T


class Both(ImageText):
    """The similarities both ways and the embeddings, as Hugging Face's CLIP returns them."""

    def forward(self, ids: Tensor, pixels: Tensor) -> dict[str, Tensor]:
        images = super().forward(ids, pixels)
        texts = self.words(ids).mean(1)
        return {"logits_per_image": images, "logits_per_text": images.T, "text_embeds": texts}


class Metadata(nn.Module):
    """Pixels and two numbers for every image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.vision = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 6, 3, padding=1), nn.Tanh())
        self.numbers, self.head = nn.Linear(2, 6), nn.Linear(6, 5)

    def forward(self, pixels: Tensor, numbers: Tensor) -> Tensor:
        return self.head((self.vision(pixels).mean((2, 3)) * (1 + self.numbers(numbers))).tanh())


def image_text(count: int = 3) -> tuple[ImageText, Tensor, Tensor]:
    """The model, as many texts as images, and the images."""
    ids = torch.randint(0, 20, (count, 4), generator=torch.Generator().manual_seed(1))
    return ImageText().double().eval(), ids, pictures(8, 12, count=count)


def numbers(count: int = 3) -> Tensor:
    return torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def seeded(model: nn.Module, inputs: object, method: str, target: object, **options: object) -> Tensor:
    name = method.split(maxsplit=1)[0]
    layer = {"target_layer": "vision"} if name.endswith("cam") else {}
    return fastcam.explain(model, inputs, name, target, **layer, **COPYING.get(method, {}), **options).native


def test_of_several_parts_the_scored_one_tells_what_is_shared():
    model, ids, images = image_text()
    found = seeded(Both().double().eval(), (ids, images), "occlusion dense", [2, 0, 1], strict=True)
    close(found, seeded(model, (ids, images), "occlusion dense", [2, 0, 1], strict=True))


@pytest.mark.parametrize("method", ["grad_cam", "saliency", *COPYING])
def test_as_many_texts_as_images(method):
    """Every image against all texts: the map of one alone with all of them. Noise and masks begin with the first."""
    model, ids, images = image_text()
    found = seeded(model, (ids, images), method, [2, 0, 1], batch_size=7, strict=True)
    for i in range(1 if method in ("rise", "smooth_grad") else 3):
        alone = seeded(model, (ids, images[i : i + 1]), method, [[2, 0, 1][i]])
        close(found[i : i + 1], alone)


@pytest.mark.parametrize("method", ["grad_cam", "saliency", *COPYING])
def test_numbers_of_every_image_stay_its_own(method):
    model, images = Metadata().double().eval(), pictures(8, 12, count=3)
    found = seeded(model, (images, numbers()), method, [2, 0, 1], batch_size=7, strict=True)
    for i in range(1 if method in ("rise", "smooth_grad") else 3):
        alone = seeded(model, (images[i : i + 1], numbers()[i : i + 1]), method, [[2, 0, 1][i]])
        close(found[i : i + 1], alone)


def test_what_is_found_is_noted():
    model, ids, images = image_text()
    found = fastcam.explain(model, (ids, images), target=1, strict=True)
    assert any("arguments [0] of the model are the same for all images" in note for note in found.notes)
    rows = fastcam.explain(Metadata().double().eval(), (images, numbers()), target=1, strict=True)
    assert not any("argument" in note for note in rows.notes)


@pytest.mark.parametrize(("named", "shared"), [(False, [0]), (False, 0), (True, ["ids"]), (True, "ids")])
def test_shared_by_position_and_by_name(named, shared):
    model, ids, images = image_text()
    inputs = {"pixels": images, "ids": ids} if named else (ids, images)
    found = fastcam.explain(model, inputs, "score_cam", [2, 0, 1], "vision", shared=shared)
    for i in range(3):
        alone = fastcam.explain(model, (ids, images[i : i + 1]), "score_cam", [[2, 0, 1][i]], "vision")
        close(found.native[i : i + 1], alone.native)


@pytest.mark.parametrize("shared", [[0, 2], [-4, -2]])
def test_shared_arguments_in_front_and_behind(shared):
    """Counted among all arguments; copies keep them whole, and take their rows of the others."""
    ids, images, more = torch.arange(3), pictures(8, 12, count=3), torch.arange(3) + 5
    inputs = Inputs.of((ids, images, more, numbers()), shared=shared)
    copies = inputs.with_copies(images[[2, 2, 0]], torch.tensor([2, 2, 0])).arguments
    for found, expected in zip(copies, (ids, images[[2, 2, 0]], more, numbers()[[2, 2, 0]]), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("size", [1, 2])
def test_groups_of_a_large_batch(size):
    model, ids, images = image_text(5)
    whole = fastcam.explain(model, (ids, images), target=[0, 1, 2, 3, 4], target_layer="vision", batch_size=5)
    parts = fastcam.explain(model, (ids, images), target=[0, 1, 2, 3, 4], target_layer="vision", batch_size=size)
    close(parts.native, whole.native)
    close(parts.output, model(ids, images).detach())
    assert parts.notes == whole.notes


def test_groups_keep_the_rows_of_their_images():
    model, images = Metadata().double().eval(), pictures(8, 12, count=5)
    whole = fastcam.explain(model, (images, numbers(5)), target=3, batch_size=5)
    parts = fastcam.explain(model, (images, numbers(5)), target=3, batch_size=2)
    close(parts.native, whole.native)


class Sought(ImageText):
    """Similarities (N, k) of every image to its own k texts, whose ids come together, as OWL-ViT takes them."""

    def forward(self, ids: Tensor, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        words = self.words(ids) if mask is None else self.words(ids) * mask.unsqueeze(-1)
        texts = words.mean(1).unflatten(0, (len(pixels), -1))
        return torch.einsum("nc,nkc->nk", self.vision(pixels).mean((2, 3)), texts)


class OwnTexts(nn.Module):
    """The same, of an image and its texts at a time, by a number that stands for them."""

    def __init__(self, model: Sought, texts: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.model, self.texts = model, texts

    def forward(self, pixels: Tensor, numbers: Tensor) -> Tensor:
        rows = [
            self.model(self.texts[int(number)][0], pixel[None], self.texts[int(number)][1])
            for number, pixel in zip(numbers, pixels, strict=True)
        ]
        return torch.cat(rows)


@pytest.mark.parametrize("method", ["grad_cam", "saliency", *list(COPYING)[:-1]])  # on patches it is refused
@pytest.mark.parametrize("count", [1, 2])
def test_several_texts_for_each_image(method, count):
    """Found on the model, with a mask of the words beside them."""
    model, images, k = Sought().double().eval(), pictures(8, 12, count=count), 3
    chance = torch.Generator().manual_seed(4)
    ids, mask = torch.randint(0, 20, (count * k, 4), generator=chance), torch.rand(count * k, 4, generator=chance)
    inputs = {"ids": ids, "pixels": images, "mask": mask.double()}
    found = seeded(model, inputs, method, [2, 0][:count], batch_size=5, strict=True)
    own = OwnTexts(model, list(zip(ids.split(k), mask.double().split(k), strict=True))).eval()
    layer = {"target_layer": "model.vision"} if method.endswith("cam") else {}
    name, options = method.split(maxsplit=1)[0], COPYING.get(method, {})
    numbers = torch.arange(count)
    expected = [
        fastcam.explain(own, (images[i : i + 1], numbers[i : i + 1]), name, [[2, 0][i]], **layer, **options).native
        for i in range(1 if method in ("rise", "smooth_grad") else count)
    ]
    close(found[: len(expected)], torch.cat(expected))


@pytest.mark.parametrize("count", [1, 2])
def test_several_texts_are_noted(count):
    model, ids = Sought().double().eval(), torch.randint(0, 20, (count * 3, 4))
    found = fastcam.explain(model, (ids, pictures(8, 12, count=count)), target=1, strict=True)
    assert any("arguments [0] of the model have several rows per image" in note for note in found.notes)


@pytest.mark.parametrize("count", [1, 2])
def test_texts_for_all_images_stay_so(count):
    """Four texts for one image, or two, whose output is a similarity to each."""
    model, ids, images = ImageText().double().eval(), torch.randint(0, 20, (4, 5)), pictures(8, 12, count=count)
    found = fastcam.explain(model, (ids, images), "score_cam", 3, "vision", strict=True)
    assert not any("argument" in note for note in found.notes)
    for i in range(count):
        alone = fastcam.explain(model, (ids, images[i : i + 1]), "score_cam", 3, "vision", shared=0)
        close(found.native[i : i + 1], alone.native)


class OneAtATime(ImageText):
    """Refuses more than one image."""

    def forward(self, ids: Tensor, pixels: Tensor) -> Tensor:
        if len(pixels) > 1:
            raise ValueError("one image, please")
        return super().forward(ids, pixels)


def test_a_model_of_one_image_at_a_time():
    model, ids, images = OneAtATime().double().eval(), torch.randint(0, 20, (4, 5)), pictures(8, 12, count=1)
    found = fastcam.explain(model, (ids, images), "score_cam", 3, "vision", batch_size=1, strict=True)
    close(found.native, fastcam.explain(ImageText().double().eval(), (ids, images), "score_cam", 3, "vision").native)
    assert not any("argument" in note for note in found.notes)


class Centred(Metadata):
    """Subtracts the mean of the batch, so that no image alone gives its row."""

    def forward(self, pixels: Tensor, numbers: Tensor) -> Tensor:
        output = super().forward(pixels, numbers)
        return output - output.mean(0)


def test_an_argument_that_cannot_be_told():
    model, inputs = Centred().double().eval(), (pictures(8, 12, count=3), numbers())
    with pytest.raises(ValueError, match=r"arguments \[1\] have as many rows as there are images.*pass shared="):
        fastcam.explain(model, inputs, target=1, strict=True)
    with pytest.warns(UserWarning, match=r"arguments \[1\] have as many rows as there are images"):
        found = fastcam.explain(model, inputs, target=1, target_layer="vision", relu=False)
    assert any("arguments [1] have as many rows" in note for note in found.notes)
    A = model.vision(inputs[0]).detach().requires_grad_()
    output = model.head((A.mean((2, 3)) * (1 + model.numbers(inputs[1]))).tanh())
    (G,) = torch.autograd.grad((output - output.mean(0))[:, 1].sum(), A)
    close(found.native, (G.mean((2, 3), keepdim=True) * A).sum(1).detach())


# --- names and positions ----------------------------------------------------------------------------------------------


def test_mappings_in_any_order():
    model, ids, images = image_text(2)
    expected = fastcam.explain(model, (ids, images, 3.0), target=1, target_layer="vision").native
    for inputs in (
        {"ids": ids, "pixels": images, "scale": 3.0},
        {"scale": 3.0, "pixels": images, "ids": ids},
    ):
        close(fastcam.explain(model, inputs, target=1, target_layer="vision").native, expected)
    default = fastcam.explain(model, {"pixels": images, "ids": ids}, target=1, target_layer="vision").native
    close(default, expected * 2 / 3)


@pytest.mark.parametrize(
    ("names", "error", "text"),
    [
        (["ids", "pixel_values"], ValueError, r"ImageText.forward has the arguments \['ids', 'pixels', 'scale'\]"),
        ([], ValueError, r"is a mapping with \[\]"),
        (["pixels"], ValueError, r"ImageText.forward also needs \['ids'\]"),
    ],
)
def test_names_that_do_not_fit(names, error, text):
    model, ids, images = image_text(2)
    values = {"ids": ids, "pixels": images, "pixel_values": images}
    with pytest.raises(error, match=text):
        fastcam.explain(model, {name: values[name] for name in names}, target=1)


class Two(nn.Module):
    """Two pictures, each through its own convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.left, self.right, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3), nn.Linear(6, 5)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.head((self.left(first).tanh() * self.right(second).tanh()).mean((2, 3)))


@pytest.mark.parametrize(("which", "layer"), [(0, "left"), (1, "right")])
def test_the_layer_found_sees_the_explained_argument(which, layer):
    pair = (pictures(8, 12), pictures(8, 12, seed=7))
    found = fastcam.explain(Two().double().eval(), pair, target=3, strict=True, explain_input=which)
    assert found.layer == layer


@pytest.mark.parametrize("which", [0, 1, -1, "first", "second"])
def test_the_explained_argument(which):
    model, pair = Two().double().eval(), [pictures(8, 12), pictures(8, 12, seed=7)]
    inputs = dict(zip(("second", "first"), pair[::-1], strict=True)) if isinstance(which, str) else tuple(pair)
    found = fastcam.explain(model, inputs, "saliency", 2, explain_input=which)
    index = {"first": 0, "second": 1}.get(which, which) % 2
    leaves = [each.clone().requires_grad_() for each in pair]
    gradient = torch.autograd.grad(model(*leaves)[:, 2].sum(), leaves[index])[0]
    close(found.attributions, gradient)
    assert torch.equal(found.images, pair[index])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"explain_input": 2}, "there is no argument 2: the model gets 2"),
        ({"explain_input": "first"}, "there is no argument 'first': the arguments are without names; pass a mapping"),
        ({"shared": [-3]}, "there is no argument -3: the model gets 2"),
        ({"shared": [0]}, "`shared` names the explained argument itself"),
    ],
)
def test_places_that_there_are_not(options, text):
    with pytest.raises(ValueError, match=text):
        fastcam.explain(Two().double().eval(), (pictures(8, 12), pictures(8, 12)), "saliency", 2, **options)


def test_a_list_of_images_is_a_batch():
    model, images = nn.Sequential(Two().left, nn.Flatten(), nn.Linear(6 * 6 * 10, 5)).double().eval(), pictures(8, 12)
    expected = fastcam.explain(model, images, "saliency", 2).attributions
    close(fastcam.explain(model, list(images), "saliency", 2).attributions, expected)


@pytest.mark.parametrize(
    ("images", "error", "text"),
    [
        ([], TypeError, "got an empty list"),
        ([torch.zeros(3, 4, 4), "cat.jpg"], TypeError, "got Tensor, str.*fastcam.load_images"),
        ([torch.zeros(3, 4, 4), torch.zeros(1, 5, 4)], ValueError, "one size"),
        ([torch.zeros(1, 3, 4, 4)], TypeError, r"single images \(C, H, W\), got tensors \(1, 3, 4, 4\)"),
    ],
)
def test_lists_that_are_no_batch(images, error, text):
    with pytest.raises(error, match=text):
        Inputs.of(images)
