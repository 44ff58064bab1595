"""The definition of a quantizer: a forward function, the statistics it saves, and a gradient written by hand.

A `Rule` is stateless; learnable parameters are passed in. Its `gradient` needs the input and the few
numbers of `stats` only, so that a layer keeps its *input* alive for the backward pass (which the
bypass around the layer shares) and neither the quantized tensor nor any temporary of the surrogate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Stats = tuple[Tensor, ...]
Gradients = tuple[Tensor | None, ...]


class Rule:
    """Forward and backward of one quantizer; subclasses are frozen dataclasses without tensors.

    Attributes:
        symmetric: of a rule for weights: with every value of a filter its negative is one, too (+scale
            and -scale), whatever the weights are. Each class says it for itself: what a subclass changes may
            end it.
        scaled: of a rule for weights: the binary weights are as large as the latent ones. Where they are not,
            a layer needs a norm behind it.
    """

    symmetric: ClassVar[bool] = False
    scaled: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "symmetric" not in vars(cls):
            cls.symmetric = False

    @property
    def planes(self) -> int:
        """Of a rule for weights: how many binary weights, of one bit each, every weight is the sum of."""
        return 1

    def signs(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Tensor] | None:
        """The binary weights that the quantized `x` is the sum of; needed where `planes` is above 1.

        Returns:
            (planes, *x.shape) bool, True for +1, and (planes, Cout, 1, ...), their scales: the quantized `x`
            is the sum of the scales times +1 and -1.
        """
        return None

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        """The quantized `x` (same shape) and the statistics that `rebuild` and `gradient` need."""
        raise NotImplementedError(f"{type(self).__name__} does not define quantize()")

    def rebuild(self, x: Tensor, stats: Stats, *params: Tensor) -> Tensor:
        """The quantized `x` again, of its shape, from the saved statistics."""
        return self.quantize(x, *params)[0]

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        """The gradients of `x` and of each of `params`, in this order.

        Args:
            grad: gradient of the quantized tensor, shape of `x`.
            x: the input of `quantize`.
            stats: what `quantize` returned beside the quantized tensor.
            params: the parameters that `quantize` was given; for those that are not learnt (numbers that
                follow the progress of training), the gradient is None.
            y: what `rebuild` gives, if the caller has it already.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define gradient()")

    def formula(self, x: Tensor, *params: Tensor) -> Tensor | None:
        """What this computes, as an expression that autograd differentiates to `gradient`; None: not stated.

        It has the shape of `x`. With STE[f; h] = f.detach() + h - h.detach(), for example. Only
        checks call it (`binarize.testing.check_method`), in float64.
        """
        return None


class _Quantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rule: Rule, x: Tensor, *params: Tensor) -> Tensor:
        y, stats = rule.quantize(x, *params)
        ctx.rule = rule
        ctx.stats = len(stats)
        ctx.save_for_backward(x, *stats, *params)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, *rest = ctx.saved_tensors
        stats, params = tuple(rest[: ctx.stats]), rest[ctx.stats :]
        return None, *ctx.rule.gradient(grads[0], x, stats, *params)


def quantize(rule: Rule, x: Tensor, *params: Tensor) -> Tensor:
    """`rule` applied to `x`, differentiable by the rule's own gradient.

    Args:
        rule: forward and backward.
        x: of any shape that the rule accepts.
        *params: the learnt numbers that the rule takes; they get its gradients.

    Returns:
        The quantized values, of the shape and dtype of `x`.
    """
    return _Quantize.apply(rule, x, *params)


def sum_to(x: Tensor, shape: Sequence[int]) -> Tensor:
    """`x` summed over the dimensions in which `shape` is 1 or missing: the transpose of broadcasting."""
    return x.sum_to_size(tuple(shape)) if len(shape) else x.sum()
