"""Dense-prediction data sets: images with label masks or depth maps, and the transforms of both."""

from __future__ import annotations

from binarize.data.catalog import create, names, register_dataset
from binarize.data.dataset import DenseDataset, Depth, Labels, Pair, Sample

__all__ = ["DenseDataset", "Depth", "Labels", "Pair", "Sample", "create", "names", "register_dataset"]
