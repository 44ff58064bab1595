"""What the main figure gains from each layer that stays float, and which layers to keep for a budget.

In a converted network, each layer (or block) in turn computes with its float input and latent weights; in a
float one, each in turn is made binary. How, says `binarize.inspect.layer_swaps`. Nothing is trained, so the
figures order layers; they do not predict what a training with these layers in float would reach.

    gain = figure with the layer float - figure with the layer binary     (sign turned where lower is better)
    bytes = weights (32 - bits) / 8,  OPs = MACs (1 - bits / 64)          that a float layer costs beyond a
                                                                          binary one, OPs for one image

A keep list takes groups by falling gain per cost, as long as the budget lasts, and passes over those that no
longer fit. It adds up gains that were measured one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import nn

from binarize.errors import ConfigError
from binarize.inspect.layer_swaps import LayerSwaps
from binarize.inspect.roles import block_of

By = Literal["layer", "block"]


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What each group of layers is worth.

    Attributes:
        groups: names of layers or blocks, in the order of the first calls.
        layers: the layers of each group, as `--keep` takes them.
        from_float: the network is float, and groups were made binary; else they were made float.
        base: figure of the unchanged network.
        changed: (groups,) float64: figure with this group changed.
        higher: whether a higher figure is better.
        bytes: (groups,) float64: more in the packed file if the group stays float.
        ops: (groups,) float64: more operations for one image.
    """

    groups: tuple[str, ...]
    layers: tuple[tuple[str, ...], ...]
    from_float: bool
    base: float
    changed: np.ndarray
    higher: bool
    bytes: np.ndarray
    ops: np.ndarray

    @property
    def gain(self) -> np.ndarray:
        """(groups,) float64: how much better the figure is with the group float, above 0 if it is."""
        change = (self.base - self.changed) if self.from_float else (self.changed - self.base)
        return change if self.higher else -change


@dataclass(frozen=True, kw_only=True)
class KeepList:
    """Groups that stay float.

    Attributes:
        groups: their names, the most worthwhile first.
        patterns: for `--keep` of `binarize convert`, or `method.keep` of a recipe.
        gain: sum of their gains.
        bytes: more in the packed file.
        ops: more operations for one image.
    """

    groups: tuple[str, ...]
    patterns: tuple[str, ...]
    gain: float
    bytes: float
    ops: float


def sensitivity(
    model: nn.Module,
    swaps: LayerSwaps,
    score: Callable[[nn.Module], float],
    *,
    higher: bool = True,
    by: By = "layer",
    report: Callable[[int], None] | None = None,
) -> Sensitivity:
    """Measure a network once as it is, and once with each group of layers changed.

    Args:
        model: that of `swaps`.
        swaps: its layers with their other forms.
        score: the figure of a network, on the same images at each call.
        higher: whether a higher figure is better.
        by: change single layers, or all those of a block at once.
        report: called with the number of groups done.

    Raises:
        ConfigError: no layer can be changed.
    """
    groups: dict[str, list[str]] = {}
    for swap in swaps.swaps:
        name = swap.name if by == "layer" else block_of(swap.name)
        if swap.name not in groups.setdefault(name, []):
            groups[name].append(swap.name)
    if not groups:
        raise ConfigError("sensitivity: the images reach no layer that could be binary.")
    base, changed = score(model), []
    for done, names in enumerate(groups.values(), start=1):
        with swaps.swapped(names):
            changed.append(score(model))
        if report is not None:
            report(done)
    costs = [_costs(swaps, names) for names in groups.values()]
    return Sensitivity(
        groups=tuple(names[0] if len(names) == 1 else group for group, names in groups.items()),
        layers=tuple(tuple(names) for names in groups.values()),
        from_float=not swaps.to_float,
        base=base,
        changed=np.array(changed, dtype=np.float64),
        higher=higher,
        bytes=np.array([cost[0] for cost in costs]),
        ops=np.array([cost[1] for cost in costs]),
    )


def _costs(swaps: LayerSwaps, names: Sequence[str]) -> tuple[float, float]:
    """Bytes and OPs that float layers cost beyond binary ones; several binary layers may stand for one."""
    size = ops = 0.0
    for name in names:
        parts = [swap for swap in swaps.swaps if swap.name == name]
        planes, work = (sum(part.bits[i] for part in parts) for i in (0, 1))
        size += parts[0].weights * (32 - planes) / 8
        ops += parts[0].macs(swaps.images) * (1 - work / 64)
    return size, ops


def keep_list(found: Sensitivity, *, bytes: float | None = None, ops: float | None = None) -> KeepList:
    """The groups to keep float for a budget, by falling gain per cost; groups without a gain never.

    Args:
        found: what the groups are worth.
        bytes: how many more the packed file may have; None for any number.
        ops: how many more operations an image may take; None for any number.

    Raises:
        ConfigError: a budget below 0, or none at all.
    """
    budgets = [(found.bytes, bytes), (found.ops, ops)]
    limits = [(costs, limit) for costs, limit in budgets if limit is not None]
    if not limits or any(limit < 0 for _, limit in limits):
        raise ConfigError(
            f"keep_list: bytes={bytes}, ops={ops}: expected a budget of 0 or more for one of them."
        )
    gain = found.gain
    shares = np.zeros(len(gain))  # of its budget that a group takes, of the tighter one
    for costs, limit in limits:
        shares = np.maximum(shares, costs / limit if limit > 0 else np.where(costs > 0, np.inf, 0.0))
    worth = np.divide(gain, shares, out=np.full_like(gain, np.inf), where=shares > 0)
    chosen: list[int] = []
    for index in sorted(np.flatnonzero(gain > 0), key=lambda i: -worth[i]):
        if all(costs[[*chosen, index]].sum() <= limit for costs, limit in limits):
            chosen.append(int(index))
    return KeepList(
        groups=tuple(found.groups[i] for i in chosen),
        patterns=tuple(name for i in chosen for name in found.layers[i]),
        gain=float(gain[chosen].sum()),
        bytes=float(found.bytes[chosen].sum()),
        ops=float(found.ops[chosen].sum()),
    )
