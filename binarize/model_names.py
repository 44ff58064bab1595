"""A float network by its name: one of the toolkit's, one of timm, or a callable of the user's.

`upernet:convnext_tiny?num_classes=19`, `timm:resnet18`, `path/to/nets.py:unet`, `package.module:Net`.
"""

from __future__ import annotations

import importlib.util

from torch import nn

from binarize import networks
from binarize.errors import BinarizeError, ConfigError, first_line
from binarize.files.float_source import check_arguments, create_timm
from binarize.networks.catalog import NETWORKS
from binarize.option_texts import parse_kwargs
from binarize.user_code import Code, is_file, parts

TIMM = "timm:"
"""What the name of a timm model begins with, where a name alone means one of the toolkit's networks."""


def create(text: str, *, pretrained: bool = False) -> nn.Module:
    """The float network that one line of text names; a name alone is a timm model.

    Args:
        text: the name, with `?option=value&option=value` if need be.
        pretrained: start from timm's pretrained weights.

    Raises:
        ConfigError: nothing has this name, or it does not give a network.
    """
    if is_code(text):
        return _of_code(text, pretrained=pretrained)
    text = text.removeprefix(TIMM)
    name, _, query = text.partition("?")
    if ":" not in name:
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


def is_code(text: str) -> bool:
    """Whether a text names a callable of the user's, in a file or in a module that can be imported."""
    if is_file(text):
        return True
    place, name, _ = parts(text)
    if not name or text.startswith(TIMM) or place in NETWORKS:
        return False
    first = place.partition(".")[0]
    if not all(part.isidentifier() for part in place.split(".")):
        return False
    try:
        return importlib.util.find_spec(first) is not None
    except (ImportError, ValueError):
        return False


def _of_code(text: str, *, pretrained: bool) -> nn.Module:
    if pretrained:
        raise ConfigError(
            f"{text}: --pretrained is for timm models; a file's callable loads its own weights."
        )
    place, name, query = parts(text)
    kwargs = parse_kwargs(query, f"{text}: option")
    return Code(f"{place}:{name}").build(**kwargs)
