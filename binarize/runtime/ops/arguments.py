"""Activations, tails and sizes as arguments of operators, which are tensors, numbers and lists of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from binarize.native.epilogue import Activation, Tail
from binarize.native.types import Resize


def activation_of_arguments(
    arrays: Sequence[Tensor | None], bounds: Sequence[float] = ()
) -> Activation | None:
    """The activation that an operator's arguments describe; None for none.

    Args:
        arrays: empty, or before, negative, positive and after of a piecewise one.
        bounds: empty, or low and high of a clamp.
    """
    if bounds:
        return Activation(kind="clamp", low=bounds[0], high=bounds[1])
    if not arrays:
        return None
    before, negative, positive, after = arrays
    return Activation(kind="piecewise", before=before, negative=negative, positive=positive, after=after)


def arguments_of_activation(
    activation: Activation | None,
) -> tuple[list[Tensor | None], list[float]] | None:
    """The inverse; None if an operator's arguments cannot hold it."""
    if activation is None or activation.kind == "none":
        return [], []
    if activation.kind == "clamp":
        return [], [activation.low, activation.high]
    return [activation.before, activation.negative, activation.positive, activation.after], []


def tail_of_arguments(weight: Tensor, bias: Tensor | None) -> Tail:
    """A float 1x1 convolution as the kernels take it."""
    return Tail(weight=weight.detach().flatten(1), bias=None if bias is None else bias.detach())


def resize_of_arguments(resize: Sequence[int]) -> Resize | None:
    """[height, width, align_corners] as data; None if it is empty."""
    return Resize(size=(resize[0], resize[1]), align_corners=bool(resize[2])) if resize else None
