"""The recipes that come with the toolkit, by name."""

from __future__ import annotations

from pathlib import Path

from binarize.errors import ConfigError, near_names, near_paths, unknown_name
from binarize.shipped import shipped


def folder() -> Path:
    """Where the recipes are that come with the toolkit."""
    return shipped("recipes")


def names() -> list[str]:
    """Names of the recipes that come with the toolkit: `shapes/convnext_atto-bidense`."""
    root = folder()
    files = (p.relative_to(root).with_suffix("") for p in root.glob("*/*.yaml"))
    return sorted(p.as_posix() for p in files if not p.name.startswith("_"))


def find(name: str | Path) -> Path:
    """The file of a recipe, given by its path or by its name.

    Raises:
        ConfigError: there is none; the message holds near names.
    """
    path = Path(name)
    if path.is_file():
        return path
    text = path.as_posix().removeprefix("recipes/").removesuffix(".yaml")
    if text in (known := names()):
        return folder() / f"{text}.yaml"
    if path.suffix in (".yaml", ".yml") and not near_names(text, known):
        missing = f"recipe {path}: no such file, and no recipe of this name; see `binarize recipes`."
        raise ConfigError(f"{missing}{near_paths(path)}")
    raise ConfigError(unknown_name("recipe", text, known, "binarize recipes"))


def recipes_of(name: str | Path) -> list[str]:
    """The recipes of a folder, the toolkit's (`camvid`) or another; none if there is no such folder."""
    path = Path(name)
    text = path.as_posix().removeprefix("recipes/").rstrip("/")
    if path.is_dir():
        found = (p for ending in ("*.yaml", "*.yml") for p in path.glob(ending))
        if own := sorted(p.as_posix() for p in found if not p.name.startswith("_")):
            return own
    return [known for known in names() if known.rpartition("/")[0] == text]
