"""Looks at the user's own data: which folders, names, classes and units it has; `look` finds all."""

from __future__ import annotations

from binarize.data.own.look import Found, look

__all__ = ["Found", "look"]
