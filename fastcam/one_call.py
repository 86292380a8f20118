"""Explanations in one call."""

from collections.abc import Mapping, Sequence
from typing import cast, overload

from torch import Tensor, nn

from fastcam import targets
from fastcam.engine.assembly import Explanations
from fastcam.engine.class_maps import class_maps
from fastcam.engine.settings import Reshape
from fastcam.explainer import Explainer, Methods, OneMethod, single_result
from fastcam.explanation import Explanation
from fastcam.methods.registry import Reduction
from fastcam.model.batching import BatchSize
from fastcam.model.elements import Select
from fastcam.model.inputs import Images
from fastcam.model.layers import TargetLayer
from fastcam.model.progress import Report
from fastcam.postprocess import Fusion
from fastcam.preparation.prepare import Precision


# fmt: off
@overload
def explain(
    model: nn.Module, images: Images, method: OneMethod = ..., target: targets.Target = ...,
    target_layer: TargetLayer = ..., *, out: Tensor | None = ..., fuse: Fusion = ...,
    relu: bool | None = ..., reduce: Reduction | None = ..., reshape_transform: Reshape | None = ...,
    select: Select = ..., layer_output: int | str | None = ..., batch_size: BatchSize = ...,
    progress: bool | Report = ..., differentiable: bool = ..., precision: Precision | None = ...,
    compile: bool = ..., layer_run: int | None = ..., explain_input: int | str | None = ...,
    shared: int | str | Sequence[int | str] = ..., channel_axis: int | None = ..., strict: bool = ...,
    **options: object,
) -> Explanation: ...

@overload
def explain(
    model: nn.Module, images: Images, method: Methods, target: targets.Target = ...,
    target_layer: TargetLayer = ..., *, out: Tensor | None = ..., fuse: Fusion = ...,
    relu: bool | None = ..., reduce: Reduction | None = ..., reshape_transform: Reshape | None = ...,
    select: Select = ..., layer_output: int | str | None = ..., batch_size: BatchSize = ...,
    progress: bool | Report = ..., differentiable: bool = ..., precision: Precision | None = ...,
    compile: bool = ..., layer_run: int | None = ..., explain_input: int | str | None = ...,
    shared: int | str | Sequence[int | str] = ..., channel_axis: int | None = ..., strict: bool = ...,
    **options: object,
) -> dict[str, Explanation]: ...

@overload
def explain(
    model: nn.Module, images: Images, method: OneMethod | Methods = ..., target: targets.Target = ...,
    target_layer: TargetLayer = ..., *, out: Tensor | None = ..., fuse: Fusion | None,
    relu: bool | None = ..., reduce: Reduction | None = ..., reshape_transform: Reshape | None = ...,
    select: Select = ..., layer_output: int | str | None = ..., batch_size: BatchSize = ...,
    progress: bool | Report = ..., differentiable: bool = ..., precision: Precision | None = ...,
    compile: bool = ..., layer_run: int | None = ..., explain_input: int | str | None = ...,
    shared: int | str | Sequence[int | str] = ..., channel_axis: int | None = ..., strict: bool = ...,
    **options: object,
) -> Explanations: ...
# fmt: on


def explain(
    model: nn.Module,
    images: Images,
    method: OneMethod | Methods = "grad_cam",
    target: targets.Target = None,
    target_layer: TargetLayer = None,
    *,
    out: Tensor | None = None,
    fuse: Fusion | None = "mean",
    relu: bool | None = None,
    reduce: Reduction | None = None,
    reshape_transform: Reshape | None = None,
    select: Select = None,
    layer_output: int | str | None = None,
    batch_size: BatchSize = "auto",
    progress: bool | Report = False,
    differentiable: bool = False,
    precision: Precision | None = None,
    compile: bool = False,
    layer_run: int | None = None,
    explain_input: int | str | None = None,
    shared: int | str | Sequence[int | str] = (),
    channel_axis: int | None = None,
    strict: bool = False,
    **options: object,
) -> Explanations:
    """Compute the maps of a batch in one call; the arguments are those of :class:`fastcam.Explainer` and of its call.

    All but ``graph``, which later calls of the same explainer replay. And with the method "cam" a ``classifier``, with
    its ``classes``: the maps of :func:`fastcam.class_maps`, of any linear classifiers inside the model.

    Example:
        >>> explanation = fastcam.explain(model, images)
        >>> explanation.maps  # (N, H, W) in [0, 1]
    """
    if "graph" in options:
        raise TypeError("`graph` is for the later calls of a fastcam.Explainer: explain() makes one call")
    if "classifier" in options:
        unused = {
            "target_layer": target_layer,
            "reduce": reduce,
            "reshape_transform": reshape_transform,
            "select": select,
            "layer_output": layer_output,
            "differentiable": differentiable,
            "precision": precision,
            "compile": compile,
            "layer_run": layer_run,
            "explain_input": explain_input,
            "shared": shared,
            "channel_axis": channel_axis,
            "batch_size": None if batch_size == "auto" else batch_size,
        }
        _check_classifier(method, unused, options)
        result = class_maps(model, images, target=target, fuse=fuse, relu=bool(relu), **options)  # type: ignore[arg-type]
        if out is not None:
            single_result(result).write_maps(out)
        return cast("Explanations", result)
    explainer = Explainer(
        model,
        method,
        target_layer,
        fuse=fuse,
        relu=relu,
        reduce=reduce,
        reshape_transform=reshape_transform,
        select=select,
        layer_output=layer_output,
        batch_size=batch_size,
        progress=progress,
        differentiable=differentiable,
        precision=precision,
        compile=compile,
        layer_run=layer_run,
        explain_input=explain_input,
        shared=shared,
        channel_axis=channel_axis,
        strict=strict,
        graph=False,
        **options,
    )
    return explainer(images, target, out=out)


def _check_classifier(method: OneMethod | Methods, unused: Mapping[str, object], options: Mapping[str, object]) -> None:
    """Refuse what does not belong to the maps of a classifier.

    Raises:
        TypeError: for another method, an option that is none, or an argument that says nothing of such maps.
    """
    name = method if isinstance(method, str) else getattr(method, "name", method)
    if name != "cam":
        raise TypeError(f'`classifier` is an option of the one method "cam", got {name!r}')
    unknown = set(options) - {"classifier", "classes"}
    if unknown:
        raise TypeError(f"cam of a classifier has no option {min(unknown)!r}; known: classes, classifier")
    for argument, value in unused.items():
        if not (value is None or value is False or (isinstance(value, list | tuple) and not value)):
            raise TypeError(f"`{argument}` says nothing of the maps of a classifier: what it reads is their layer")
