"""A float network by its name: one of the toolkit's, one of timm, or a callable of the user's.

`upernet:convnext_tiny?num_classes=19`, `timm:resnet18`, `path/to/nets.py:unet`, `package.module:Net`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from binarize import networks
from binarize.errors import BinarizeError, ConfigError, first_line, near_names, unknown_name
from binarize.files.code_source import code_source
from binarize.files.float_source import check_arguments, create_timm
from binarize.networks.catalog import NETWORKS, takes_encoder
from binarize.option_texts import parse_kwargs
from binarize.user_code import Code, is_file, is_module, parts

TIMM = "timm:"
"""What the name of a timm model begins with, where a name alone means one of the toolkit's networks."""


def create(text: str, *, pretrained: bool = False) -> nn.Module:
    """The float network that one line of text names; a name alone is a timm model, or `resnet20-cifar`.

    Args:
        text: the name, with `?option=value&option=value` if need be.
        pretrained: start from timm's pretrained weights.

    Raises:
        ConfigError: nothing has this name, or it does not give a network.
    """
    if is_code(text):
        return _of_code(text, pretrained=pretrained)
    of_timm, text = text.startswith(TIMM), text.removeprefix(TIMM)
    name, _, query = text.partition("?")
    alone = not of_timm and name in NETWORKS and not takes_encoder(name)
    if ":" not in name and not alone:
        kwargs = parse_kwargs(query, f"model {text!r}: option")
        check_arguments(name, kwargs)
        return create_timm(name, pretrained=pretrained, **kwargs)
    if pretrained:
        text = f"{text}{'&' if query else '?'}pretrained=true"
    try:
        return networks.create(text)
    except BinarizeError:
        raise
    except Exception as error:  # a constructor given a value of a wrong kind, or a download
        raise ConfigError(f"network {text!r} cannot be built: {first_line(error)}") from error


OUTPUTS = ("num_classes", "classes", "n_classes", "num_labels")
"""Names under which a callable is given the number of its outputs."""


@dataclass(frozen=True)
class Named:
    """What builds the network that a recipe names.

    Attributes:
        name: as the recipe has it.
        kind: `network` (of the toolkit, or registered), `timm`, or `code` of the user's.
        key: name of the network or of timm's model; of code, the text without a query.
        takes: the names of its arguments.
        given: arguments in the name: `encoder` and what follows the `?`.
        code: for that kind.
    """

    name: str
    kind: str
    key: str
    takes: frozenset[str]
    given: Mapping[str, Any] = field(default_factory=dict)
    code: Code | None = None

    def build(self, **kwargs: Any) -> nn.Module:
        """The network; its `binarize_spec` says how it is built again.

        Raises:
            ConfigError: an argument that it does not take, or it cannot be built.
        """
        if self.kind == "timm":
            return create_timm(self.key, **kwargs)
        if self.code is None:
            return networks.build(self.key, **kwargs)
        model = self.code.build(**kwargs)
        again = {**kwargs, "pretrained": False} if "pretrained" in kwargs else kwargs
        model.binarize_spec = code_source(model, self.code, again)  # type: ignore[assignment] - plain
        return model


def find(name: str) -> Named:
    """What builds the network that a recipe calls `name`; code of the user's is imported.

    Raises:
        ConfigError: nothing has this name.
    """
    place, rest, query = parts(name)
    given = parse_kwargs(query, f"network {name!r}: option")
    if is_code(name):
        code = Code(f"{place}:{rest}", Path.cwd())
        return Named(name, "code", code.text, _by_name(code.parameters()), given, code)
    if name.startswith(TIMM):
        check_arguments(rest, given)
        return Named(name, "timm", rest, frozenset({"num_classes", "pretrained"}), given)
    if place not in NETWORKS:
        raise ConfigError(_unknown(place))
    if rest and "encoder" in given:
        raise ConfigError(f"network {name!r}: 'encoder' is given twice.")
    if rest:
        given = {"encoder": rest, **given}
    takes = _by_name(inspect.signature(NETWORKS.get(place)).parameters)
    return Named(name, "network", place, takes, given)


def arguments(
    named: Named,
    options: Mapping[str, Any],
    *,
    encoder: str | None,
    pretrained: bool,
    outputs: int,
    task: Mapping[str, Any],
) -> dict[str, Any]:
    """What a network is built with: the options, and by name what the data set says, as far as it takes it.

    Args:
        named: the network.
        options: of the recipe; they win.
        encoder: of the recipe.
        pretrained: whether it starts from pretrained weights.
        outputs: classes, or 1 for depth: handed over as one of `OUTPUTS`.
        task: `task`, and for depth `max_depth` and `min_depth`.

    Raises:
        ConfigError: an encoder or `pretrained` for a network that takes none.
    """
    own = {**named.given, **options}
    handed = {key: value for key, value in task.items() if key in named.takes}
    if "task" not in named.takes or outputs > 1:  # one that knows its task needs no number for depth
        handed |= {key: outputs for key in OUTPUTS if key in named.takes}
    if encoder is not None:
        if "encoder" not in named.takes:
            raise ConfigError(f"network {named.name!r} takes no encoder: leave network.encoder out.")
        if "encoder" in named.given:
            raise ConfigError(f"network {named.name!r}: the encoder is given twice.")
        handed["encoder"] = encoder
    if "pretrained" in named.takes:
        handed["pretrained"] = pretrained
    elif pretrained:
        raise ConfigError(
            f"network {named.name!r} takes no argument `pretrained`: leave network.pretrained out, or let "
            "the callable take it and load weights by it."
        )
    return {**handed, **own}


def _by_name(parameters: Mapping[str, inspect.Parameter]) -> frozenset[str]:
    """The names by which arguments can be given."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return frozenset(name for name, p in parameters.items() if p.kind in kinds)


def _unknown(place: str) -> str:
    """The message for a name of a recipe that means nothing."""
    message = unknown_name("network", place, NETWORKS.names())
    if near_names(place, NETWORKS.names()):
        return message
    return (
        f"{message} A callable of your own is written path/to/nets.py:unet or package.module:Net, a model of "
        "timm timm:NAME."
    )


def is_own(name: str) -> bool:
    """Whether a recipe's network is not one of the toolkit's: by the user's code, or timm's."""
    return name.startswith(TIMM) or is_code(name)


def is_code(text: str) -> bool:
    """Whether a text names a callable of the user's, in a file or in a module that can be imported."""
    if is_file(text):
        return True
    place, name, _ = parts(text)
    if not name or text.startswith(TIMM) or place in NETWORKS:
        return False
    return is_module(place)


def _of_code(text: str, *, pretrained: bool) -> nn.Module:
    if pretrained:
        raise ConfigError(
            f"{text}: --pretrained is for timm models; a file's callable loads its own weights."
        )
    place, name, query = parts(text)
    kwargs = parse_kwargs(query, f"{text}: option")
    return Code(f"{place}:{name}", Path.cwd()).build(**kwargs)
