"""The explainer: connects all stages, from images to explanations."""

import contextlib
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar, cast, overload

from torch import Tensor, nn

from fastcam import artefacts, ragged, targets
from fastcam.engine import image_groups, true_causes
from fastcam.engine.assembly import Explanations
from fastcam.engine.batch_explainer import BatchExplainer
from fastcam.engine.graphs import GraphReport, Graphs, GraphUse
from fastcam.engine.notes import warn
from fastcam.engine.settings import Reshape, Settings
from fastcam.explanation import Explanation
from fastcam.methods.registry import Method, Reduction, get_method
from fastcam.model import memory
from fastcam.model.batching import BatchSize
from fastcam.model.elements import Select
from fastcam.model.inputs import Images, Inputs
from fastcam.model.layers import TargetLayer
from fastcam.model.progress import ProgressReporter, Report
from fastcam.model.running import is_training, with_input
from fastcam.postprocess import Fusion
from fastcam.preparation.prepare import Precision, check_preparable, prepare
from fastcam.preparation.prepared import Prepared

OneMethod = str | Method
Methods = list[str] | list[Method] | list[str | Method] | tuple[str | Method, ...]
Result = TypeVar("Result", bound=Explanations)


class Explainer(Generic[Result]):
    """Explains one model, batch after batch; everything stays on the model's device.

    Args:
        model: any ``nn.Module``, TorchScript included, or a program of torch.export. It is never changed: no ``.grad``,
            mode or buffer changes, and no hook remains.
        method: a registry name (``fastcam.list_methods()``) or a :class:`fastcam.Method` of your own, or
            several that share one forward and one backward.
        target_layer: a module, its name, several of either, or None for the last layer with a map of the image that the
            score depends on; in segmenters and detectors the end of the backbone. Methods that attribute to the input
            only ignore it.
        fuse: for several layers, "mean" or "max" of their normalised maps, or None to return one explanation per layer.
        relu: True to apply a final ReLU, False to keep the sign, None to follow the method's definition.
        reduce: reduction of attributions over colour to a map: "max_abs", "sum_abs", "sum", "mean", "max" or "norm";
            None follows the method's definition.
        reshape_transform: from the layer's output, or its gradient, to (N, C, *S); it must only move elements. None
            finds the positions of tokens on the model. ``fastcam.vit_reshape`` and ``fastcam.swin_reshape`` themselves
            apply only where none are found; ``lambda tokens: fastcam.vit_reshape(tokens, prefix=5)`` always.
        select: the part of the model's output to score: a function, an index, a key or an attribute's name. None takes,
            of several parts, "logits", "out", "logits_per_image" or the only tensor.
        layer_output: the element of a target layer's tuple or dict to explain.
        batch_size: images at a time, and copies at a time for methods that run many copies of an image (masks,
            windows, steps, noise); "auto" starts with a size that suits the device, or was measured for a prepared
            model, and reduces it when memory runs out. The maps do not depend on it. Targets that are callables get
            all images at once.
        progress: True shows a bar on standard error for work of more than two seconds; or a function that is called
            with (done, total).
        precision: None uses the model unchanged. "fp32", "bf16", "fp16" or "auto" prepares it when it is first called,
            with the images of that call as the example; see :func:`fastcam.prepare`.
        compile: prepare the model and compile it.
        differentiable: keep the graph, so that maps have gradients with respect to the model's parameters and to images
            that require them. Costs the memory of a training step.
        layer_run: which run of the target layer is explained, from 0, where it runs several times in a forward pass (a
            shared encoder, a recurrent network). None takes the one that depends on the explained images; where
            several do, the last, which is a guess.
        explain_input: the position or name of the model's argument that is explained; None takes the first that is a
            floating point tensor (N, C, ...).
        shared: positions or names of other arguments that are the same for all images, though they have N rows, such
            as the texts of an image-text model. Not needed as a rule: it is found out on the model.
        channel_axis: the axis of channels in the explained argument, 2 for videos (N, T, C, H, W). None takes axis 2 of
            such videos with 1 or 3 channels where T is neither, and 1 otherwise. In the explanation the channels come
            second, and the map of a video is (T, H, W).
        strict: raise an error where the engine would have to guess, and for classes in a tensor on a GPU that the
            output lacks; otherwise guesses are in :attr:`.Explanation.notes`, and warned of once.
        graph: on a GPU, "auto" and True record the explanation as one CUDA graph when a shape of images is seen for the
            second time, and replay it from then on, without Python. The first replay is checked, to a hundredth: a
            library may choose other algorithms. Of methods that run copies of the images, what the model does with a
            block of copies is recorded. For class indices as target; :attr:`graphs` says what was recorded, or why not,
            and True warns of the latter. Of up to 8 graphs memory stays reserved: what the largest works in, and the
            results; for all explainers at most a quarter of the GPU's. False records nothing.
        options: of the method's rule, for example ``window`` of occlusion.

    Raises:
        ValueError, TypeError: for an unknown method, option or value.
    """

    # The overloads define the result type: one explanation, or several by name.
    # fmt: off
    @overload
    def __init__(
        self: "Explainer[Explanation]", model: nn.Module, method: OneMethod = ...,
        target_layer: TargetLayer = ..., *, fuse: Fusion = ...,
        relu: bool | None = ..., reduce: Reduction | None = ..., reshape_transform: Reshape | None = ...,
        select: Select = ..., layer_output: int | str | None = ..., batch_size: BatchSize = ...,
        progress: bool | Report = ..., differentiable: bool = ..., precision: Precision | None = ...,
        compile: bool = ..., layer_run: int | None = ..., explain_input: int | str | None = ...,
        shared: int | str | Sequence[int | str] = ..., channel_axis: int | None = ..., strict: bool = ...,
        graph: GraphUse = ..., **options: object,
    ) -> None: ...

    @overload
    def __init__(
        self: "Explainer[dict[str, Explanation]]", model: nn.Module, method: Methods,
        target_layer: TargetLayer = ..., *, fuse: Fusion = ...,
        relu: bool | None = ..., reduce: Reduction | None = ..., reshape_transform: Reshape | None = ...,
        select: Select = ..., layer_output: int | str | None = ..., batch_size: BatchSize = ...,
        progress: bool | Report = ..., differentiable: bool = ..., precision: Precision | None = ...,
        compile: bool = ..., layer_run: int | None = ..., explain_input: int | str | None = ...,
        shared: int | str | Sequence[int | str] = ..., channel_axis: int | None = ..., strict: bool = ...,
        graph: GraphUse = ..., **options: object,
    ) -> None: ...

    @overload
    def __init__(
        self: "Explainer[Explanations]", model: nn.Module, method: OneMethod | Methods = ...,
        target_layer: TargetLayer = ..., *, fuse: Fusion | None,
        relu: bool | None = ..., reduce: Reduction | None = ..., reshape_transform: Reshape | None = ...,
        select: Select = ..., layer_output: int | str | None = ..., batch_size: BatchSize = ...,
        progress: bool | Report = ..., differentiable: bool = ..., precision: Precision | None = ...,
        compile: bool = ..., layer_run: int | None = ..., explain_input: int | str | None = ...,
        shared: int | str | Sequence[int | str] = ..., channel_axis: int | None = ..., strict: bool = ...,
        graph: GraphUse = ..., **options: object,
    ) -> None: ...
    # fmt: on

    def __init__(
        self,
        model: nn.Module,
        method: OneMethod | Methods = "grad_cam",
        target_layer: TargetLayer = None,
        *,
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
        graph: GraphUse = "auto",
        **options: object,
    ) -> None:
        model = artefacts.as_module(model)
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be an nn.Module, got {type(model).__name__}")
        if not isinstance(method, str | Method | list | tuple):
            raise TypeError(f"`method` must be a name or a list of names, got {type(method).__name__}")
        one_method = isinstance(method, str | Method)
        # Hooks act on the module itself, not on the code that torch.compile generates.
        self.model: nn.Module = getattr(model, "_orig_mod", model)
        self.settings = Settings(
            methods=tuple(map(get_method, [method] if isinstance(method, str | Method) else method)),
            one_method=one_method,
            target_layer=target_layer,
            fuse=fuse,
            relu=relu,
            reduce=reduce,
            reshape_transform=reshape_transform,
            select=select,
            layer_output=layer_output,
            batch_size=batch_size,
            differentiable=differentiable,
            layer_run=layer_run,
            explain_input=explain_input,
            shared=(shared,) if isinstance(shared, int | str) else tuple(shared),
            channel_axis=channel_axis,
            strict=strict,
            options=options,
        )
        self.progress = ProgressReporter(progress)
        if precision is not None or compile:
            check_preparable(self.model, precision or "fp32")
            if differentiable:
                raise ValueError("differentiable maps are of the model's own parameters: not of a prepared copy's")
        self.precision: Precision | None = "fp32" if compile and precision is None else precision
        self.compile = compile
        if not isinstance(graph, bool) and graph != "auto":
            raise ValueError(f'`graph` must be "auto", True or False, got {graph!r}')
        self._graphs = Graphs(warns=graph is True) if graph and not differentiable else None
        self._preparing = threading.Lock()

    def __call__(self, images: Images, target: targets.Target = None, *, out: Tensor | None = None) -> Result:
        """Compute the maps of a batch.

        Args:
            images: (N, C, *S) floating point input of the model, on its device; a list of images (C, *S), which are
                explained one by one if their sizes differ; a tuple of the model's positional arguments, or a mapping of
                them by name, of which ``explain_input`` is explained.
            target: the target to explain, per image: None (the highest class), a class index, N of them, N x K for K
                targets per image, "all" classes, one of ``fastcam.targets``, a callable from the output to (N,) or
                (N, K) scores, or N callables. Methods that run copies of the images call it with any number of
                copies.
            out: (N, [K,] *S), filled with the ``maps`` of one method and layer; see :meth:`.Explanation.write_maps`.

        Returns:
            An :class:`Explanation`; for several methods a dict by method name, for layers that are not fused a dict by
            layer name, for both a dict by (method, layer). Methods without a layer have the layer name "". For images
            of several sizes they are :class:`fastcam.RaggedExplanation`.

        Raises:
            ValueError, TypeError, RuntimeError: for invalid arguments; the message names the expected ones.
        """
        result = self._explain_each(images, target) if ragged.is_ragged(images) else self._explain_batch(images, target)
        if out is not None:
            single_result(result).write_maps(out)
        return cast("Result", result)

    def _explain_each(self, images: Images, target: targets.Target) -> Explanations:
        """Explain images of several sizes one by one."""
        singles = cast("list[Tensor]", images)
        batch = [image_groups.target_of(target, len(singles), index) for index in range(len(singles))]
        return ragged.join([self._explain_batch([image], one) for image, one in zip(singles, batch, strict=True)])

    def _explain_batch(self, images: Images, target: targets.Target) -> Explanations:
        """Explain images of one size."""
        settings = self.settings
        inputs = Inputs.of(images, self.model, settings.explain_input, settings.shared, settings.channel_axis)
        self._prepare(inputs)
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(memory.checked_once(self.model))
                if isinstance(target, targets.Score) and target.reads_input:
                    stack.enter_context(with_input(self.model, inputs.position))
                _warn_of_training(self.model)
                measured_size = self.model.batch_size if isinstance(self.model, Prepared) else None
                explain = BatchExplainer(self.model, settings, self.progress, self._graphs, measured_size)
                return self._with_class_names(explain(inputs, target))
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            cause = true_causes.find(error, self.model, inputs)
            if cause is None:
                raise
            raise cause from error

    def _with_class_names(self, result: Explanations) -> Explanations:
        """Return explanations whose pictures show the model's own names of classes, as Hugging Face's models have."""
        names = getattr(getattr(self.model, "config", None), "id2label", None)
        if not isinstance(names, Mapping):
            return result
        if isinstance(result, Explanation):
            return result.with_class_names(names)
        return cast("Explanations", {key: each.with_class_names(names) for key, each in result.items()})

    def __enter__(self) -> Self:
        """Return the explainer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Do nothing: between calls nothing is attached to the model."""

    @property
    def graphs(self) -> list[GraphReport]:
        """What became of every form of call that may be recorded: seen once, recorded, or why there is no graph."""
        return [] if self._graphs is None else self._graphs.report()

    def _prepare(self, inputs: Inputs) -> None:
        """Prepare the model once, if the settings require it."""
        if self.precision is None:
            return
        with self._preparing:
            if isinstance(self.model, Prepared):
                return
            self.model = prepare(
                self.model,
                inputs,
                precision=self.precision,
                compile=self.compile,
                target_layer=self.settings.target_layer,
                reshape_transform=self.settings.reshape_transform,
                select=self.settings.select,
            )


def single_result(result: Explanations) -> Explanation:
    """Return the one explanation whose maps can be written into ``out``.

    Raises:
        ValueError: if there are several.
    """
    if not isinstance(result, Explanation):
        raise ValueError(f"`out` takes the maps of one method and layer, got {len(result)} of them")
    return result


def _warn_of_training(model: nn.Module) -> None:
    if is_training(model):
        warn(
            "the model is in training mode: batch norm mixes the images of a batch and dropout is active; "
            "call model.eval() for maps of single images"
        )
