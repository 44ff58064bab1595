"""A trained network in one HTML file that loads nothing: plan, costs, curves, figures, predictions."""

from binarize.report.insights import Insight
from binarize.report.page import LIMIT, Extras, build
from binarize.report.subject import Subject, read

__all__ = ["LIMIT", "Extras", "Insight", "Subject", "build", "read"]
