"""Base of binarization methods: frozen descriptions that build layers and never edit a graph."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeVar

from torch import nn

from binarize.earlier_names import earlier_fields
from binarize.errors import ConfigError, unknown_name, with_article
from binarize.layers.recipe import METHODS, AttentionRecipe, BypassChoice, LayerCost, LayerRecipe, Site
from binarize.option_texts import readings

Form = Literal["default", "table"]

_UNSAID = (("bypass", "own"), ("attention", "float"))
"""Values of options that files leave out, so that they hold the same texts as those of earlier versions."""

_REMEDY = ("constant_remedy", "against_blindness")  # a property of methods, and its earlier name


@earlier_fields(blinds="removes_sign_information")
@dataclass(frozen=True, kw_only=True)
class ActivationSite:
    """An activation of the network beside binary layers.

    Attributes:
        channels: C.
        dim: channel dimension of its input, 1 or -1.
        spatial: number of spatial dims.
        spatial_between: the layer in front of it (behind its norm) and the one behind it are convolutions
            of kernel > 1.
        final_next: what follows is a layer that stays float as the network's final one.
        removes_sign_information: the network's own activation never gives values below 0 (a ReLU), and a
            binary layer of this method would turn all of them into +1.
    """

    channels: int
    dim: int = 1
    spatial: int = 2
    spatial_between: bool = False
    final_next: bool = False
    removes_sign_information: bool = False


@dataclass(frozen=True, kw_only=True)
class Method:
    """Base of all methods.

    A subclass sets `name`, `paper` and `year`, adds its options as fields and defines:

    - `recipe`: the parts of a binary layer at a site;
    - `activation`: what replaces the network's activations;
    - `refuses`: why a site cannot be represented (it then stays float);
    - `drops_residual`: whether the outer add around a branch of bypassed layers is removed.

    Attributes:
        bypass: `own` is the method's; any other takes its place (see `BypassChoice`).
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    year: ClassVar[int | None] = None
    own_bypasses: ClassVar[tuple[str, ...]] = ()
    """Values of the option `bypass` that the method's own `recipe` follows, beside `own`."""
    parallel: ClassVar[bool] = False
    """Every layer consists of several binary layers side by side, with or without a bypass around them:
    `compose` builds it, `recipe` describes one of them, and whether there is a bypass."""

    bypass: BypassChoice = "own"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, other in (_REMEDY, _REMEDY[::-1]):  # whichever a subclass defines counts
            if name in vars(cls) and other not in vars(cls):
                setattr(cls, other, vars(cls)[name])

    def recipe(self, site: Site) -> LayerRecipe:
        """The parts of the binary layer at `site`."""
        raise NotImplementedError(f"{type(self).__name__} does not define recipe()")

    def activation(self, site: ActivationSite) -> Callable[[], nn.Module] | None:
        """Makes the activation that replaces the network's own, or None to keep that."""
        return None

    def attention_recipe(self) -> AttentionRecipe | None:
        """The quantizers of binary attention, for a method whose option `attention` is `binary`."""
        return None

    def refuses(self, site: Site) -> str | None:
        """Why this method cannot represent the layer at `site`, or None if it can."""
        return None

    def reduced(self, costs: Sequence[LayerCost]) -> Collection[int]:
        """Which layers of a network get the method's cheaper form: `recipe` sees `Site.reduced` there.

        Args:
            costs: of all layers that become binary, in the order of the run.

        Returns:
            Their places in `costs`.
        """
        return ()

    @property
    def bits(self) -> tuple[int, int]:
        """Bits of a weight and of an activation: the most that a layer of this method has."""
        return 1, 1

    @property
    def drops_residual(self) -> bool:
        """Whether the outer add around a branch of bypassed layers is removed."""
        return False

    @property
    def constant_remedy(self) -> str:
        """The option that helps layers whose activations are +1 everywhere; empty if there is none."""
        return ""

    against_blindness = constant_remedy  # its earlier name

    def composes(self, site: Site) -> bool:
        """Whether `compose` builds the layer at `site` from several binary layers."""
        return False

    def compose(self, site: Site, weight: nn.Parameter, **geometry: Any) -> nn.Module | None:
        """A module of several binary layers for `site`, or None where one layer by `recipe` is enough.

        Args:
            site: of the layer.
            weight: latent weights.
            **geometry: what `site` does not hold (`binarize.methods.build`): `dilation`, `output_padding` and
                `padding`; of a `parallel` method also `norm` and `bypass`, False to leave them out.
        """
        return None

    @classmethod
    def create(cls, **options: Any) -> Self:
        """A method with these options.

        Raises:
            ConfigError: an option that does not exist (with near names) or has a wrong type.
        """
        hints = typing.get_type_hints(cls)
        known = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
        for name, value in options.items():
            if name not in known:
                if not known:
                    raise ConfigError(f"{cls.name} has no option {name!r}: it takes none.")
                raise ConfigError(unknown_name(f"option of {cls.name}", name, known))
            if not _fits(value, known[name]) and isinstance(value, float) and value.is_integer():
                options[name] = value = int(value)  # 1e1 is a whole number too
            if not _fits(value, known[name]):
                raise ConfigError(
                    f"{cls.name}: option {name}={value!r} is {with_article(type(value).__name__)}, "
                    f"expected {describe_type(known[name])}."
                    if typing.get_origin(known[name]) is not Literal
                    else f"{cls.name}: {name}={value!r}, expected {describe_type(known[name])}."
                )
        return cls(**options)

    @classmethod
    def parse(cls, name: str, text: str) -> Any:
        """The value of option `name` from its text on a command line.

        Raises:
            ConfigError: an option that does not exist, or a text that none of its types can be read from.
        """
        hints = typing.get_type_hints(cls)
        known = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
        if name not in known:
            raise ConfigError(unknown_name(f"option of {cls.name}", name, known))
        for value in readings(text):
            if _fits(value, known[name]):
                return value
        raise ConfigError(f"{cls.name}: {name}={text}: expected {describe_type(known[name])}.")

    def options(self) -> dict[str, Any]:
        """The values of options, as JSON holds them; own bypass and float attention go without saying."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in given.items() if (name, value) not in _UNSAID}

    def as_dict(self) -> dict[str, Any]:
        """Name and options as plain values; `from_dict` is the inverse."""
        return {"name": self.name, "options": self.options()}

    @classmethod
    def describe(cls) -> str:
        """The first line of the method's docstring."""
        return (cls.__doc__ or cls.name).strip().splitlines()[0]


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, choice) for choice in typing.get_args(hint))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return value is None if hint is type(None) else isinstance(value, hint)


def describe_type(hint: Any) -> str:
    """What an option takes, as text: `one of 'channel', 'layer'`, `true or false`, `a number`."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(choice) for choice in typing.get_args(hint))
    names = {
        bool: "true or false",
        int: "an integer",
        float: "a finite number",
        str: "a text",
        type(None): "none",
    }
    return names.get(hint, str(hint))


MethodClass = TypeVar("MethodClass", bound=type[Method])


def register_method(cls: MethodClass) -> MethodClass:
    """Class decorator: make a method known by its `name`.

    Raises:
        ConfigError: no name, or a name that is taken.
    """
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{cls.__name__} has no `name`: set `name: ClassVar[str]` to what users will type.")
    METHODS.add(name, cls)
    return cls
