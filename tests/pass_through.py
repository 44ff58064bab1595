"""A method that changes nothing: its "binary" layers compute the float layer, without a bypass.

What a model converted by it computes differs from the float model by what the engine gets wrong.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from binarize.functional import Rule
from binarize.functional.rules import Gradients, Stats
from binarize.layers import LayerRecipe, Site
from binarize.layers.recipe import METHODS
from binarize.methods import Method


@dataclass(frozen=True)
class Same(Rule):
    """Forward x, gradient 1."""

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        return x.clone(), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        return (grad,)


@dataclass(frozen=True, kw_only=True)
class PassThrough(Method):
    """The float layer itself."""

    name: ClassVar[str] = "test_pass_through"
    paper: ClassVar[str] = "none"

    def recipe(self, site: Site) -> LayerRecipe:
        return LayerRecipe(quantizer=nn.Identity, weight_rule=Same(), bias=True, norm="own")


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """Let the method be found by its name for the time being: other tests must not find it."""
    METHODS.add(PassThrough.name, PassThrough)
    try:
        yield
    finally:
        del METHODS._entries[PassThrough.name]
