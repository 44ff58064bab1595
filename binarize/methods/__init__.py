"""Binarization methods, one paper per file. `names()` lists them, `create()` configures one."""

from __future__ import annotations

from typing import Any

from binarize.layers.recipe import METHODS
from binarize.methods.adabin import AdaBin
from binarize.methods.base import ActivationSite, Method, register_method
from binarize.methods.bbcu import BBCU
from binarize.methods.bidense import BiDense
from binarize.methods.bireal import BiRealNet
from binarize.methods.bisrnet import BiSRNet
from binarize.methods.bit import BiT
from binarize.methods.bnext import BNext
from binarize.methods.bnn import BNN
from binarize.methods.build import binary_layer
from binarize.methods.cbnn import CBNN
from binarize.methods.fda import FDA
from binarize.methods.groupnet import GroupNet
from binarize.methods.irnet import IRNet
from binarize.methods.lqnet import LQNet
from binarize.methods.mbunet import MBUNet
from binarize.methods.rbnn import RBNN
from binarize.methods.reactnet import ReActNet
from binarize.methods.recu import ReCU
from binarize.methods.reste import ReSTE
from binarize.methods.xnor import XNORNet


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

    Args:
        name: as `names` lists it.
        **options: of the method; those that are not given have their default.

    Raises:
        ConfigError: unknown name, unknown option or a value of a wrong type.
    """
    return METHODS.get(name).create(**options)


__all__ = [
    "BBCU",
    "BNN",
    "CBNN",
    "FDA",
    "RBNN",
    "ActivationSite",
    "AdaBin",
    "BNext",
    "BiDense",
    "BiRealNet",
    "BiSRNet",
    "BiT",
    "GroupNet",
    "IRNet",
    "LQNet",
    "MBUNet",
    "Method",
    "ReActNet",
    "ReCU",
    "ReSTE",
    "XNORNet",
    "binary_layer",
    "create",
    "get",
    "names",
    "register_method",
]
