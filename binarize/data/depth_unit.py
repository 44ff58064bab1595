"""Guessing the unit of depth files from their values."""

from __future__ import annotations

import numpy as np

from binarize.data.dataset import Depth

# units per metre
_COMMON = {1000.0: "millimetres", 1.0: "metres", 100.0: "centimetres"}
_OTHERS = {
    256.0: "1/256 metre, as KITTI's",
    5000.0: "1/5000 metre, as TUM's",
    10000.0: "tenths of millimetres",
    10.0: "decimetres",
}
UNITS = _COMMON | _OTHERS
"""Names of units, by how many of them make a metre."""

_QUANTILES = np.linspace(0.0, 1.0, 33)
_ENOUGH = 10_000  # values per file for the quantiles
_INSIDE = 0.9  # least share of the values that a unit must explain
_FILLED = 0.5  # times the largest depth: the largest value should reach at least this
_FAR = 0.2  # times the largest depth: data that does not reach this is doubtful
_NEAREST = 0.05  # times the largest depth: a data set whose median is nearer is doubtful


class DepthValues:
    """Values of depth files, and what they mean in each unit.

    Args:
        depth: of the data set.
    """

    def __init__(self, depth: Depth) -> None:
        self._depth = depth
        self._low, self._high = np.inf, 0.0
        self._least = 0.0  # below 0, where a file has such values
        self._quantiles: list[np.ndarray] = []

    def add(self, values: np.ndarray) -> None:
        """Add the values of one file (H, W); 0 and below are unknown."""
        self._least = min(self._least, float(values.min(initial=0)))
        known = values[values > 0]
        if known.size:
            self._low = min(self._low, float(known.min()))
            self._high = max(self._high, float(known.max()))
            self._quantiles.append(np.quantile(known[:: 1 + known.size // _ENOUGH], _QUANTILES))

    def seen(self) -> str:
        """Range of the files, and of what counts."""
        if not self._quantiles:
            found = f"{_number(self._least)} to 0" if self._least < 0 else "0"
            return f"their values are {found}, which are not depths: a depth is above 0, in units of `scale`"
        d = self._depth
        return (
            f"their values are {_number(self._low)} to {_number(self._high)}, at scale {d.scale:g} units per "
            f"metre {_number(self._low / d.scale)} to {_number(self._high / d.scale)} m; depths from "
            f"{d.least:g} to {d.most:g} m count"
        )

    def metres(self) -> dict[str, float]:
        """Least, median and largest depth of the files, whether they count or not; empty if there is none."""
        if not self._quantiles:
            return {}
        scale = self._depth.scale
        return {"least": self._low / scale, "median": self._median() / scale, "largest": self._high / scale}

    def doubtful(self) -> bool:
        """Whether depths are mostly much too near or too far, and another unit explains them."""
        if not self._quantiles:
            return False
        scale, most = self._depth.scale, self._depth.most
        near = self._median() / scale < 0.2 * _NEAREST * most or self._high / scale < _FAR * most
        return (near or self._inside(scale) < 0.5) and bool(self.scales())

    def scales(self) -> list[float]:
        """Other scales, with which nearly all values count and are not all near; the likeliest first."""
        if not self._quantiles or self._low == self._high:  # a constant looks like any unit
            return []
        most = self._depth.most
        likely = {
            scale: self._high / scale / most
            for scale in (*_COMMON, *_OTHERS)
            if scale != self._depth.scale
            and self._median() / scale >= _NEAREST * most
            and self._inside(scale) >= _INSIDE
        }
        common, others = (
            sorted(likely.keys() & part, key=lambda s: -likely[s]) for part in (_COMMON, _OTHERS)
        )
        if common and likely[common[0]] >= _FILLED:
            return common[:1]
        return [*(s for s in others[:1] if not common or likely[s] >= _FILLED), *common[:1]]

    def _inside(self, scale: float) -> float:
        """Share of the values that count."""
        metres = np.concatenate(self._quantiles) / scale
        return float(((metres > self._depth.least) & (metres <= self._depth.most)).mean())

    def remedy(self) -> str:
        """What to do, as the end of a sentence; empty if nothing is known."""
        if found := [f"{UNITS[scale]}: set `scale: {scale:g}`" for scale in self.scales()]:
            return f". They look like {', or like '.join(found)} in data.options (data set folder)"
        return "; see `scale` and `max_depth` in data.options (data set folder)" if self._quantiles else ""

    def _median(self) -> float:
        return float(np.median(np.concatenate(self._quantiles)))


def _number(value: float) -> str:
    return f"{value:.4g}" if value < 1000 or value != int(value) else f"{value:.0f}"
