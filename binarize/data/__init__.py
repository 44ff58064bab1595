"""Data sets of images with label masks, depth maps or a class each, and their transforms."""

from __future__ import annotations

from binarize.data.catalog import create, names, register_dataset
from binarize.data.classes import ClassDataset, Classes
from binarize.data.dataset import DenseDataset, Depth, Labels, Pair
from binarize.data.samples import Sample, SampleDataset

__all__ = [
    "ClassDataset",
    "Classes",
    "DenseDataset",
    "Depth",
    "Labels",
    "Pair",
    "Sample",
    "SampleDataset",
    "create",
    "names",
    "register_dataset",
]
