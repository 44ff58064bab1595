"""Recipes: one file says what is trained on what, and how."""

from __future__ import annotations

from binarize.recipes.read import apply_settings, find, load, names, validate
from binarize.recipes.schema import Recipe, TrainingRecipe

__all__ = ["Recipe", "TrainingRecipe", "apply_settings", "find", "load", "names", "validate"]
