"""The settings of an explainer: all of an explanation except the model, the images and the target."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from fastcam import postprocess, reshape
from fastcam.methods.registry import Method, Need, Reduction
from fastcam.model.batching import BatchSize, check_batch_size
from fastcam.model.elements import Element, Select
from fastcam.model.layers import TargetLayer

Reshape = Callable[[Tensor], Tensor]

# What other tools call the arguments of ``explain``.
_OTHER_NAMES = {
    "target_layers": "target_layer, which takes a list too",
    "layer": "target_layer",
    "layers": "target_layer, which takes a list too",
    "target_category": "target",
    "targets": "target",
    "class_idx": "target",
    "classifier": 'fastcam.explain(..., "cam", classifier=), or fastcam.class_maps',
    "additional_forward_args": "images, a tuple of the model's arguments",
    "n_steps": "steps",
    "internal_batch_size": "batch_size",
    "perturbations_per_eval": "batch_size",
    "sliding_window_shapes": "window",
    "strides": "stride",
}

# The needs that require the graph after the layers.
_AFTER_LAYER = {"gradients", "mean_pool_classifier", "max_pool_classifier", "ablated_scores"}


@dataclass(frozen=True)
class Settings:
    """The arguments of :class:`fastcam.Explainer`, checked.

    Attributes:
        methods: at least one.
        one_method: whether the user passed one, not a list.
        options: of the methods' rules.

    The others are as for :class:`fastcam.Explainer`.

    Raises:
        TypeError, ValueError: for an invalid value, or an option that no method has.
    """

    methods: tuple[Method, ...]
    one_method: bool
    target_layer: TargetLayer = None
    fuse: postprocess.Fusion | None = "mean"
    relu: bool | None = None
    reduce: Reduction | None = None
    reshape_transform: Reshape | None = None
    select: Select = None
    layer_output: Element = None
    batch_size: BatchSize = "auto"
    differentiable: bool = False
    layer_run: int | None = None
    explain_input: int | str | None = None
    shared: tuple[int | str, ...] = ()
    channel_axis: int | None = None
    strict: bool = False
    options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.methods:
            raise ValueError("`method` must name at least one method, got an empty list")
        if self.fuse not in ("mean", "max", None):
            raise ValueError(f'`fuse` must be "mean", "max" or None, got {self.fuse!r}')
        if self.reduce is not None:
            postprocess.check_reduction(self.reduce)
        check_batch_size(self.batch_size)
        known = set().union(*(method.all_options(self.options) for method in self.methods))
        for option in self.options:
            if option not in known:
                names = ", ".join(method.name for method in self.methods)
                hint = f"; did you mean {_OTHER_NAMES[option]}?" if option in _OTHER_NAMES else ""
                raise TypeError(f"{names} has no option {option!r}; known: {', '.join(sorted(known)) or 'none'}{hint}")

    @cached_property
    def needs(self) -> frozenset[Need]:
        """Everything that the methods need."""
        return frozenset(need for method in self.methods for need in method.needs)

    @property
    def finds_token_maps(self) -> bool:
        """Whether the maps in the layers' outputs are found on the model: unless the user's own transform gives them.

        The grids that ``vit_reshape`` and ``swin_reshape`` assume are assumptions; what is found goes before them.
        """
        return self.reshape_transform in (None, reshape.vit_reshape, reshape.swin_reshape)

    @property
    def has_layer(self) -> bool:
        """Whether any of the methods uses a layer."""
        return any(method.has_layer for method in self.methods)

    @property
    def is_one_pass(self) -> bool:
        """Whether one pass over the images is enough for all methods."""
        return all(method.is_one_pass for method in self.methods)

    @property
    def needs_graph(self) -> bool:
        """Whether the part of the model after the layers must be recorded."""
        return not self.needs.isdisjoint(_AFTER_LAYER)

    @property
    def needs_input_gradients(self) -> bool:
        """Whether the graph must begin at the images."""
        return any(need.endswith("_gradients") for need in self.needs)

    def options_of(self, method: Method) -> dict[str, object]:
        """Return the options of a method."""
        known = method.all_options(self.options)
        return {name: value for name, value in self.options.items() if name in known}

    def relu_of(self, method: Method) -> bool:
        """Whether a method's maps end in a ReLU."""
        return method.relu if self.relu is None else self.relu

    def reduction_of(self, method: Method) -> Reduction:
        """Return the reduction from a method's attributions to a map."""
        return self.reduce or method.reduction(self.options)
