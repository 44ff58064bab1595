"""How much of a layer's output comes through its bypass.

A layer is y = f + b with b = bypass(x) and f = inner(norm(conv(x))). Over all images and positions, with
variances of single channels summed over the channels:

    share       = sum Var(b) / (sum Var(b) + sum Var(f))       0 to 1, as if the two were uncorrelated
    correlation = sum Cov(b, f) / sqrt(sum Var(b) sum Var(f))  -1 to 1
    explained   = sum Cov(b, y) / sum Var(y)                   the exact part of the output's variance:
                                                               bypass and branch add up to 1; a part is
                                                               negative where it cancels the other

Bypasses are those of the binary layers. Residual connections of the network itself stand outside of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from binarize.inspect.running import Batch, Report, run_batches
from binarize.layers import BinaryLayer
from binarize.methods.parallel import ParallelSum
from binarize.runtime import PackedLayer


@dataclass(frozen=True, kw_only=True)
class BypassShares:
    """Shares of one network's bypasses; formulas in `binarize.inspect.bypass_share`.

    Attributes:
        layers: paths of the layers with a bypass, in the order of their first calls.
        bypass: (layers,) float64: sum over channels of Var(b).
        branch: (layers,) float64: sum over channels of Var(f).
        covariance: (layers,) float64: sum over channels of Cov(b, f).
        without: paths of the binary layers that have no bypass.
    """

    layers: tuple[str, ...]
    bypass: np.ndarray
    branch: np.ndarray
    covariance: np.ndarray
    without: tuple[str, ...]

    @property
    def share(self) -> np.ndarray:
        """(layers,) float64, 0 to 1; NaN for a constant output."""
        return _ratio(self.bypass, self.bypass + self.branch)

    @property
    def correlation(self) -> np.ndarray:
        """(layers,) float64, -1 to 1; NaN where one of the two is constant."""
        return _ratio(self.covariance, np.sqrt(self.bypass * self.branch))

    @property
    def explained(self) -> np.ndarray:
        """(layers,) float64; NaN for a constant output."""
        return _ratio(self.bypass + self.covariance, self.bypass + self.branch + 2 * self.covariance)


def bypass_shares(
    model: nn.Module, batches: Iterable[Batch], *, report: Report | None = None
) -> BypassShares:
    """The share of each layer's output variance that comes through its bypass.

    Args:
        model: converted or packed; runs in evaluation mode, its mode is restored.
        batches: images (N, 3, H, W), alone or with truths.
        report: called with the number of images done.

    Raises:
        ConfigError: no images.
    """
    layers: dict[str, Any] = {
        name: m for name, m in model.named_modules() if isinstance(m, (BinaryLayer, PackedLayer, ParallelSum))
    }
    branches = [f"{name}.branches." for name, m in layers.items() if isinstance(m, ParallelSum)]
    bypassed = {name: m for name, m in layers.items() if m.bypass is not None}
    sums: dict[str, _Sums] = {}

    def hooks(size: Callable[[], int]) -> Iterator[RemovableHandle]:
        for name, module in bypassed.items():
            yield module.register_forward_hook(_look(name, sums))

    run_batches(model, batches, hooks, report)
    moments = [one.moments() for one in sums.values()]
    columns = np.array(moments).reshape(-1, 3).T
    return BypassShares(
        layers=tuple(sums),
        bypass=columns[0],
        branch=columns[1],
        covariance=columns[2],
        without=tuple(n for n in layers if n not in bypassed and not n.startswith(tuple(branches) or " ")),
    )


class _Sums:
    """Sums per channel, from which variances follow; values are taken relative to the first batch's mean."""

    def __init__(self) -> None:
        self._offset: Tensor | None = None  # (2, C)
        self._count = 0
        self._sums: Tensor | None = None  # (5, C): b, f, b^2, f^2, b f

    def add(self, b: Tensor, f: Tensor) -> None:
        """Both are (positions, C) float64."""
        if self._offset is None:
            self._offset = torch.stack([b.mean(0), f.mean(0)])
        b, f = b - self._offset[0], f - self._offset[1]
        found = torch.stack([b.sum(0), f.sum(0), (b * b).sum(0), (f * f).sum(0), (b * f).sum(0)])
        self._sums = found if self._sums is None else self._sums + found
        self._count += len(b)

    def moments(self) -> tuple[float, float, float]:
        """Sums over channels of Var(b), Var(f) and Cov(b, f)."""
        if self._sums is None:
            return 0.0, 0.0, 0.0
        b, f, bb, ff, bf = self._sums / self._count
        found = (bb - b * b).clamp_min(0.0).sum(), (ff - f * f).clamp_min(0.0).sum(), (bf - b * f).sum()
        return tuple(float(x) for x in found)  # type: ignore[return-value] - three


def _look(name: str, sums: dict[str, _Sums]) -> Any:
    def look(module: Any, args: Any, output: Tensor) -> None:
        x = args[0].detach()
        carried = module.bypass(x, output.shape[2:])
        dim = -1 if module.bypass.dim == -1 else 1
        both = [t.movedim(dim, -1).flatten(0, -2).double() for t in (carried, output.detach())]
        sums.setdefault(name, _Sums()).add(both[0], both[1] - both[0])

    return look


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)
