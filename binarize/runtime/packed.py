"""The path by which pickles of earlier versions name the packed layer; nothing else imports it."""

from binarize.runtime.layer import PackedLayer, RuntimeOptions, _Made

__all__ = ["PackedLayer", "RuntimeOptions", "_Made"]
