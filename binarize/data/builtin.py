"""Importing this makes the built-in data sets known."""

from binarize.data import ade20k, bts, camvid, folder, shapes, voc2012

__all__ = ["ade20k", "bts", "camvid", "folder", "shapes", "voc2012"]
