"""Classes of Hugging Face transformers, from small configurations of the usual proportions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from fastcam import targets
from tests.zoo.case import Built, Case, most_frequent_class, without_zeros

SIDE, WIDTHS = 112, [24, 48, 80, 128]
_PLAIN = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 3, "patch_size": 14}
_VIT = _PLAIN | {"intermediate_size": 192}
_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 99,
    "max_position_embeddings": 16,
}
_WINDOWS = {"patch_size": 4, "embed_dim": 24, "depths": [1, 1, 2], "num_heads": [1, 2, 4], "window_size": 7}
_STAGES = {"hidden_sizes": WIDTHS, "depths": [1, 1, 2, 1]}
_HEADS = {"num_attention_heads": [1, 2, 4, 8]}


@dataclass(frozen=True)
class _Kind:
    """A class, how its configuration is made from the side of the image, and what is explained."""

    model: str
    config: Callable[[Any, int], Any]
    target: targets.Target = 1
    is_segmenter: bool = False
    needs: Mapping[str, Any] = field(default_factory=dict)
    multiple: int = SIDE


def _config(name: str, has_size: bool = True, **options: Any) -> Callable[[Any, int], Any]:
    return lambda t, side: getattr(t, name)(**options, **({"image_size": side} if has_size else {}))


def _clip(t: Any, side: int) -> Any:
    return t.CLIPConfig(text_config=_TEXT, vision_config=_VIT | {"image_size": side}, projection_dim=32)


def _upernet(t: Any, side: int) -> Any:
    backbone = t.ConvNextConfig(**_STAGES, out_features=[f"stage{stage}" for stage in (1, 2, 3, 4)])
    return t.UperNetConfig(backbone_config=backbone, hidden_size=64, num_labels=4, auxiliary_in_channels=80)


def _detr(t: Any, side: int) -> Any:
    backbone = t.ResNetConfig(embedding_size=24, **_STAGES, layer_type="basic", out_features=["stage4"])
    sizes = {"d_model": 96, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 192, "decoder_ffn_dim": 192}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_queries": 20}
    return t.DetrConfig(backbone_config=backbone, **_WITHOUT_TIMM, **sizes, **heads)


_WITHOUT_TIMM: dict[str, Any] = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}


def _mask2former(t: Any, side: int) -> Any:
    backbone = t.SwinConfig(**_WINDOWS | {"depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]}, image_size=side)
    backbone._out_features = [f"stage{stage}" for stage in (1, 2, 3, 4)]
    backbone.out_features = backbone._out_features
    sizes = {"feature_size": 64, "mask_feature_size": 64, "hidden_dim": 64, "encoder_feedforward_dim": 128}
    depths = {"encoder_layers": 2, "decoder_layers": 3, "num_queries": 10, "num_labels": 4, "dim_feedforward": 128}
    return t.Mask2FormerConfig(backbone_config=backbone, num_attention_heads=4, **sizes, **depths)


_DINO = _config("Dinov2Config", **_PLAIN)
_SEGFORMER = _config("SegformerConfig", has_size=False, **_STAGES, num_labels=4)
KINDS = {
    "ViT": _Kind("ViTForImageClassification", _config("ViTConfig", **_VIT)),
    "DeiT": _Kind("DeiTForImageClassification", _config("DeiTConfig", **_VIT)),
    "DeiT with teacher": _Kind("DeiTForImageClassificationWithTeacher", _config("DeiTConfig", **_VIT)),
    "BEiT": _Kind("BeitForImageClassification", _config("BeitConfig", **_VIT)),
    "DINOv2": _Kind("Dinov2ForImageClassification", _DINO),
    "DINOv2 with registers": _Kind(
        "Dinov2WithRegistersForImageClassification", _config("Dinov2WithRegistersConfig", **_PLAIN)
    ),
    "Swin": _Kind("SwinForImageClassification", _config("SwinConfig", **_WINDOWS)),
    "Swinv2": _Kind("Swinv2ForImageClassification", _config("Swinv2Config", **_WINDOWS)),
    "ConvNext": _Kind("ConvNextForImageClassification", _config("ConvNextConfig", **_STAGES)),
    "ConvNextV2": _Kind("ConvNextV2ForImageClassification", _config("ConvNextV2Config", **_STAGES)),
    "ResNet": _Kind(
        "ResNetForImageClassification",
        _config("ResNetConfig", has_size=False, embedding_size=24, **_STAGES, layer_type="basic"),
    ),
    "Hiera": _Kind(
        "HieraForImageClassification",
        lambda t, side: t.HieraConfig(
            image_size=[side, side], embed_dim=24, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8]
        ),
        multiple=32,
    ),
    "PVTv2": _Kind("PvtV2ForImageClassification", _config("PvtV2Config", **_STAGES, **_HEADS)),
    "MobileViT": _Kind(
        "MobileViTForImageClassification",
        _config("MobileViTConfig", hidden_sizes=[48, 64, 80], neck_hidden_sizes=[8, 16, 24, 32, 48, 64, 128]),
        multiple=32,
    ),
    "SigLIP": _Kind(
        "SiglipForImageClassification", lambda t, side: t.SiglipConfig(vision_config=_VIT | {"image_size": side})
    ),
    "CLIP": _Kind("CLIPForImageClassification", _clip),
    "CLIPModel with texts": _Kind("CLIPModel", _clip),
    "LeViT": _Kind(
        "LevitForImageClassification",
        _config(
            "LevitConfig", hidden_sizes=[64, 96, 128], num_attention_heads=[2, 3, 4], depths=[1, 1, 1], key_dim=[16] * 3
        ),
        multiple=224,
    ),
    "PoolFormer": _Kind("PoolFormerForImageClassification", _config("PoolFormerConfig", **_STAGES), multiple=32),
    "CvT": _Kind(
        "CvtForImageClassification",
        _config("CvtConfig", has_size=False, embed_dim=[24, 48, 96], num_heads=[1, 2, 4], depth=[1, 2, 3]),
    ),
    "SegFormer": _Kind("SegformerForSemanticSegmentation", _SEGFORMER, is_segmenter=True),
    "SegFormer classifier": _Kind("SegformerForImageClassification", _SEGFORMER),
    "UperNet": _Kind("UperNetForSemanticSegmentation", _upernet, is_segmenter=True),
    "DETR": _Kind("DetrForObjectDetection", _detr, targets.Anchors(1), multiple=32),
    "YOLOS": _Kind(
        "YolosForObjectDetection",
        lambda t, side: t.YolosConfig(**_VIT, image_size=[side, side], num_detection_tokens=10),
        targets.Anchors(1),
    ),
    "Mask2Former": _Kind(
        "Mask2FormerForUniversalSegmentation",
        _mask2former,
        targets.Anchors(1),
        multiple=32,
    ),
}


def build(name: str, size: int | None) -> Built:
    """Build one by the key of KINDS."""
    import transformers

    kind = KINDS[name]
    side = size or -(-SIDE // kind.multiple) * kind.multiple
    config = kind.config(transformers, side)
    model: nn.Module = getattr(transformers, kind.model)(config).eval()
    inputs = {"pixel_values": torch.randn(2, 3, side, side)}
    if kind.model == "CLIPModel":
        inputs["input_ids"] = torch.randint(1, 98, (3, 7))
    target = kind.target
    if kind.is_segmenter:
        with torch.no_grad():
            target = targets.Segmentation(most_frequent_class(without_zeros(model)(**inputs).logits))
    return Built(model, inputs, target, kind.needs)


def cases() -> list[Case]:
    """Return all cases."""
    return [Case(f"transformers/{name}", partial(build, name)) for name in KINDS]
