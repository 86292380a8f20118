"""Detections of Hugging Face's detectors: their confidences, logits and boxes."""

import pytest
import torch
import transformers
from torch import nn

import fastcam
from fastcam import targets

pytestmark = pytest.mark.usefixtures("one_thread")


def small_detr(kind: str) -> nn.Module:
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage4"]
    )
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 6, "num_labels": 3}
    plain = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    config = getattr(transformers, f"{kind}Config")(backbone_config=backbone, **plain, **sizes, **heads)
    model = getattr(transformers, f"{kind}ForObjectDetection")(config).eval()
    if kind == "Detr":
        model.class_labels_classifier.bias.data[-1] += 3  # that there is nothing is the likeliest of all
    return model


@pytest.mark.parametrize("kind", ["Detr", "ConditionalDetr"])
def test_hugging_face(kind):
    """Confidences as the library's own processing has them: a softmax with a class for nothing, or sigmoids."""
    model, inputs = small_detr(kind), torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        output = model(inputs)
    confidences = output.logits.softmax(-1)[..., :-1] if kind == "Detr" else output.logits.sigmoid()
    found = fastcam.explain(model, {"pixel_values": inputs}, "saliency", targets.Detections(0.0, index=0))
    best, labels = confidences.max(-1)
    for row in range(2):
        place = int(best[row].argmax())
        assert found.details["confidences"][row].item() == pytest.approx(best[row, place].item(), rel=1e-5)
        assert found.targets[row] == labels[row, place]
        torch.testing.assert_close(
            found.scores[row], output.logits[row, place, labels[row, place]], rtol=1e-4, atol=1e-4
        )
        x, y, width, height = output.pred_boxes[row, place].tolist()
        exact = torch.tensor([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        torch.testing.assert_close(found.details["boxes"][row], exact, rtol=1e-4, atol=1e-5)


class WithTexts(nn.Module):
    """A detector of what texts name, with the same texts for all images."""

    def __init__(self, detector: nn.Module, texts: torch.Tensor) -> None:
        super().__init__()
        self.detector = detector
        self.register_buffer("texts", texts)

    def forward(self, images: torch.Tensor):
        return self.detector(input_ids=self.texts.repeat(len(images), 1), pixel_values=images)


def test_owl_vit():
    """Classes are texts; two images with two texts each, against autograd."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.OwlViTConfig(
        text_config={**size, "vocab_size": 20, "max_position_embeddings": 6, "eos_token_id": 19, "pad_token_id": 0},
        vision_config={**size, "image_size": 32, "patch_size": 16},
        projection_dim=32,
    )
    texts = torch.tensor([[1, 5, 19, 0, 0, 0], [1, 7, 8, 19, 0, 0]])
    model = WithTexts(transformers.OwlViTForObjectDetection(config).eval(), texts).eval()
    inputs = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = fastcam.explain(model, inputs, "saliency", targets.Detections(0.0, index=0))
    for row in range(2):
        leaf = inputs[row : row + 1].clone().requires_grad_()
        logits = model(leaf).logits[0]
        place = int(logits.argmax())
        assert found.targets[row] == place % 2
        (gradient,) = torch.autograd.grad(logits.flatten()[place], leaf)
        torch.testing.assert_close(found.native[row], gradient[0].abs().amax(0), rtol=1e-3, atol=1e-5)
    maps = fastcam.explain(model, inputs, "grad_cam", targets.Detections(0.0, most=2))
    assert maps.native.shape == (2, 2, 2, 2)  # the grid of 16-pixel patches, found
    for count in (
        1,
        2,
    ):  # as the library's processor passes them: the texts of each image after those of the one before
        named = {"input_ids": texts.repeat(count, 1), "pixel_values": inputs[:count]}
        for method, options in (("layer_cam", {}), ("integrated_gradients", {"steps": 3}), ("rise", {"masks": 4})):
            target = targets.Detections(0.0, index=0)
            one = fastcam.explain(model.detector, named, method, target, strict=True, **options)
            other = fastcam.explain(model, inputs[:count], method, target, **options)
            torch.testing.assert_close(one.native, other.native, rtol=1e-3, atol=1e-5)


def test_grounding_dino():
    """Classes are places in the text, whose scores are filled up with -inf; against autograd, and in copies."""
    torch.manual_seed(0)
    layers = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "d_model": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 8, "max_text_len": 16}
    backbone = transformers.SwinConfig(
        image_size=128, embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    text = transformers.BertConfig(
        vocab_size=1200, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone, text_config=text, encoder_n_points=2, decoder_n_points=2, **layers, **heads
    )
    model = transformers.GroundingDinoForObjectDetection(config).eval()
    ids = torch.tensor([[101, 500, 1012, 700, 1012, 102]]).repeat(2, 1)
    words = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    inputs = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    target = targets.Detections(0.0, index=0)
    found = fastcam.explain(model, {"pixel_values": inputs, **words}, "saliency", target, strict=True)
    for row in range(2):
        leaf = inputs[row : row + 1].clone().requires_grad_()
        logits = model(pixel_values=leaf, **{name: each[:1] for name, each in words.items()}).logits[0]
        place = int(logits.argmax())
        assert found.targets[row] == place % 16 < ids.shape[1]
        (gradient,) = torch.autograd.grad(logits.flatten()[place], leaf)
        exact = gradient[0].abs().amax(0)
        torch.testing.assert_close(found.native[row], exact, rtol=1e-3, atol=1e-4 * float(exact.max()))
    for following in ("score", "similarity"):  # the object is not in all copies
        target = targets.Detections(0.0, index=0, following=following)
        maps = fastcam.explain(model, {"pixel_values": inputs, **words}, "rise", target, masks=6, strict=True)
        assert maps.status == ["ok", "ok"]


def test_maskformer():
    """A segment of a query: the mean probability inside its own mask, against autograd."""
    torch.manual_seed(0)
    config = transformers.MaskFormerConfig(
        num_labels=3,
        fpn_feature_size=32,
        mask_feature_size=32,
        backbone_config=transformers.ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16, 16, 32],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        decoder_config=transformers.DetrConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=transformers.ResNetConfig(),
            d_model=16,
            num_queries=5,
            encoder_layers=0,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=16,
        ),
    )
    model = transformers.MaskFormerForInstanceSegmentation(config).eval()
    inputs = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    target = targets.Detections(0.0, index=0, part="mask")
    found = fastcam.explain(model, {"pixel_values": inputs}, "saliency", target)
    leaf = inputs.clone().requires_grad_()
    output = model(pixel_values=leaf)
    place = int(output.class_queries_logits[0].softmax(-1)[:, :-1].amax(1).argmax())
    probabilities = output.masks_queries_logits[0, place].sigmoid()
    inside = (probabilities > 0.5).float()
    value = (probabilities * inside).sum() / inside.sum().clamp(min=1)
    (gradient,) = torch.autograd.grad(value, leaf)
    torch.testing.assert_close(found.scores[0], value.detach())
    exact = gradient[0].abs().amax(0)
    torch.testing.assert_close(found.native[0], exact, rtol=1e-3, atol=1e-4 * float(exact.max()))
