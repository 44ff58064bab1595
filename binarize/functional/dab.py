"""The distribution-adaptive binarizer (DAB) of BiDense (arXiv 2411.10346, Section 3.2) and its ablations.

With the mean over all positions of a sample's channel, both statistics detached:

    xs = x - (k * mean(x) + b)                      Eq. 5, 8
    M  = mean(abs(xs))                              Eq. 7
    y  = exp(a * (M - 1)) * sign(xs)                Eq. 9, 10

With A = exp(a (M - 1)) and G = g A max(0, 2 - 2 abs(xs)):
dx = G, db = -sum G, dk = -sum G mean(x), da = sum g A (M - 1) sign(xs).

Departure: mean(x) and M are limited to +-1e18 (65504 in float16), the exponent to 22 (5.5 in float16): finite
inputs have finite results and gradients. Where the exponent is at its limit, da is 0.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from binarize.errors import ConfigError
from binarize.functional.rules import Gradients, Rule, Stats, sum_to
from binarize.functional.sign import approx_gradient, sign, sign_, to_subtract

Threshold = Literal["adaptive", "b", "mean", "none"]
Scale = Literal["adaptive", "mad", "learned", "none"]
Granularity = Literal["channel", "group", "layer"]


LARGEST_STATISTIC = 1e18
LARGEST_EXPONENT = 22.0
_LARGEST_HALF_EXPONENT = 5.5


WORD = 32
"""Groups of channels with a scale each are whole words of this many signs, see `group_bounds`."""


def group_bounds(channels: int, groups: int) -> tuple[int, ...]:
    """Where groups of neighbouring channels begin, and `channels` behind the last.

    There are at most `groups` of them, each of whole words of 32 channels but for the last word: what a
    popcount takes at a time. Of W words, group g has those from W * g // G on, G = min(groups, W).

    Args:
        channels: at least 1.
        groups: at least 1.

    Raises:
        ConfigError: fewer.
    """
    if channels < 1 or groups < 1:
        raise ConfigError(f"groups of a DAB: groups={groups} of {channels} channels; expected at least 1.")
    words = -(-channels // WORD)
    count = min(groups, words)
    return (*(words * g // count * WORD for g in range(count)), channels)


def _sizes(channels: int, groups: int) -> list[int]:
    return [end - start for start, end in itertools.pairwise(group_bounds(channels, groups))]


def groups_to_channels(values: Tensor, channels: int, groups: int, dim: int) -> Tensor:
    """Values per group, in `dim`, as values per channel there; `groups` as of `group_bounds`."""
    parts = zip(values.split(1, dim), _sizes(channels, groups), strict=True)
    return torch.cat([part.repeat_interleave(size, dim) for part, size in parts], dim)


def mean_of_groups(values: Tensor, groups: int, dim: int) -> Tensor:
    """Values per channel, in `dim`, each replaced by the mean over its group."""
    parts = values.split(_sizes(values.shape[dim], groups), dim)
    return torch.cat([part.mean(dim, keepdim=True).expand_as(part) for part in parts], dim)


def limited(statistic: Tensor) -> Tensor:
    """Limit a mean, or M, so that products of it stay finite; the sum of finite numbers may be infinite."""
    most = min(LARGEST_STATISTIC, torch.finfo(statistic.dtype).max)
    return statistic.clamp(-most, most)


def sample_dims(x: Tensor) -> list[int]:
    """All dims of one sample: all but the first, or the only one."""
    return list(range(min(1, x.dim() - 1), x.dim()))


def mean_over(x: Tensor, dims: list[int]) -> Tensor:
    """The mean over these dims, which stay with size 1; without dims `x` itself (torch: over all)."""
    return x.mean(dims, keepdim=True) if dims else x


def _sum_over(x: Tensor, dims: list[int]) -> Tensor:
    return x.sum(dims, keepdim=True) if dims else x


def largest_exponent(dtype: torch.dtype) -> float:
    """Limit of a scale's exponent: exp(limit)^2 times the size of a filter is finite in `dtype`."""
    return _LARGEST_HALF_EXPONENT if dtype == torch.float16 else LARGEST_EXPONENT


def scale_of(exponent: Tensor) -> Tensor:
    """exp(exponent), of an exponent within its limit."""
    return torch.exp(exponent.clamp(max=largest_exponent(exponent.dtype)))


@dataclass(frozen=True)
class DabRule(Rule):
    """The DAB on (N, C, ...) or, with `dim=-1`, on (N, ..., C).

    Attributes:
        threshold: `adaptive` k mean(x) + b; `b`; `mean`: k mean(x); `none`: 0 (Table 4, rows 3-5).
        scale: `adaptive` exp(a (M - 1)); `mad`: M; `learned`: exp(a), positive whatever a is;
            `none`: 1 (Table 4, rows 6-8).
        granularity: M and a per channel, one of each per layer, or one of each per group of neighbouring
            channels (M per sample in all). Thresholds are per channel in all: they are not inside the sum
            over input channels.
        dim: the channel dimension, 1 or -1.
        groups: with granularity `group`, how many groups there are at most (`group_bounds`). Departure: the
            paper has no groups.
    """

    threshold: Threshold = "adaptive"
    scale: Scale = "adaptive"
    granularity: Granularity = "channel"
    dim: int = 1
    groups: int = 4

    def names(self) -> tuple[str, ...]:
        """The learnable parameters that this variant has, in the order in which they are passed."""
        wanted = []
        if self.scale in ("adaptive", "learned"):
            wanted.append("a")
        if self.threshold in ("adaptive", "mean"):
            wanted.append("k")
        if self.threshold in ("adaptive", "b"):
            wanted.append("b")
        return tuple(wanted)

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        given = dict(zip(self.names(), params, strict=True))
        mean = limited(mean_over(x, self._positions(x))) if "k" in given else None
        threshold = _threshold(mean, given)
        xs = x if threshold is None else x - threshold
        deviation = None
        if self.scale in ("adaptive", "mad"):
            deviation = mean_over(xs.abs(), self._scale_dims(x))
            if self.granularity == "group":
                deviation = mean_of_groups(deviation, self.groups, self.dim)
            deviation = limited(deviation)
        known = _Known(mean, threshold, deviation, self._magnitude(deviation, given, x))
        return _signs(xs, x, known), known.saved()

    def rebuild(self, x: Tensor, stats: Stats, *params: Tensor) -> Tensor:
        known = self._known(stats)
        return _signs(x if known.threshold is None else x - known.threshold, x, known)

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        given = dict(zip(self.names(), params, strict=True))
        known = self._known(stats)
        xs = x if known.threshold is None else x - known.threshold
        grads: dict[str, Tensor] = {}
        if "a" in given and known.magnitude is not None:
            # y = A sign(xs), and both statistics are constant over positions: those are summed first.
            quantized = y if y is not None else sign(xs, known.magnitude, positive_zeros=xs is not x)
            through = _sum_over(grad * quantized, self._positions(x))
            a = self._of_channels(given["a"], x)
            exponent = a if known.deviation is None else a * (known.deviation - 1)
            if known.deviation is not None:
                through = through * (known.deviation - 1)
            through = through.masked_fill(exponent > largest_exponent(exponent.dtype), 0)
            if self.granularity == "group":
                parts = sum_to(through, a.shape).split(_sizes(a.shape[self.dim], self.groups), self.dim)
                through = torch.cat([part.sum(self.dim, keepdim=True) for part in parts], self.dim)
            grads["a"] = sum_to(through, given["a"].shape)
        gx = approx_gradient(grad, xs, known.magnitude, owned=xs is not x)
        if "k" in given or "b" in given:
            total = _sum_over(gx, self._positions(x))
            if "k" in given and known.mean is not None:
                grads["k"] = -sum_to(total * known.mean, given["k"].shape)
            if "b" in given:
                grads["b"] = -sum_to(total, given["b"].shape)
        return gx, *(grads[name] for name in self.names())

    def _known(self, stats: Stats) -> _Known:
        """The statistics that `quantize` saved, by name."""
        there = (
            self.threshold in ("adaptive", "mean"),
            self.threshold != "none",
            self.scale in ("adaptive", "mad"),
            self.scale != "none",
        )
        rest = iter(stats)
        return _Known(*(next(rest) if one else None for one in there))

    def _positions(self, x: Tensor) -> list[int]:
        return list(range(2, x.dim())) if self.dim == 1 else list(range(1, x.dim() - 1))

    def _scale_dims(self, x: Tensor) -> list[int]:
        return sample_dims(x) if self.granularity == "layer" else self._positions(x)

    def _magnitude(self, deviation: Tensor | None, given: dict[str, Tensor], x: Tensor) -> Tensor | None:
        if self.scale == "learned":
            return scale_of(self._of_channels(given["a"], x))
        if self.scale == "mad" or deviation is None:
            return deviation
        return scale_of(self._of_channels(given["a"], x) * (deviation - 1))

    def _of_channels(self, a: Tensor, x: Tensor) -> Tensor:
        """Of an `a` per group one per channel; another as it is."""
        grouped = self.granularity == "group"
        return groups_to_channels(a, x.shape[self.dim], self.groups, self.dim) if grouped else a


class _Known(NamedTuple):
    """Statistics of the input of a forward pass, a few numbers per channel; None for those that are not used.

    Threshold and magnitude follow from the others and the parameters. They are kept all the same: computing
    them again takes a dozen small operations, slow to launch on a GPU.

    Attributes:
        mean: of each channel.
        threshold: ready to be subtracted, see `to_subtract`.
        deviation: M.
        magnitude: A.
    """

    mean: Tensor | None
    threshold: Tensor | None
    deviation: Tensor | None
    magnitude: Tensor | None

    def saved(self) -> Stats:
        """Those that are not None."""
        return tuple(one for one in self if one is not None)


def _threshold(mean: Tensor | None, given: dict[str, Tensor]) -> Tensor | None:
    beta = given.get("b")
    if mean is not None:
        beta = given["k"] * mean if beta is None else given["k"] * mean + beta
    return to_subtract(beta) if beta is not None else None


def _signs(xs: Tensor, x: Tensor, known: _Known) -> Tensor:
    if xs is x:
        return sign(x, known.magnitude)
    return sign_(xs, xs.new_ones(()) if known.magnitude is None else known.magnitude)
