"""Picture and words of `binarize.inspect.entropy`: Figure 6d, and the same over the depth of the network."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from binarize.errors import listed
from binarize.inspect import style
from binarize.inspect.activation_entropy import Entropy
from binarize.inspect.section import Section


def entropy_section(found: Mapping[str, Entropy]) -> Section:
    """The entropies of several networks, by label, on the same images in the same order."""
    return Section(
        name="entropy",
        analysis="entropy",
        title="Information entropy of binary activations",
        figure=_figure(found),
        findings=(*_order(found), *_deepest(found)),
        warnings=tuple(_dead(found)),
        rows=[row for label, one in found.items() for row in _rows(label, one)],
        data={label: _data(one) for label, one in found.items()},
    )


def _figure(found: Mapping[str, Entropy]) -> Any:
    figure = style.figure(11.0, 4.8)
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1, 2.2]})
    top = max((bits for one in found.values() for bits in one.bits), default=1)
    for index, one in enumerate(found.values()):
        colour = style.looks(index)["color"]
        left.boxplot(
            one.per_image[:, 0],
            positions=[index],
            widths=0.6,
            whis=(5, 95),
            showfliers=False,
            showmeans=True,
            boxprops={"color": colour, "linewidth": 1.5},
            whiskerprops={"color": colour},
            capprops={"color": colour},
            medianprops={"color": colour, "linewidth": 1.5},
            meanprops={"marker": "D", "markerfacecolor": colour, "markeredgecolor": colour, "markersize": 5},
        )
        left.text(index, top * 1.02, f"{one.means[0]:.3f}", ha="center", fontsize=8, color=colour)
    left.set_xticks(range(len(found)), [style.wrapped(label) for label in found], fontsize=8)
    if len(found) > 4:  # else long names would touch
        left.tick_params(axis="x", rotation=90)
    left.set_ylim(0, top * 1.09)
    left.set_ylabel("entropy (bits), mean over channels", fontsize=9)
    left.set_title("first binarization, over the images\n(mean above; box: quartiles, 5 to 95 %)", fontsize=9)
    left.grid(axis="y", alpha=0.3)
    places, names = style.places([one.layers for one in found.values()])
    for index, (place, (label, one)) in enumerate(zip(places, found.items(), strict=True)):
        means = np.where(one.positions > 1, one.means, np.nan)
        right.plot(place, means, label=label, markersize=3.5, linewidth=1.2, **style.looks(index))
    style.layer_axis(right, names, 6.5)
    right.set_ylim(0, top * 1.09)
    right.set_title("behind each binarization, mean over the images", fontsize=9)
    right.grid(axis="y", alpha=0.3)
    style.legend_above(figure, right)
    return figure


def _order(found: Mapping[str, Entropy]) -> list[str]:
    """How the networks compare at the first binarization, image by image."""
    means = {label: float(one.means[0]) for label, one in found.items()}
    ranked = sorted(means, key=means.__getitem__)
    texts = [f"{label} {means[label]:.3f}" for label in ranked]
    images = len(next(iter(found.values())).per_image)
    said = [f"Entropy behind the first binarization, mean of {images} images: {' < '.join(texts)} bits."]
    for low, high in itertools.pairwise(ranked):
        a, b = found[low].per_image[:, 0], found[high].per_image[:, 0]
        if len(a) == len(b):
            more, spread = int((b > a).sum()), float(np.nanstd(a))
            said.append(
                f"{high} is above {low} in {more} of {len(a)} images, by {np.nanmean(b - a):.4f} bits on "
                f"average; images differ among themselves by {spread:.3f} (standard deviation)."
            )
    return said


def _deepest(found: Mapping[str, Entropy]) -> list[str]:
    """The mean over all binarizations, and where the lowest is."""
    said = []
    for label, one in found.items():
        means = np.where(one.positions > 1, one.means, np.nan)
        if not np.isfinite(means).any():
            said.append(f"{label}: all binarizations see vectors; entropy is that of maps.")
            continue
        lowest = int(np.nanargmin(means))
        said.append(
            f"{label}: {np.nanmean(means):.3f} bits on average over {int(np.isfinite(means).sum())} "
            f"binarizations, lowest {means[lowest]:.3f} at {one.layers[lowest]}."
        )
    return said


def _dead(found: Mapping[str, Entropy]) -> list[str]:
    said = []
    for label, one in found.items():
        dead = {
            name: (count, len(h))
            for name, count, h in zip(one.layers, one.dead, one.pooled, strict=True)
            if count
        }
        if dead:
            total = sum(count for count, _ in dead.values())
            worst = sorted(dead, key=lambda name: -dead[name][0])
            texts = [f"{name} ({dead[name][0]} of {dead[name][1]})" for name in worst]
            said.append(
                f"{label}: {total} dead channel{'s' * (total != 1)}, with one value in all "
                f"{len(one.per_image)} images: {listed(texts, 3)}. More images can only lower the number."
            )
        if one.skipped:
            said.append(f"{label}: no entropies where images are mixed: {listed(one.skipped, 3)}.")
    return said


def _rows(label: str, one: Entropy) -> list[dict[str, Any]]:
    return [
        {
            "network": label,
            "layer": name,
            "bits": bits,
            "mean": float(one.means[i]),
            "std": float(np.nanstd(one.per_image[:, i])),
            "pooled": float(one.pooled[i].mean()),
            "positions": float(one.positions[i]),
            "channels": len(one.pooled[i]),
            "dead": one.dead[i],
        }
        for i, (name, bits) in enumerate(zip(one.layers, one.bits, strict=True))
    ]


def _data(one: Entropy) -> dict[str, Any]:
    return {
        "layers": one.layers,
        "mean": one.means,
        "first_per_image": one.per_image[:, 0],
        "pooled": one.pooled,
        "upper": one.upper,
        "positions": one.positions,
        "dead": one.dead,
    }
