"""Runs side by side: what each network costs and how good it is."""

from binarize.comparison.collect import Result, collect
from binarize.comparison.table import as_dict, columns, figure, label, labels, markdown, remarks, title

__all__ = [
    "Result",
    "as_dict",
    "collect",
    "columns",
    "figure",
    "label",
    "labels",
    "markdown",
    "remarks",
    "title",
]
