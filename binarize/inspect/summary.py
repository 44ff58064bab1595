"""One line for each network: the numbers that stand for its sections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from binarize.inspect.section import Section


def summary_rows(labels: Sequence[str], sections: Sequence[Section]) -> dict[str, dict[str, str]]:
    """For each network, by label, short texts by the heads of columns; what it does not have is left out."""
    rows: dict[str, dict[str, str]] = {label: {} for label in labels}
    for section in sections:
        for label, data in section.data.items():
            rows[label] |= _CELLS.get(section.analysis, lambda data: {})(data)
    return rows


def _entropy(data: Any) -> dict[str, str]:
    means = np.where(data["positions"] > 1, data["mean"], np.nan)
    return {
        "entropy,\nfirst": _bits(means[:1]),
        "entropy,\nmean": _bits(means),
        "dead\nchannels": str(sum(data["dead"])),
    }


def _bits(means: np.ndarray) -> str:
    """Their mean; a dash where all are of vectors, which have no entropy within an image."""
    return f"{np.nanmean(means):.3f}" if np.isfinite(means).any() else "-"


def _weights(data: Any) -> dict[str, str]:
    positive = float((data["positive"] * data["weights"]).sum() / data["weights"].sum())
    cells = {"weights\n+1": f"{100 * positive:.1f} %"}
    if data["flipped"] is not None:
        known = np.isfinite(data["flipped"])
        share = (data["flipped"] * data["weights"])[known].sum() / max(1, data["weights"][known].sum())
        cells["flipped"] = f"{100 * share:.1f} %"
    return cells


def _bypass(data: Any) -> dict[str, str]:
    known = data["share"][np.isfinite(data["share"])]
    return {"bypass": f"{100 * known.mean():.0f} %" if len(known) else "-"}


def _gradients(data: Any) -> dict[str, str]:
    return {"layers without\ngradient": str(int((data["without"] == 1).sum()))}


def _sensitivity(data: Any) -> dict[str, str]:
    return {"best\ngain": f"{np.max(data['gain']):+.4f}"}


_CELLS = {
    "entropy": _entropy,
    "weights": _weights,
    "bypass": _bypass,
    "gradients": _gradients,
    "sensitivity": _sensitivity,
}
