"""Does conversion work on every model of timm? Check them one by one, and publish what came out."""

from binarize.coverage import pool, subjects
from binarize.coverage.checks import check
from binarize.coverage.record import Record
from binarize.coverage.report import as_document, as_markdown, latest
from binarize.coverage.subjects import Subject

__all__ = ["Record", "Subject", "as_document", "as_markdown", "check", "latest", "pool", "subjects"]
