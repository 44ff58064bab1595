"""Rules that turn activations into two values: one class per formula, named as in the papers.

Shapes: activations are (N, C, ...) with parameters of shape (1, C, 1, 1), or channels-last
(N, ..., C) with parameters of shape (C,); the rules broadcast and work for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from binarize.functional.rules import Gradients, Rule, Stats, sum_to
from binarize.functional.sign import approx_gradient, clip_gradient, shift, sign, sign_


@dataclass(frozen=True)
class SteSign(Rule):
    """Forward sign(x), gradient 1 for abs(x) <= 1 else 0 (BinaryNet, arXiv 1602.02830, Eq. 4)."""

    symmetric: ClassVar[bool] = True
    scaled: ClassVar[bool] = False

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        return sign(x), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        return (clip_gradient(grad, x),)


@dataclass(frozen=True)
class SteStep(Rule):
    """Forward 1 where x > 0, else 0; gradient of `SteSign`: BinaryNet's on values that are never negative.

    torch.sign, which is 0 at 0, gives the same behind a ReLU; a sign of two values would be +1 everywhere
    there.

    Attributes:
        ranges: channels [start, stop) that are quantized like this, the others by sign(x); empty for all.
        dim: channel dimension.
    """

    ranges: tuple[tuple[int, int], ...] = ()
    dim: int = 1

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        if not self.ranges:
            return (x > 0).to(x.dtype), ()
        y = sign(x)
        for start, stop in self.ranges:
            y.narrow(self.dim, start, stop - start).copy_(x.narrow(self.dim, start, stop - start) > 0)
        return y, ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        return (clip_gradient(grad, x),)


@dataclass(frozen=True)
class ApproxSign(Rule):
    """Forward sign(x), gradient 2 - 2 abs(x) for abs(x) < 1 else 0 (Bi-Real Net, arXiv 1808.00278, Eq. 5)."""

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        return sign(x), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        return (approx_gradient(grad, x),)


@dataclass(frozen=True)
class ShiftedSign(Rule):
    """Forward sign(x + beta), gradients of `ApproxSign` (ReActNet's RSign, arXiv 2003.03488, Eq. 1).

    Parameters: beta, one per channel.
    """

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        (beta,) = params
        return sign_(shift(x, -beta), x.new_ones(())), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        (beta,) = params
        gx = approx_gradient(grad, x + beta, owned=True)
        return gx, sum_to(gx, beta.shape)


@dataclass(frozen=True)
class AdaBinSet(Rule):
    """Forward alpha * (sign(u) + beta) with u = (x - beta) / alpha (AdaBin, arXiv 2208.08084, Eq. 11).

    The two values are alpha * (beta - 1) and alpha * (beta + 1): as in the authors' code, beta is
    scaled by alpha. With h = max(0, 2 - 2 abs(u)): dx = g h, dalpha = sum g (sign(u) + beta - h u),
    dbeta = sum g (alpha - h).

    Parameters: alpha_a and beta_a, one number each.
    """

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        alpha, beta = params
        return sign((x - beta) / alpha).add_(beta).mul_(alpha), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        alpha, beta = params
        u = (x - beta) / alpha
        gx = approx_gradient(grad, u)
        total = grad.sum()
        galpha = (grad * sign(u)).sum() + beta * total - (gx * u).sum()
        return gx, galpha.reshape(alpha.shape), (alpha * total - gx.sum()).reshape(beta.shape)


@dataclass(frozen=True)
class RedistributedSign(Rule):
    """Forward sign(z) with z = k x + b, gradient of tanh(beta z) (BiSRNet, arXiv 2305.10299, Eqs. 4-7).

    Parameters: k and b per channel, beta one per layer.
    """

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Stats]:
        k, b, _ = params
        return sign(k * x + b), ()

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Stats, *params: Tensor, y: Tensor | None = None
    ) -> Gradients:
        k, b, beta = params
        z = k * x + b
        common = (z * beta).tanh_().square_().neg_().add_(1).mul_(grad)  # g (1 - tanh^2)
        gbeta = (common * z).sum()
        gz = common.mul_(beta)
        return gz * k, sum_to(gz * x, k.shape), sum_to(gz, b.shape), gbeta.reshape(beta.shape)
