"""Recipes: one file says what is trained on what, and how."""

from __future__ import annotations

from binarize.recipes.library import find, names
from binarize.recipes.read import load
from binarize.recipes.schema import Recipe, TrainingRecipe
from binarize.recipes.settings import apply_settings
from binarize.recipes.validation import validate

__all__ = ["Recipe", "TrainingRecipe", "apply_settings", "find", "load", "names", "validate"]
