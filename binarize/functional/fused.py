"""Training by kernels: the same rules and activations as elsewhere, each in one pass over a map.

Where `binarize.native.training.usable` says no, or a tensor has gaps, everything here gives way to torch's
operators. Results differ from theirs by rounding only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from binarize.functional.activations import ApproxSign, ShiftedSign, SteSign
from binarize.functional.bypass import channel_bypass
from binarize.functional.dab import DabRule, group_bounds
from binarize.functional.rules import Gradients, Rule, Stats
from binarize.functional.sign import clip_gradient
from binarize.functional.weights import ScaledSign
from binarize.native import training as kernels
from binarize.native.structs import Values
from binarize.native.training import DabNumbers, Lines

_LAST = torch.channels_last


@dataclass(frozen=True)
class FusedRule(Rule):
    """A rule on the kernels, for one map.

    Attributes:
        values: how the map lies in memory.
    """

    values: Values

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        return self.gradient_(grad.clone(memory_format=torch.preserve_format), x, stats, *params)

    def gradient_(self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor) -> Gradients:
        """`gradient`; `grad` may be overwritten."""
        raise NotImplementedError(f"{type(self).__name__} does not define gradient_()")


@dataclass(frozen=True)
class FusedDab(FusedRule):
    """`DabRule` with a scale by M."""

    rule: DabRule

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        y, kept = kernels.dab(x, self.values, self._numbers(params))
        return y, (kept,)

    def rebuild(self, x: Tensor, stats: Stats, *params: Tensor) -> Tensor:
        return kernels.signs(x, self.values, stats[0][1], stats[0][3], per_image=True)

    def gradient_(self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor) -> Gradients:
        grad = kernels.like(grad, x)
        found = kernels.dab_backward(grad, x, self.values, self._numbers(params), stats[0], grad)
        given = zip(self.rule.names(), params, strict=True)
        parts = dict(zip("akb", found, strict=True))
        return grad, *(parts[name][: param.numel()].view(param.shape) for name, param in given)

    def _numbers(self, params: tuple[Tensor, ...]) -> DabNumbers:
        given = dict(zip(self.rule.names(), params, strict=True))
        a = given.get("a")
        groups = 0
        if self.rule.granularity != "channel":
            wanted = self.rule.groups if self.rule.granularity == "group" else 1
            groups = len(group_bounds(self.values.channels, wanted)) - 1
        return DabNumbers(given.get("k"), given.get("b"), a, groups, self.rule.scale == "mad")


@dataclass(frozen=True)
class FusedSign(FusedRule):
    """`ApproxSign`, or `ShiftedSign` with its `beta`."""

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        threshold = tuple(-beta for beta in params)
        return kernels.signs(x, self.values, *threshold), threshold

    def rebuild(self, x: Tensor, stats: Stats, *params: Tensor) -> Tensor:
        return kernels.signs(x, self.values, *stats)

    def gradient_(self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor) -> Gradients:
        grad = kernels.like(grad, x)
        sums = kernels.signs_backward(grad, x, self.values, stats[0] if stats else None, grad)
        return grad, *(sums[0].sum(0).to(beta.dtype).view(beta.shape) for beta in params)


@dataclass(frozen=True)
class FusedSte(FusedRule):
    """`SteSign`: one pass forward; backward is one in torch."""

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        return kernels.signs(x, self.values), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        return (clip_gradient(grad, x),)

    def gradient_(self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor) -> Gradients:
        return (clip_gradient(grad, x, out=grad),)


@dataclass(frozen=True)
class FusedScaledSign(FusedSte):
    """`ScaledSign` of weights, a filter being an image of one channel."""

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        y, kept = kernels.dab(x, self.values, DabNumbers(None, None, None, plain=True))
        return y, (kept[3],)

    def rebuild(self, x: Tensor, stats: Stats, *params: Tensor) -> Tensor:
        return kernels.signs(x, self.values, None, stats[0], per_image=True)


def fused_rule(rule: Rule, x: Tensor, *params: Tensor) -> Rule:
    """The rule on the kernels, where gradients are recorded and both fit; else `rule` itself.

    Args:
        rule: of activations or weights.
        x: what it quantizes.
        *params: what it takes beside that.
    """
    if type(rule) not in _FUSED or not torch.is_grad_enabled() or not kernels.usable(x, *params):
        return rule
    return _FUSED[type(rule)](rule, x, params) or rule


def _fused_dab(rule: Any, x: Tensor, params: tuple[Tensor, ...]) -> Rule | None:
    values = kernels.values_of(x, rule.dim)
    fits = rule.scale in ("adaptive", "mad") and all(p.is_contiguous() for p in params)
    return FusedDab(values, rule) if fits and values is not None else None


def _fused_sign(rule: Any, x: Tensor, params: tuple[Tensor, ...]) -> Rule | None:
    # parameters say where the channels are: (C,) at the end, (1, C, 1, ...) in dim 1
    dim = -1 if params and params[0].dim() == 1 else 1
    values = kernels.values_of(x, dim)
    fits = values is not None and all(p.numel() == values.channels for p in params)
    return FusedSign(values) if fits and values is not None else None


def _fused_ste(rule: Any, x: Tensor, params: tuple[Tensor, ...]) -> Rule | None:
    values = kernels.filters_of(x)
    return FusedSte(values) if values is not None else None


def _fused_scaled(rule: Any, x: Tensor, params: tuple[Tensor, ...]) -> Rule | None:
    values = kernels.filters_of(x)
    return FusedScaledSign(values) if values is not None else None


_FUSED: dict[type[Rule], Any] = {
    DabRule: _fused_dab,
    ShiftedSign: _fused_sign,
    ApproxSign: _fused_sign,
    SteSign: _fused_ste,
    ScaledSign: _fused_scaled,
}


def piecewise(x: Tensor, lines: Lines, dim: int = 1) -> Tensor | None:
    """Two lines per channel in one pass, with gradients; None where the kernels cannot stand for torch.

    Args:
        x: (N, C, ...), or with `dim` -1 (N, ..., C).
        lines: its parameters, as of `piecewise_in_torch`.
        dim: channel dimension.
    """
    if not torch.is_grad_enabled() or not kernels.usable(x, *_present(lines)):
        return None
    values = kernels.values_of(x, dim)
    if values is None or not all(p.is_contiguous() and p.numel() == values.channels for p in _present(lines)):
        return None
    return _Piecewise.apply(x, values, dim, lines.flat_at_zero, *lines[:4])


def _present(lines: Lines) -> list[Tensor]:
    return [part for part in lines[:4] if part is not None]


class _Piecewise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, values: Values, dim: int, flat_at_zero: bool, *parts: Tensor | None
    ) -> Tensor:
        ctx.how = values, dim, flat_at_zero
        ctx.save_for_backward(x, *parts)
        return kernels.pieces(x, values, Lines(*parts, flat_at_zero))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, *parts = ctx.saved_tensors
        values, dim, flat_at_zero = ctx.how
        if torch.is_grad_enabled():  # a gradient that is differentiated itself
            return _again(grads[0], x, parts, dim, flat_at_zero)
        lines = Lines(*parts, flat_at_zero)
        gx, found = kernels.pieces_backward(kernels.like(grads[0], x), x, values, lines)
        given = zip(parts, found, strict=True)
        return gx, None, None, None, *(g.view(p.shape) if p is not None else None for p, g in given)


def _again(grad: Tensor, x: Tensor, parts: list[Tensor | None], dim: int, flat_at_zero: bool) -> Any:
    given = [one for one in (x, *parts) if one is not None and one.requires_grad]
    with torch.enable_grad():
        y = piecewise_in_torch(x, Lines(*parts, flat_at_zero), dim)
        found = iter(torch.autograd.grad(y, given, grad, create_graph=True))
    wanted = [one is not None and one.requires_grad for one in (x, *parts)]
    gx, *rest = (next(found) if one else None for one in wanted)
    return gx, None, None, None, *rest


def piecewise_in_torch(x: Tensor, lines: Lines, dim: int = 1) -> Tensor:
    """The same in torch's operators; parameters have shapes that broadcast, a lone `negative` has (C,)."""
    before, negative, positive, after, _ = lines
    t = x if before is None else x + before
    if positive is not None and negative is not None:
        y = positive * F.relu(t) - negative * F.relu(-t)
    elif negative is not None:
        # F.prelu needs channels in dim 1; moving a dim copies nothing.
        y = F.prelu(t, negative) if dim == 1 else F.prelu(t.movedim(-1, 1), negative).movedim(1, -1)
    else:
        y = t
    return y if after is None else y + after


def add_channel_bypass(x: Tensor, onto: Tensor) -> Tensor | None:
    """Add `channel_bypass(x)` to `onto`, in place and in one pass; None where torch has to do it.

    Args:
        x: (N, Cin, H, W).
        onto: (N, Cout, H, W), its channels last in memory like those of `x`.
    """
    if not torch.is_grad_enabled() or not kernels.usable(x, onto) or onto._is_view():
        return None
    fits = x.dim() == onto.dim() == 4 and all(one.is_contiguous(memory_format=_LAST) for one in (x, onto))
    return _AddBypass.apply(x, onto) if fits else None


class _AddBypass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, onto: Tensor) -> Tensor:
        ctx.mark_dirty(onto)
        ctx.shape = x.shape
        kernels.add_bypass(x, onto)
        return onto

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad = grads[0]
        if not ctx.needs_input_grad[0]:
            return None, grad
        if torch.is_grad_enabled():  # a gradient that is differentiated itself; the bypass is linear
            x = grad.new_zeros(ctx.shape, requires_grad=True)
            y = channel_bypass(x, grad.shape[1])
            return torch.autograd.grad(y, x, grad, create_graph=True)[0], grad
        gx = torch.empty(ctx.shape, dtype=grad.dtype, memory_format=_LAST)
        kernels.bypass_backward(grad.contiguous(memory_format=_LAST), gx)
        return gx, grad
