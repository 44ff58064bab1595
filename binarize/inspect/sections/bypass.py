"""Picture and words of `binarize.inspect.bypass_shares`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from binarize.errors import listed
from binarize.inspect import style
from binarize.inspect.bypass_share import BypassShares
from binarize.inspect.section import Section


def bypass_section(found: Mapping[str, BypassShares]) -> Section:
    """The shares of several networks, by label, each with at least one bypass."""
    return Section(
        name="bypass",
        analysis="bypass",
        title="Share of the output's variance that comes through the bypass",
        figure=_figure(found),
        findings=tuple(said for label, one in found.items() for said in _findings(label, one)),
        warnings=tuple(said for label, one in found.items() for said in _warnings(label, one)),
        rows=[row for label, one in found.items() for row in _rows(label, one)],
        data={label: _data(one) for label, one in found.items()},
    )


def _figure(found: Mapping[str, BypassShares]) -> Any:
    figure, upper, lower, places = style.tall_above_low([one.layers for one in found.values()])
    for index, (place, (label, one)) in enumerate(zip(places, found.items(), strict=True)):
        looks = style.looks(index) | {"markersize": 3.5, "linewidth": 1.0}
        upper.plot(place, one.share, label=label, **looks)
        lower.plot(place, one.correlation, **looks)
    upper.axhline(0.5, color="0.6", linewidth=0.8, zorder=0)
    upper.set_ylim(0, 1.03)
    upper.set_ylabel("Var(bypass) / (Var(bypass) + Var(branch))", fontsize=9)
    style.legend_above(figure, upper)
    lower.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    lower.set_ylim(-1.05, 1.05)
    lower.set_ylabel("correlation", fontsize=9)
    return figure


def _findings(label: str, one: BypassShares) -> list[str]:
    if not np.isfinite(one.share).any():
        return [f"{label}: the outputs of its {len(one.layers)} layers with a bypass do not vary."]
    most = int(np.nanargmax(one.share))
    return [
        f"{label}: {100 * np.nanmean(one.share):.0f} % of a layer's output variance comes through the bypass "
        f"on average ({len(one.layers)} of {len(one.layers) + len(one.without)} layers have one), most at "
        f"{one.layers[most]} ({100 * one.share[most]:.0f} %)."
    ]


def _warnings(label: str, one: BypassShares) -> list[str]:
    alone = [name for name, share in zip(one.layers, one.share, strict=True) if share > 0.99]
    return [f"{label}: hardly anything but the bypass (over 99 %) in {listed(alone, 3)}."] if alone else []


def _rows(label: str, one: BypassShares) -> list[dict[str, Any]]:
    return [
        {
            "network": label,
            "layer": name,
            "share": one.share[i],
            "correlation": one.correlation[i],
            "explained": one.explained[i],
            "var_bypass": one.bypass[i],
            "var_branch": one.branch[i],
        }
        for i, name in enumerate(one.layers)
    ]


def _data(one: BypassShares) -> dict[str, Any]:
    return {
        "layers": one.layers,
        "share": one.share,
        "correlation": one.correlation,
        "explained": one.explained,
        "without": one.without,
    }
