"""Whether conversion works on every model of timm, and on networks of other libraries."""

from binarize.coverage import catalogue, pool, subjects
from binarize.coverage.checks import check
from binarize.coverage.record import Record
from binarize.coverage.report import as_document, as_markdown, latest
from binarize.coverage.subjects import Subject

__all__ = [
    "Record",
    "Subject",
    "as_document",
    "as_markdown",
    "catalogue",
    "check",
    "latest",
    "pool",
    "subjects",
]
