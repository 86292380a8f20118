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
