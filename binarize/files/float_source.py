"""The float network that a source describes (of `timm`, `networks` or the user's code), and building it."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from binarize.errors import ConfigError, first_line, unknown_name
from binarize.files.code_source import build_by_code

# What timm would download, or read from a file, for: a source names an architecture and no weights.
_RESERVED = {
    "cache_dir",
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_strict",
    "scriptable",
    "exportable",
    "no_jit",
}


def create_timm(name: str, *, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """`timm.create_model`, with clear errors and a model that remembers how it was made.

    Args:
        name: a timm model, with or without the tag of its weights.
        pretrained: whether to load timm's pretrained weights (from its cache or the network).
        **kwargs: of the architecture (`num_classes`, `in_chans`, `features_only`...), with values
            as JSON has them.

    Raises:
        ConfigError: for an unknown model (with near names), arguments that it does not take, or weights
            that cannot be had.
    """
    import timm

    from binarize.networks.on_meta import readable_numbers

    check_arguments(name, kwargs)
    if not timm.is_model(name):
        raise ConfigError(unknown_name("timm model", name, timm.list_models(), "binarize models"))
    try:
        with readable_numbers():
            model = timm.create_model(name, pretrained=pretrained, **kwargs)
    except Exception as error:  # any constructor of a thousand models, and the download
        what = "its pretrained weights" if pretrained else f"the arguments {kwargs}"
        raise ConfigError(f"timm model {name!r} cannot be built with {what}: {first_line(error)}") from error
    spec: Any = {"source": "timm", "name": name, "kwargs": dict(kwargs)}
    model.binarize_spec = spec
    return model


def build(source: Mapping[str, Any]) -> nn.Module:
    """The float model that `source` describes, without pretrained weights; the random state is left alone.

    Raises:
        ConfigError: if it cannot be built.
    """
    with torch.random.fork_rng(devices=[]):
        return _build(source)


@contextlib.contextmanager
def building_on(device: str) -> Iterator[None]:
    """Build on `device`; on `meta`, tensors take no memory, and initialisers do not warn of it."""
    with torch.device(device), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _build(source: Mapping[str, Any]) -> nn.Module:
    if source["source"] == "custom":
        return build_by_code(source)
    name, kwargs = source["name"], dict(source["kwargs"])
    check_arguments(name, kwargs)  # first of all: a file must not be able to ask for a download
    if source["source"] == "timm":
        return create_timm(name, **kwargs)
    from binarize import networks

    try:
        return networks.build(name, **kwargs)
    except ConfigError:
        raise
    except Exception as error:  # a constructor of an encoder
        raise ConfigError(f"network {name!r} cannot be built with {kwargs}: {first_line(error)}") from error


def check_arguments(name: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments of a model that choose weights, or that JSON cannot hold.

    Args:
        name: of the model, for the message.
        kwargs: keyword arguments of the function that builds it.

    Raises:
        ConfigError: naming the argument.
    """
    reserved = sorted(_RESERVED & kwargs.keys())
    if reserved:
        raise ConfigError(f"{name!r}: {reserved} cannot be set here; weights are chosen with --pretrained.")
    for key, value in kwargs.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise ConfigError(
                f"{name!r}: {key}={value!r} cannot be written to a file; use plain values."
            ) from None
