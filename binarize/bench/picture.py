"""A picture of a bench: how long each variant takes, and where the packed network spends its time."""

from __future__ import annotations

import io

from binarize.bench.measure import Bench

_SHOWN = 8


def picture(found: Bench) -> bytes:
    """A PNG: bars of medians on the left, of the packed network's parts on the right."""
    from matplotlib.figure import Figure  # without pyplot: no screen, no state

    figure = Figure(figsize=(9.0, 3.6), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(found.times)
    medians = [1e3 * found.median(name) for name in names]
    bars = left.barh(names, medians, color=["tab:green", *["tab:gray"] * (len(names) - 1)])
    left.bar_label(bars, [f"{m:.0f} ms" if m >= 100 else f"{m:.2g} ms" for m in medians], padding=3)
    left.set_xlim(0, 1.35 * max(medians))  # space for the labels
    left.invert_yaxis()
    left.set_title(f"{'x'.join(map(str, found.shape))}, threads: {found.threads}", fontsize=10)
    kinds = list(found.kinds.items())[:_SHOWN]
    parts = right.barh([k for k, _ in kinds], [ms for _, ms in kinds], color="tab:green")
    rates = {} if not found.peak else {kind: rate / found.peak for kind, rate in found.rates().items()}
    labels = [f"{ms:.1f} ms" + (f", {rates[kind]:.0%}" if kind in rates else "") for kind, ms in kinds]
    right.bar_label(parts, labels, padding=3)
    right.set_xlim(0, 1.6 * max(ms for _, ms in kinds))
    right.invert_yaxis()
    peak = " (% of the one-bit peak)" if rates else ""
    right.set_title(f"inside packed{peak}", fontsize=10)
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()
