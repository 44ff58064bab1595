"""Binarization methods, one paper per file. `names()` lists them, `create()` configures one."""

from __future__ import annotations

from typing import Any

from binarize.layers.recipe import METHODS
from binarize.methods.adabin import AdaBin
from binarize.methods.base import ActivationSite, Method, register_method
from binarize.methods.bidense import BiDense
from binarize.methods.bisrnet import BiSRNet
from binarize.methods.bnn import BNN
from binarize.methods.build import binary_layer
from binarize.methods.reactnet import ReActNet


def names() -> list[str]:
    """The names of all registered methods, sorted."""
    return METHODS.names()


def get(name: str) -> type[Method]:
    """The method class called `name`.

    Raises:
        ConfigError: if there is none; the message holds near names.
    """
    return METHODS.get(name)


def create(name: str, **options: Any) -> Method:
    """A configured method.

    Raises:
        ConfigError: unknown name, unknown option or a value of a wrong type.
    """
    return METHODS.get(name).create(**options)


__all__ = [
    "BNN",
    "ActivationSite",
    "AdaBin",
    "BiDense",
    "BiSRNet",
    "Method",
    "ReActNet",
    "binary_layer",
    "create",
    "get",
    "names",
    "register_method",
]
