"""The figures of each epoch for TensorBoard, Weights & Biases, MLflow...: by accelerate's trackers."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from binarize.errors import ConfigError, first_line, unknown_name, warn

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
        ConfigError: one is unknown or not installed, or cannot write by its own settings.
    """
    if names is None:
        return ["tensorboard"] if _installed("tensorboard") else []
    for name in names:
        if name not in known():
            raise ConfigError(f"training.trackers: {unknown_name('tracker', name, known())}")
        if not _installed(name):
            package = _PACKAGES.get(name, name)
            raise ConfigError(f"training.trackers: {name} is not installed: pip install {package}")
        if name == "mlflow":
            _check_mlflow()
    return list(dict.fromkeys(names))


def _check_mlflow() -> None:
    """Refuse a place for MLflow's runs that it does not take, before an epoch is trained; no server is asked.

    mlflow-skinny has no database, and current versions refuse plain folders.
    """
    from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]  (optional)

    try:
        MlflowClient()
    except Exception as error:  # of many classes, also of its stores
        raise ConfigError(
            f"training.trackers: mlflow cannot write its runs: {first_line(error)} Set MLFLOW_TRACKING_URI "
            "to the address of a server or, with the package mlflow in place of mlflow-skinny, to "
            "sqlite:///mlflow.db."
        ) from error


@contextlib.contextmanager
def tracked(
    names: Sequence[str], out: Path, done: int, recipe: Mapping[str, Any]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yields a function that gives an epoch's figures to the trackers; the main process alone calls it.

    Files of TensorBoard and W&B lie in the run's folder, MLflow's where its own settings say. A run that
    fails in its first epoch leaves none. A tracker that fails is left out, with a warning.

    Args:
        names: of `chosen`.
        out: folder of the run; its name is that of the run in W&B and MLflow.
        done: epochs that are over; what a run that was killed wrote of later ones is hidden in TensorBoard.
        recipe: of the run as plain values, for trackers that show them.
    """
    waiting = list(names)
    trackers: dict[str, GeneralTracker] = {}

    def log(figures: Mapping[str, Any]) -> None:
        while waiting:
            name = waiting.pop(0)
            with _left_out(name, trackers):
                trackers[name] = _begun(name, out, done, recipe)
        for name, tracker in list(trackers.items()):
            with _left_out(name, trackers):
                tracker.log(dict(_numbers(figures)), step=figures["epoch"])

    try:
        yield log
    finally:
        for name, tracker in list(trackers.items()):
            with _left_out(name, trackers):
                tracker.finish()


@contextlib.contextmanager
def _left_out(name: str, trackers: dict[str, GeneralTracker]) -> Iterator[None]:
    """Continue without a tracker that fails: its server may be away, and the training is worth more."""
    try:
        yield
    except Exception as error:  # of any class, a tracker is the code of others
        trackers.pop(name, None)
        warn(f"training.trackers: {name} fails, the training goes on without it: {first_line(error)}")


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
    if name == "mlflow":  # W&B was given them above; TensorBoard's table of them makes runs of its own
        tracker.store_init_configuration(dict(_settings(recipe)))
    return tracker


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _settings(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a recipe by name, `training.lr`; those that are not set are left out."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{name}.")
        elif value is not None and value not in ([], ""):
            yield f"{prefix}{name}", value


def _numbers(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers by name, and those of mappings by `outer/inner`; what is neither is left out."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and name != "epoch":
            yield f"{prefix}{name}", float(value)
