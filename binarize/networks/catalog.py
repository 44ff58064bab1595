"""Networks by name, and from one line of text: `upernet:convnext_tiny?task=depth&max_depth=10`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from binarize.errors import ConfigError, unknown_name
from binarize.networks.cifar import CIFAR_NETWORKS
from binarize.networks.deeplab import deeplabv3plus
from binarize.networks.dpt import dpt
from binarize.networks.fcn import fcn8s, fcn32s
from binarize.networks.segformer import segformer
from binarize.networks.upernet import upernet
from binarize.option_texts import parse_kwargs
from binarize.registry import Registry

NETWORKS: Registry[Callable[..., nn.Module]] = Registry("network", group="binarize.networks")
"""Functions that build a network; one that takes an encoder is given the name of a timm model."""

for _function in (deeplabv3plus, dpt, fcn8s, fcn32s, segformer, upernet):
    NETWORKS.add(_function.__name__, _function)
for _name, _classifier in CIFAR_NETWORKS.items():
    NETWORKS.add(_name, _classifier)


def names() -> list[str]:
    """The names of all networks, sorted."""
    return NETWORKS.names()


def build(name: str, /, **kwargs: Any) -> nn.Module:
    """The network `name`, in float.

    Args:
        name: one of `names()`.
        **kwargs: what its function takes, `encoder` among them.

    Raises:
        ConfigError: for an unknown network, argument or encoder, or one that is missing.
    """
    function = NETWORKS.get(name)
    parameters = inspect.signature(function).parameters
    if "encoder" in kwargs and "encoder" not in parameters:
        raise ConfigError(f"network {name!r} takes no encoder.")
    for key in kwargs:
        if key not in parameters:
            raise ConfigError(unknown_name(f"option of network {name!r}", key, parameters))
    missing = [k for k, p in parameters.items() if p.default is p.empty and k not in kwargs]
    if missing:
        raise ConfigError(f"network {name!r} needs {', '.join(missing)}; write e.g. '{name}:convnext_tiny'.")
    return function(**kwargs)


def create(spec: str) -> nn.Module:
    """The network that one line of text describes, in float.

    Args:
        spec: `NAME:ENCODER` or `NAME:ENCODER?option=value&option=value`; without `:ENCODER` for a network
            that takes none (`resnet20-cifar`). A value is a number, `true`, `false`, `none`, numbers with
            commas between (`480,640`), or else a text.

    Raises:
        ConfigError: for a text of another form, or as `build`.
    """
    place, _, query = spec.partition("?")
    name, colon, encoder = place.partition(":")
    alone = name in NETWORKS and not takes_encoder(name) and not colon
    if not alone and not (name and colon and encoder):
        raise ConfigError(f"network {spec!r}: expected NAME:ENCODER, for instance 'upernet:convnext_tiny'.")
    kwargs = parse_kwargs(query, f"network {spec!r}: option")
    if "encoder" in kwargs:
        raise ConfigError(f"network {spec!r}: 'encoder' is given twice.")
    lists_as_tuples = {key: tuple(v) if isinstance(v, list) else v for key, v in kwargs.items()}
    return build(name, **({} if alone else {"encoder": encoder}), **lists_as_tuples)


def takes_encoder(name: str) -> bool:
    """Whether the network `name` is built on an encoder of timm."""
    return "encoder" in inspect.signature(NETWORKS.get(name)).parameters
