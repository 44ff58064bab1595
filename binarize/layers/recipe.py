"""What a method specifies for one layer: the parts of the binary layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, get_args

from torch import nn

from binarize.errors import ConfigError
from binarize.functional import Rule
from binarize.layers.activations import RPReLU
from binarize.layers.training_state import WeightState
from binarize.registry import Registry

Kind = Literal["conv", "pointwise", "token"]
"""`conv`: a convolution; `pointwise`: a linear layer on (N, H, W, C), the same as a 1x1 convolution;
`token`: a linear layer on (N, L, C) or (N, C)."""

NormKind = Literal["batch", "layer", "own", "none"]


@dataclass(frozen=True, kw_only=True)
class Site:
    """A place for a binary layer in a network, as far as a method needs to know it.

    Attributes:
        kind: see `Kind`.
        in_channels: Cin.
        out_channels: Cout.
        kernel: one number per spatial dim; empty for linear layers.
        stride: likewise.
        groups: of the convolution.
        transposed: a transposed convolution.
        fit: `floor` or `ceil` where that rounding of size / stride always gives the output size (for a
            transposed convolution `floor`: size * stride does), `crop` where it does not.
        has_bias: the float layer has a bias.
        activated: an activation follows (behind the norm, if there is one).
        spatial_next: behind that activation comes a convolution of kernel > 1 and nothing else.
        final_next: behind that activation comes a layer that stays float as the network's final one.
        reduced: the layer gets its method's cheaper form: so `Method.reduced` chose by what all layers cost.
        nonnegative: input channels [start, stop) whose values are never negative, as behind a ReLU. Only the
            quantizer of a recipe may depend on it: all else is decided before it is known.
    """

    kind: Kind
    in_channels: int
    out_channels: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    fit: str = "crop"
    has_bias: bool = False
    activated: bool = False
    spatial_next: bool = False
    final_next: bool = False
    reduced: bool = False
    nonnegative: tuple[tuple[int, int], ...] = ()

    @property
    def dim(self) -> int:
        """The channel dimension of input and output: 1, or -1 for linear layers."""
        return 1 if self.kind == "conv" else -1

    @property
    def spatial(self) -> int:
        """Number of spatial dims of the kernel."""
        return len(self.kernel)

    @property
    def sees_no_negatives(self) -> bool:
        """No value of the input is negative."""
        return self.nonnegative == ((0, self.in_channels),)

    @property
    def keeps_shape(self) -> bool:
        """Input and output have the same channels and no stride lies between them."""
        return self.in_channels == self.out_channels and all(s == 1 for s in self.stride)


class LayerCost(NamedTuple):
    """What a layer of a network costs, on the inputs that the plan is made from.

    Attributes:
        macs: multiply-accumulates of all its calls.
        weights: how many weights it has.
    """

    macs: int
    weights: int


@dataclass(frozen=True, kw_only=True)
class LayerRecipe:
    """The parts of a binary layer: y = inner(norm(conv(quantizer(x), weight_rule(w)) + bias)) + bypass(x).

    Attributes:
        quantizer: makes the activation quantizer.
        weight_rule: latent to binary weights.
        weight_state: makes the module that holds what the weight rule takes beside the weights (learnt
            numbers, and those that follow the progress of training); None for a rule that takes nothing else.
        bias: keep a float bias (where the float layer has one).
        norm: `batch`, `layer` (eps 1e-6), `own` (the network's norms and layer scale stay as they are) or
            `none`.
        bypass: add the bypass.
        inner: makes an activation between norm and bypass, if the method has one there.
    """

    quantizer: Callable[[], nn.Module]
    weight_rule: Rule
    weight_state: Callable[[], WeightState] | None = None
    bias: bool = False
    norm: NormKind = "batch"
    bypass: bool = False
    inner: Callable[[], nn.Module] | None = None


Recipe = LayerRecipe
"""The name of earlier versions."""

QuantizerOfShape = Callable[[tuple[int, ...]], nn.Module]
"""Makes a quantizer from the shape of what it has per channel."""

AttentionChoice = Literal["float", "binary"]
"""What a method makes of attention: `float` leaves it as it is."""


@dataclass(frozen=True, kw_only=True)
class AttentionRecipe:
    """The quantizers of binary attention: rows(softmax(query(Q) key(K^T))) value(V).

    Each is made from the shape of what it has per channel, broadcastable to what it quantizes; `()` stands
    for one value.

    Attributes:
        query: of the queries.
        key: of the transposed keys.
        rows: of the softmax's result, which is never negative.
        value: of the values.
    """

    query: QuantizerOfShape
    key: QuantizerOfShape
    rows: QuantizerOfShape
    value: QuantizerOfShape


BypassChoice = Literal["own", "cfb", "identity", "duplicate", "bisrnet", "none"]
"""Which bypass a method's layers have.

`own`: the method's. `cfb`: BiDense's, channel-adaptive, around each layer. `identity`: where channels agree,
average-pooled at a stride. `duplicate`: the same and, where channels double, the input twice (ReActNet).
`bisrnet`: its units for the layers, and its modules of units where shapes change. `none`: none.
"""


def recipe_of(method: MethodLike, site: Site) -> LayerRecipe:
    """The parts of the layer at `site`, with the bypass that the method's option `bypass` asks for."""
    recipe = method.recipe(site)
    choice = chosen_bypass(method)
    if choice == "own":
        return recipe
    if choice == "bisrnet":
        return unit_recipe(recipe, site)
    same, doubled = (site.out_channels == n * site.in_channels for n in (1, 2))
    bypass = {"cfb": True, "identity": same, "duplicate": same or doubled, "none": False}[choice]
    return replace(recipe, bypass=bypass)


def with_bypass_option(bypass: bool | str, options: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
    """A layer's argument `bypass`: whether it has one; or, as text, the method's option of that name."""
    return (True, {**options, "bypass": bypass}) if isinstance(bypass, str) else (bypass, options)


def unit_recipe(recipe: LayerRecipe, site: Site) -> LayerRecipe:
    """A recipe as BiSRNet's unit y = RPReLU(conv(.)) + x where the shape stays; elsewhere without bypass.

    The norm stays if the binary weights have no scale: results would be tens of times as large as x.
    """
    if not site.keeps_shape or site.kind == "token":
        return replace(recipe, bypass=site.keeps_shape)
    inner = partial(RPReLU, site.out_channels, dim=site.dim, spatial=site.spatial)
    return replace(
        recipe, norm="none" if recipe.weight_rule.scaled else recipe.norm, inner=inner, bypass=True
    )


def has_unit_shape(site: Site) -> bool:
    """Whether a layer changes its input's shape, with channels and strides that BiSRNet's units can make."""
    if site.kind == "token" or site.keeps_shape or site.groups != 1 or site.spatial not in (0, 2):
        return False
    small, large = sorted((site.in_channels, site.out_channels))
    whole = large % small == 0 and len(set(site.stride)) <= 1
    return whole and (not site.transposed or site.out_channels <= site.in_channels)


def recipe_of_one(layer: object, method: MethodLike, site: Site, bypass: bool) -> LayerRecipe:
    """`recipe_of` for a layer that is built by its class's name: one layer, not several units.

    Raises:
        ConfigError: a method whose layers are several binary ones, or `bypass="bisrnet"` where it means
            several units.
    """
    if getattr(method, "parallel", False):
        name = type(layer).__name__
        raise ConfigError(
            f"{name}: a layer of {getattr(method, 'name', 'this method')} consists of several binary layers, "
            f"which one {name} cannot hold: build it by "
            f"binarize.binary_layer(nn.{name.removeprefix('Binary')}(...), method)."
        )
    if bypass and chosen_bypass(method) == "bisrnet" and has_unit_shape(site):
        name = type(layer).__name__
        kind = ", kind='pointwise'" if site.kind == "pointwise" else ""
        raise ConfigError(
            f"{name}: bypass='bisrnet' makes a layer from {site.in_channels} to {site.out_channels} channels"
            f"{', with a stride,' if any(s > 1 for s in site.stride) else ''} from several units, which one "
            f"{name} cannot hold: build it by binarize.binary_layer(nn.{name.removeprefix('Binary')}(...), "
            f"method, bypass='bisrnet'{kind}), or choose another bypass (identity, cfb)."
        )
    return recipe_of(method, site)


def chosen_bypass(method: object) -> str:
    """The method's option `bypass`; `own` if it decides itself what that means."""
    choice = getattr(method, "bypass", "own")
    known = isinstance(choice, str) and choice in get_args(BypassChoice)
    return choice if known and choice not in getattr(method, "own_bypasses", ()) else "own"


def binary_attention(method: object) -> bool:
    """Whether the method's option `attention` asks for binary attention."""
    return getattr(method, "attention", "float") == "binary"


class MethodLike(Protocol):
    """What a layer needs from a method."""

    def recipe(self, site: Site) -> LayerRecipe:
        """The parts of the layer at `site`."""
        ...


METHODS: Registry[Any] = Registry("method", builtin="binarize.methods", group="binarize.methods")
"""Method classes by name. It is defined here so that a layer can be built by its method's name."""


def resolve(method: str | MethodLike, options: dict[str, Any]) -> Any:
    """A method object from a name and options, or the object itself.

    Raises:
        ConfigError: unknown name, unknown option, value of a wrong type, or options together with an object.
    """
    if isinstance(method, str):
        return METHODS.get(method).create(**options)
    if isinstance(method, type) or not hasattr(method, "recipe"):
        raise ConfigError(
            f"method: got {method!r}, expected a name or a method object such as binarize.methods.BiDense()."
        )
    if options:
        raise ConfigError(
            f"method: got a configured {type(method).__name__} and the options {sorted(options)}; "
            "give the options to the method object instead."
        )
    given: Any = method
    if hasattr(given, "create") and hasattr(given, "options"):
        given.create(**given.options())  # the constructor of a dataclass takes values of any type
    return method
