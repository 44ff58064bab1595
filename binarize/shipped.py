"""Where the files are that come with the toolkit: recipes and trained networks."""

from __future__ import annotations

from pathlib import Path


def shipped(name: str) -> Path:
    """Their folder of this name: beside the package, or inside an installed one."""
    package = Path(__file__).parent
    sources = package.parent
    beside = (sources / "pyproject.toml").is_file() and (sources / name).is_dir()
    return sources / name if beside else package / f"_{name}"
