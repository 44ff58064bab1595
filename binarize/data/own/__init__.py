"""Looking at data of the user's own: which folders, names, classes and units it has; `look` finds all."""

from __future__ import annotations

from binarize.data.own.look import Found, look

__all__ = ["Found", "look"]
