"""Whether rows of a table differ by more than chance: the paired t-test over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from binarize.tables import UP, better

_MAIN = ("miou", "abs_rel", "top1")

NOTE = (
    "Paired t-test over the seeds that both rows have, two-sided: p is the probability of a mean difference "
    "at least this large if both were equally good on average and differences of seeds were normal. With few "
    "seeds only large and constant differences have a small p, and a large p does not mean that rows are "
    "equal. Not corrected for the number of rows."
)
"""What the test means."""


def main_figure(measured: Mapping[str, Any]) -> str:
    """The name of the figure that decides: mIoU, AbsRel or top-1.

    Raises:
        KeyError: none of these is there.
    """
    return next(name for name in _MAIN if name in measured)


def paired_tests(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The best row against each other one, by the main figure.

    t = mean(d) / (sd(d) / sqrt(n)) with n - 1 degrees of freedom, of the differences d of n pairs of runs
    with the same seed (Student, 1908); by scipy.

    Args:
        rows: of a table (`table.as_dict`).

    Returns:
        `a` (the best), `b`, `figure`, `seeds`, `difference` (mean of a - b) and `p`, or None and the reason
        `why`.
    """
    if len(rows) < 2 or not rows[0]["figures"]:
        return []
    name = main_figure(rows[0]["figures"])
    sign = 1 if better(name).endswith(UP) else -1
    best = max(rows, key=lambda row: sign * row["figures"][name]["mean"])
    return [_tested(best, row, name) for row in rows if row is not best]


def _tested(a: Mapping[str, Any], b: Mapping[str, Any], name: str) -> dict[str, Any]:
    of_a, of_b = (dict(zip(row["seeds"], row["figures"][name]["values"], strict=True)) for row in (a, b))
    seeds = [seed for seed in of_a if seed in of_b]
    apart = [of_a[seed] - of_b[seed] for seed in seeds]
    p, why = _p(apart)
    return {
        "a": a["label"],
        "b": b["label"],
        "figure": name,
        "seeds": seeds,
        "difference": statistics.fmean(apart) if apart else None,
        "p": p,
        "why": why,
    }


def _p(apart: Sequence[float]) -> tuple[float | None, str]:
    if len(apart) < 2:
        return None, "fewer than two seeds in common"
    if max(apart) - min(apart) <= 1e-12 * max(map(abs, apart), default=0.0):
        return None, "the same difference with all seeds"
    try:
        from scipy import stats
    except ImportError:
        return None, "scipy is not installed: pip install 'binarize[stats]'"
    result: Any = stats.ttest_1samp(apart, 0.0)
    return float(result.pvalue), ""


def markdown(tests: Sequence[Mapping[str, Any]], scale: float = 1.0) -> str:
    """The tests as a table in Markdown; empty if there are none.

    Args:
        tests: of `paired_tests`.
        scale: what differences are multiplied by: 100 for percent.
    """
    if not tests:
        return ""
    head = f"| {tests[0]['a']} against | seeds | difference in {tests[0]['figure']} | p |"
    lines = [head, "| --- | ---: | ---: | ---: |"]
    for test in tests:
        apart = "-" if test["difference"] is None else f"{scale * test['difference']:+.3f}"
        lines.append(f"| {test['b']} | {len(test['seeds'])} | {apart} | {p_text(test)} |")
    return "\n".join([*lines, "", NOTE]) + "\n"


def p_text(test: Mapping[str, Any]) -> str:
    """`0.031`, or `n/a`."""
    if test["p"] is None:
        return "n/a"
    return "< 0.001" if test["p"] < 0.001 else f"{test['p']:.3f}"
