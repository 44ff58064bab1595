"""The figures of each epoch for TensorBoard, Weights & Biases, MLflow...: by accelerate's trackers."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from binarize.errors import ConfigError, unknown_name

_PROJECT = "binarize"
_PACKAGES = {"comet_ml": "comet-ml", "tensorboard": "'binarize[tensorboard]'"}
"""What to install, where it is not called as the tracker is."""


def known() -> list[str]:
    """Names of the trackers that this version of accelerate has."""
    return sorted(str(getattr(name, "value", name)) for name in LOGGER_TYPE_TO_CLASS)


def chosen(names: Sequence[str] | None) -> list[str]:
    """The trackers of a run.

    Args:
        names: `training.trackers`; None for tensorboard where it is installed.

    Raises:
        ConfigError: one is unknown or not installed.
    """
    if names is None:
        return ["tensorboard"] if _installed("tensorboard") else []
    for name in names:
        if name not in known():
            raise ConfigError(f"training.trackers: {unknown_name('tracker', name, known())}")
        if not _installed(name):
            package = _PACKAGES.get(name, name)
            raise ConfigError(f"training.trackers: {name} is not installed: pip install {package}")
    return list(dict.fromkeys(names))


@contextlib.contextmanager
def tracked(
    names: Sequence[str], out: Path, done: int, recipe: Mapping[str, Any]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yields a function that gives an epoch's figures to the trackers; the main process alone calls it.

    Files of TensorBoard and W&B lie in the run's folder, MLflow's where its own settings say. A run that
    fails in its first epoch leaves none.

    Args:
        names: of `chosen`.
        out: folder of the run; its name is that of the run in W&B and MLflow.
        done: epochs that are over; what a run that was killed wrote of later ones is hidden in TensorBoard.
        recipe: of the run as plain values, for trackers that show them.
    """
    trackers: list[GeneralTracker] = []

    def log(figures: Mapping[str, Any]) -> None:
        if not trackers:
            trackers.extend(_begun(name, out, done, recipe) for name in names)
        for tracker in trackers:
            tracker.log(dict(_numbers(figures)), step=figures["epoch"])

    try:
        yield log
    finally:
        for tracker in trackers:
            tracker.finish()


def _begun(name: str, out: Path, done: int, recipe: Mapping[str, Any]) -> GeneralTracker:
    """A tracker that takes figures."""
    make: Any = LOGGER_TYPE_TO_CLASS[name]
    options: dict[str, Any] = {
        "tensorboard": {"purge_step": done + 1},
        "wandb": {"dir": str(out), "name": out.name, "config": dict(recipe)},
        "mlflow": {"run_name": out.name},
    }.get(name, {})
    if name == "tensorboard":
        tracker = make("", str(out), **options)  # its project would be a folder inside the run's
    elif make.requires_logging_directory:
        tracker = make(_PROJECT, str(out), **options)
    else:
        tracker = make(_PROJECT, **options)
    if hasattr(tracker, "start"):  # earlier versions of accelerate start when they are made
        tracker.start()
    return tracker


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _numbers(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers by name, and those of mappings by `outer/inner`; what is neither is left out."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and name != "epoch":
            yield f"{prefix}{name}", float(value)
