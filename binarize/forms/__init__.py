"""Trained networks in float32, in int8 and at one bit: the accuracy, the bytes and the time of each form."""

from binarize.forms.made import FLOAT, INT8, KINDS, ONE_BIT, RUNNERS, Form
from binarize.forms.measure import Settings, measure
from binarize.forms.picture import picture
from binarize.forms.sources import Source, find
from binarize.forms.table import markdown, merged, text

__all__ = [
    "FLOAT",
    "INT8",
    "KINDS",
    "ONE_BIT",
    "RUNNERS",
    "Form",
    "Settings",
    "Source",
    "find",
    "markdown",
    "measure",
    "merged",
    "picture",
    "text",
]
