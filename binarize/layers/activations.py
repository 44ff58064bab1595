"""Float activations that binary networks use in place of ReLU; all work per channel."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from binarize.errors import ConfigError
from binarize.functional.fused import piecewise, piecewise_in_torch
from binarize.layers.quantizers import channel_shape
from binarize.native.training import Lines


def _lines(
    x: Tensor,
    dim: int,
    *,
    negative: Tensor,
    before: Tensor | None = None,
    positive: Tensor | None = None,
    after: Tensor | None = None,
    flat_at_zero: bool = False,
) -> Tensor:
    lines = Lines(before, negative, positive, after, flat_at_zero)
    y = piecewise(x, lines, dim)
    return piecewise_in_torch(x, lines, dim) if y is None else y


class ChannelPReLU(nn.Module):
    """PReLU with a slope per channel, init 0.25 (BNext, arXiv 2211.12933).

    Args:
        channels: C.
        dim: channel dimension, 1 or -1.
    """

    def __init__(self, channels: int, *, dim: int = 1) -> None:
        super().__init__()
        self._dim = dim
        self.weight = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) or (N, ..., C) -> the same shape."""
        return _lines(x, self._dim, negative=self.weight)


class BiasPReLU(nn.Module):
    """PReLU(x + b0): a learnable bias, init 0, and a slope per channel, init 0.25.

    Args:
        channels: C.
        dim: channel dimension, 1 or -1.
        spatial: number of spatial dims.
    """

    def __init__(self, channels: int, *, dim: int = 1, spatial: int = 2) -> None:
        super().__init__()
        self._dim = dim
        self.b0 = nn.Parameter(torch.zeros(channel_shape(channels, dim, spatial)))
        self.weight = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) or (N, ..., C) -> the same shape."""
        return _lines(x, self._dim, before=self.b0, negative=self.weight)


class RPReLU(BiasPReLU):
    """PReLU(x + b0) + b1 (ReActNet, arXiv 2003.03488, Eq. 2, with b0 = -gamma and b1 = zeta).

    Args:
        channels: C; slope, b0 and b1 have one value each per channel.
        dim: channel dimension of the input, 1 or -1.
        spatial: number of spatial dims.
    """

    def __init__(self, channels: int, *, dim: int = 1, spatial: int = 2) -> None:
        super().__init__(channels, dim=dim, spatial=spatial)
        self.b1 = nn.Parameter(torch.zeros(channel_shape(channels, dim, spatial)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) or (N, ..., C) -> the same shape."""
        return _lines(x, self._dim, before=self.b0, negative=self.weight, after=self.b1)


class Maxout(nn.Module):
    """p * relu(x) - q * relu(-x) per channel, p init 1, q init 0.25 (AdaBin, arXiv 2208.08084, Eq. 13).

    Args:
        channels: C.
        dim: channel dimension, 1 or -1.
        spatial: number of spatial dims.
    """

    def __init__(self, channels: int, *, dim: int = 1, spatial: int = 2) -> None:
        super().__init__()
        self._shape = channel_shape(channels, dim, spatial)
        self.p = nn.Parameter(torch.ones(channels))
        self.q = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) or (N, ..., C) -> the same shape."""
        p, q = self.p.view(self._shape), self.q.view(self._shape)
        dim = -1 if len(self._shape) == 1 else 1
        return _lines(x, dim, negative=q, positive=p, flat_at_zero=True)


class Pieces(NamedTuple):
    """Two straight lines per channel: t = x + before; y = (negative if t < 0 else positive) * t + after.

    Each is (C,), or None: before, negative and after 0, positive 1.
    """

    before: Tensor | None = None
    negative: Tensor | None = None
    positive: Tensor | None = None
    after: Tensor | None = None


class PiecewiseLinear(nn.Module):
    """Base of activations that are `Pieces` in evaluation mode: packed layers hold and compute only these."""

    def pieces(self) -> Pieces | str:
        """What this computes in evaluation mode, float64 and detached, or why this is unknown."""
        raise NotImplementedError(f"{type(self).__name__} does not define pieces()")


class Piecewise(PiecewiseLinear):
    """The packed form of a `PiecewiseLinear`; nothing of it can be trained.

    Args:
        given: a module in whose place this stands.
        dtype: of what it holds.
        dim: channel dimension, 1 or -1.
    """

    before: Tensor | None
    negative: Tensor | None
    positive: Tensor | None
    after: Tensor | None

    def __init__(self, given: PiecewiseLinear, dtype: torch.dtype, *, dim: int) -> None:
        super().__init__()
        self._dim = dim
        pieces = given.pieces()
        if isinstance(pieces, str):
            raise ConfigError(f"{type(given).__name__}: {pieces}.")
        for name, numbers in pieces._asdict().items():
            self.register_buffer(name, None if numbers is None else numbers.to(dtype, copy=True))

    def pieces(self) -> Pieces:
        """See `PiecewiseLinear`, but in the dtype of what it holds."""
        return Pieces(self.before, self.negative, self.positive, self.after)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) or (N, ..., C) -> the same shape."""
        parts = (part if part is None else self._lined_up(part, x) for part in self.pieces())
        before, negative, positive, after = parts
        t = x if before is None else x + before
        below = torch.zeros_like(t) if negative is None else t * negative
        y = torch.where(t < 0, below, t if positive is None else t * positive)
        return y if after is None else y + after

    def _lined_up(self, part: Tensor, x: Tensor) -> Tensor:
        return part if self._dim == -1 else part.view(-1, *(1,) * (x.dim() - 2))
