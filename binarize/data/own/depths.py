"""The unit and the range of depth files, from their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from binarize.data.depth_unit import UNITS
from binarize.errors import DataError

_FAR = (*(1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 120, 150, 200, 250, 300, 400),
        500, 600, 800, 1000)  # fmt: skip
_NEAREST, _FARTHEST = 0.8, 200.0  # m: the farthest depth of a picture is between these
_MOST = 0.999  # share of the values that are at most the largest depth
_ROOM = 1.02


@dataclass(frozen=True, kw_only=True)
class DepthRange:
    """Options `scale` and `max_depth` of the data set `folder`, and what they follow from.

    Attributes:
        scale: units per metre.
        most: the largest depth that counts, m.
        low: smallest depth that occurs, m.
        high: largest.
        known: share of the pixels that have a depth.
        others: other scales that are possible, with the largest depth (m) that follows.
    """

    scale: float
    most: float
    low: float
    high: float
    known: float
    others: dict[float, float]

    @property
    def unit(self) -> str:
        """The unit's name, `millimetres`."""
        return UNITS.get(self.scale, f"1/{self.scale:g} metre")


def find_range(
    files: Sequence[np.ndarray], scale: float | None = None, most: float | None = None
) -> DepthRange:
    """Unit and range of depth maps.

    Args:
        files: values (H, W) of each, as they are stored; 0 and below are unknown.
        scale: units per metre, if they are known.
        most: largest depth, m, if it is known.

    Raises:
        DataError: no value is above 0.
    """
    known = [values[values > 0] for values in files]
    total, count = sum(values.size for values in files), sum(values.size for values in known)
    if not count:
        raise DataError("the depth files hold no value above 0: they have no depth.")
    values = np.concatenate([v[:: 1 + v.size // 10_000] for v in known]).astype(np.float64)
    reach = float(np.quantile(values, _MOST))
    whole = bool((values == np.round(values)).all())
    likely = _likely(reach, count / total, whole)
    chosen = scale if scale is not None else likely[0]
    farthest = reach / chosen
    if most is None:
        most = next((float(far) for far in _FAR if farthest <= far * _ROOM), float(np.ceil(farthest)))
    return DepthRange(
        scale=chosen,
        most=most,
        low=float(min(v.min() for v in known if v.size)) / chosen,
        high=float(max(v.max() for v in known if v.size)) / chosen,
        known=count / total,
        others={} if scale is not None else {other: reach / other for other in likely[1:3]},
    )


def _likely(reach: float, known: float, whole: bool) -> list[float]:
    """Units per metre, the likeliest first, by the farthest value and by whether maps are dense."""
    if not whole:
        return [1.0]  # floating point is in metres
    dense = known > 0.35  # a laser scanner's projected points are not
    order = [1000.0, 256.0, 5000.0, 100.0, 10000.0, 1.0] if dense else [256.0, 1000.0, 5000.0, 100.0, 1.0]
    if reach > 40_000:  # the whole range of 16 bits is used
        order = [5000.0, 1000.0, 10000.0, 256.0]
    fits = [scale for scale in order if _NEAREST <= reach / scale <= _FARTHEST]
    return fits or [1000.0]
