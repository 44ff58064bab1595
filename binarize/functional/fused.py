"""Training by kernels: the same rules and activations as elsewhere, each in one pass over a map.

Where `binarize.native.training.usable` says no, or a tensor has gaps, everything here is computed by torch's
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
from binarize.functional.weights import ScaledSign, mean_magnitude
from binarize.native import training as kernels
from binarize.native.structs import Values
from binarize.native.training import DabNumbers, Lines

_LAST = torch.channels_last


@dataclass(frozen=True)
class FusedRule(Rule):
    """A rule on the kernels, for one map; its `gradient` may overwrite the gradient that it is given.

    Attributes:
        values: how the map lies in memory.
        rule: the same in torch's operators.
    """

    values: Values
    rule: Any


@dataclass(frozen=True)
class FusedDab(FusedRule):
    """`DabRule` with a scale by M."""

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        y, kept = kernels.dab(x, self.values, self._numbers(params))
        return y, (kept,)

    def rebuild(self, x: Tensor, stats: Stats, *params: Tensor) -> Tensor:
        return kernels.signs(x, self.values, stats[0][1], stats[0][3], per_image=True)

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        grad = kernels.like(grad, x)
        found = kernels.dab_backward(grad, x, self.values, self._numbers(params), stats[0], grad)
        given = zip(self.rule.names(), params, strict=True)
        parts = dict(zip("akb", found, strict=True))
        return grad, *(parts[name][: param.numel()].view(param.shape) for name, param in given)

    @property
    def groups(self) -> int:
        """How many groups of channels have a scale each; 0 if each channel has one."""
        if self.rule.granularity == "channel":
            return 0
        wanted = self.rule.groups if self.rule.granularity == "group" else 1
        return len(group_bounds(self.values.channels, wanted)) - 1

    def _numbers(self, params: tuple[Tensor, ...]) -> DabNumbers:
        given = dict(zip(self.rule.names(), params, strict=True))
        plain = self.rule.scale == "mad"
        return DabNumbers(given.get("k"), given.get("b"), given.get("a"), self.groups, plain)


@dataclass(frozen=True)
class FusedSign(FusedRule):
    """`ApproxSign`, or `ShiftedSign` with its `beta`."""

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        threshold = tuple(-beta for beta in params)
        return kernels.signs(x, self.values, *threshold), threshold

    def rebuild(self, x: Tensor, stats: Stats, *params: Tensor) -> Tensor:
        return kernels.signs(x, self.values, *stats)

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
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
        return (clip_gradient(grad, x, out=grad),)


@dataclass(frozen=True)
class FusedScaledSign(FusedSte):
    """`ScaledSign` of weights, a filter being an image of one channel.

    The scales are torch's, bit for bit: sums of signs are often 0, and with a scale of another rounding a sum
    of 0 would have another sign for the next quantizer than without gradients, compiled or exported.
    """

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        stats = (mean_magnitude(x).view(-1, 1),)
        return self.rebuild(x, stats), stats

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


def rule_for_gradient(
    grad: Tensor, rule: Rule, x: Tensor, stats: Stats, *params: Tensor
) -> tuple[Rule, Stats]:
    """The rule whose `gradient` can take `grad`, and its statistics: torch's if `grad` is a batch of them."""
    if not isinstance(rule, FusedRule) or kernels.usable(grad):
        return rule, stats
    return rule.rule, rule.rule.quantize(x, *params)[1]


def _per_channel(part: Tensor, x: Tensor, dim: int, count: int) -> bool:
    """Whether `part` is `count` numbers for the channels of `x`, not other numbers that broadcast."""
    dims = 1 if dim == -1 else x.dim()
    return part.dim() == dims and part.shape[dim] == part.numel() == count and part.is_contiguous()


def _fused_dab(rule: Any, x: Tensor, params: tuple[Tensor, ...]) -> Rule | None:
    values = kernels.values_of(x, rule.dim)
    if values is None or rule.scale not in ("adaptive", "mad"):
        return None
    fused = FusedDab(values, rule)
    sizes = {"a": fused.groups or values.channels, "k": values.channels, "b": values.channels}
    fits = (_per_channel(p, x, rule.dim, sizes[n]) for n, p in zip(rule.names(), params, strict=True))
    return fused if all(fits) else None


def _fused_sign(rule: Any, x: Tensor, params: tuple[Tensor, ...]) -> Rule | None:
    # parameters say where the channels are: (C,) at the end, (1, C, 1, ...) in dim 1
    dim = -1 if params and params[0].dim() == 1 else 1
    values = kernels.values_of(x, dim)
    if values is None or not all(_per_channel(p, x, dim, values.channels) for p in params):
        return None
    return FusedSign(values, rule)


def _fused_ste(rule: Any, x: Tensor, params: tuple[Tensor, ...]) -> Rule | None:
    values = kernels.filters_of(x)
    return FusedSte(values, rule) if values is not None else None


def _fused_scaled(rule: Any, x: Tensor, params: tuple[Tensor, ...]) -> Rule | None:
    values = kernels.filters_of(x)
    return FusedScaledSign(values, rule) if values is not None else None


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
    if values is None or not _fit(lines, x, dim, values.channels):
        return None
    return _Piecewise.apply(x, values, dim, lines.flat_at_zero, *lines[:4])


def _present(lines: Lines) -> list[Tensor]:
    return [part for part in lines[:4] if part is not None]


def _fit(lines: Lines, x: Tensor, dim: int, channels: int) -> bool:
    alone = lines.positive is None  # as F.prelu takes it
    others = [part for part in (lines.before, lines.positive, lines.after) if part is not None]
    fits = _per_channel(lines.negative, x, -1 if alone else dim, channels)
    return fits and all(_per_channel(part, x, dim, channels) for part in others)


class _Piecewise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Values, dim: int, flat_at_zero: bool, *parts: Any) -> Tensor:
        ctx.how = values, dim, flat_at_zero
        ctx.save_for_backward(x, *parts)
        return kernels.pieces(x, values, Lines(*parts, flat_at_zero=flat_at_zero))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, *parts = ctx.saved_tensors
        values, dim, flat_at_zero = ctx.how
        lines = Lines(*parts, flat_at_zero=flat_at_zero)
        if torch.is_grad_enabled() or not kernels.usable(grads[0]):  # differentiated itself; in a batch
            gx, *found = _gradients_in_torch(grads[0], x, lines, dim)
        else:
            gx, each = kernels.pieces_backward(kernels.like(grads[0], x), x, values, lines)
            found = [g.view(p.shape) if p is not None else None for p, g in zip(parts, each, strict=True)]
        return gx, None, None, None, *found


def _gradients_in_torch(grad: Tensor, x: Tensor, lines: Lines, dim: int) -> list[Tensor | None]:
    """Of `x` and the four parts; what needs none has None."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # views: where x was computed from a part, that part's gradient is not to pass through x here
        views: list[Any] = [one if one is None else one.view_as(one) for one in (x, *lines[:4])]
        y = piecewise_in_torch(views[0], Lines(*views[1:], flat_at_zero=lines.flat_at_zero), dim)
        given = [one for one in views if one is not None and one.requires_grad]
        found = iter(torch.autograd.grad(y, given, grad, create_graph=again))
    return [next(found) if one is not None and one.requires_grad else None for one in views]


def piecewise_in_torch(x: Tensor, lines: Lines, dim: int = 1) -> Tensor:
    """The same in torch's operators; parameters have shapes that broadcast, a lone `negative` has (C,)."""
    before, negative, positive, after, _ = lines
    t = x if before is None else x + before
    if positive is not None:
        y = positive * F.relu(t) - negative * F.relu(-t)
    else:
        # F.prelu needs channels in dim 1; moving a dim copies nothing.
        y = F.prelu(t, negative) if dim == 1 else F.prelu(t.movedim(-1, 1), negative).movedim(1, -1)
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
        again = torch.is_grad_enabled()
        if again or not kernels.usable(grad):  # differentiated itself; in a batch. The bypass is linear.
            with torch.enable_grad():
                x = torch.zeros(ctx.shape, dtype=grad.dtype, device=grad.device, requires_grad=True)
                y = channel_bypass(x, grad.shape[1])
            return torch.autograd.grad(y, x, grad, create_graph=again)[0], grad
        gx = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=_LAST)
        kernels.bypass_backward(grad.contiguous(memory_format=_LAST), gx)
        return gx, grad
