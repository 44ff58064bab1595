"""Values of several bits: the levels of a basis, the nearest of them, and the basis that fits numbers best.

With a basis v_0 .. v_K-1 the levels are sum_k v_k c_k for all 2^K codes c, whose digits are -1 and +1, or 0
and 1. A number becomes its nearest level: thresholds lie in the middle of neighbouring levels, and a number
on a threshold becomes the upper one (LQ-Nets, arXiv 1807.10029, Section 3.2).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_EPS = 1e-6
"""How much the basis of before counts in a fit, in parts of what all numbers count together."""


class Levels(NamedTuple):
    """The levels of a basis (K, *rest), in rising order.

    Attributes:
        values: (2^K, *rest).
        thresholds: (2^K - 1, *rest), between them.
        codes: (2^K, K, *rest), the digits of each level: -1 or 1, or 0 or 1.
    """

    values: Tensor
    thresholds: Tensor
    codes: Tensor

    def nearest(self, x: Tensor) -> Tensor:
        """The nearest level of each number; shape and dtype of `x`, to which (*rest) broadcasts."""
        y = self.values[0].to(x.dtype).expand_as(x)
        for index in range(len(self.thresholds)):  # exporters know no iteration over tensors
            y = torch.where(x >= self.thresholds[index], self.values[index + 1].to(x.dtype), y)
        return y

    def digits(self, x: Tensor) -> Tensor:
        """The digits of each number's level: (K, *x.shape), of the dtype of `x`."""
        codes = self.codes.to(x.dtype)
        codes = codes.reshape(*codes.shape, *(1,) * (x.dim() + 2 - codes.dim()))
        y = codes[0].expand(codes.shape[1], *x.shape)
        changes = codes[1:] - codes[:-1]
        for index in range(len(changes)):
            y = y + changes[index] * (x >= self.thresholds[index]).to(x.dtype)
        return y


def levels_of(basis: Tensor, *, signed: bool) -> Levels:
    """The levels of a basis.

    Args:
        basis: (K, *rest), floating point.
        signed: digits are -1 and +1, otherwise 0 and 1.
    """
    values = torch.stack([-basis[0] if signed else torch.zeros_like(basis[0]), basis[0]])
    # one after the other, everywhere: packed layers have the same, to the last bit
    for number in (basis[index] for index in range(1, len(basis))):
        values = torch.cat([values - number if signed else values, values + number])
    values, order = _sorted(values)
    digits = torch.stack([order >> k & 1 for k in range(len(basis))], 1)
    codes = (2 * digits - 1 if signed else digits).to(basis.dtype)
    return Levels(values, (values[:-1] + values[1:]) / 2, codes)


def _sorted(values: Tensor) -> tuple[Tensor, Tensor]:
    """`values` in rising order along dim 0, equal ones as they were, and their numbers before.

    By comparing all pairs: exporters know no stable sort, and fold this into constants.
    """
    numbers = torch.arange(len(values), device=values.device).reshape(-1, *(1,) * (values.dim() - 1))
    mine, other = values.unsqueeze(1), values.unsqueeze(0)
    before = (other < mine) | ((other == mine) & (numbers.unsqueeze(0) < numbers.unsqueeze(1)))
    chosen = before.sum(1).unsqueeze(0) == numbers.unsqueeze(1)  # (place, number, *rest)
    return torch.where(chosen, other, 0).sum(1), torch.where(chosen, numbers.unsqueeze(0), 0).sum(1)


class Moments(NamedTuple):
    """What a fit needs to know of numbers x and the digits c of their levels.

    Attributes:
        codes: (K, K, *rest): the mean of c c^T.
        products: (K, *rest): the mean of c x.
    """

    codes: Tensor
    products: Tensor


def moments_of(x: Tensor, levels: Levels) -> Moments:
    """Means over all of `x`, or over all dims in which `levels` have one value.

    Args:
        x: floating point; as in `Levels.nearest`.
        levels: of a basis.
    """
    rest = levels.values.shape[1:]
    wide = torch.promote_types(x.dtype, torch.float32)
    size = max(1, x.numel() // max(1, levels.values[0].numel()))
    # of what reaches each threshold: how much it is, and its sum
    reach = [x >= threshold for threshold in levels.thresholds]
    shares = [torch.ones(rest, dtype=wide, device=x.device)]
    sums = [_total(x.to(wide), rest) / size]
    shares += [_total(mask.to(wide), rest) / size for mask in reach]
    sums += [_total(torch.where(mask, x, 0).to(wide), rest) / size for mask in reach]
    share, total = (torch.stack([*parts, torch.zeros_like(parts[0])]) for parts in (shares, sums))
    share, total = share[:-1] - share[1:], total[:-1] - total[1:]  # (2^K, *rest) of each level alone
    codes = levels.codes.to(wide)
    both = codes.unsqueeze(1) * codes.unsqueeze(2)
    return Moments((both * share[:, None, None]).sum(0), (codes * total[:, None]).sum(0))


def _total(x: Tensor, shape: torch.Size) -> Tensor:
    return x.sum_to_size(*shape) if shape else x.sum()


def fitted(basis: Tensor, moments: Moments) -> Tensor:
    """The basis v of the least squares (sum_k v_k c_k - x)^2, for the digits c as they are.

    Digits that do not occur, or only together, leave directions open: there it stays as it was.

    Args:
        basis: (K, *rest), as before.
        moments: of numbers and their digits.
    """
    wide = basis.dtype if basis.device.type == "mps" else torch.float64
    old = basis.to(wide)
    count = len(basis)
    rows = [[moments.codes[i, j].to(wide) for j in range(count)] for i in range(count)]
    right = [moments.products[i].to(wide) + _EPS * old[i] for i in range(count)]
    for i in range(count):
        rows[i][i] = rows[i][i] + _EPS
    for i in range(count):  # elimination: the matrix is symmetric and positive definite
        for j in range(i + 1, count):
            factor = rows[j][i] / rows[i][i]
            rows[j] = [b - factor * a for a, b in zip(rows[i], rows[j], strict=True)]
            right[j] = right[j] - factor * right[i]
    found: list[Tensor] = []
    for i in reversed(range(count)):
        rest = right[i]
        for j, value in zip(range(count - 1, i, -1), found, strict=True):
            rest = rest - rows[i][j] * value
        found.append(rest / rows[i][i])
    return torch.stack(found[::-1]).to(basis.dtype)
