"""Importing this module registers the built-in data sets."""

from binarize.data import ade20k, bts, camvid, cifar, folder, image_folder, shapes, voc2012

__all__ = ["ade20k", "bts", "camvid", "cifar", "folder", "image_folder", "shapes", "voc2012"]
