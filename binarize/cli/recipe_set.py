"""Trains all recipes of a set, one after the other or several at a time, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

import click

from binarize.errors import ConfigError, TrainingError, unknown_name

if TYPE_CHECKING:
    from binarize.comparison.sweep import Trial

_TAIL = 12


def names_of(recipe_set: str) -> list[str]:
    """The recipes of a set.

    Raises:
        ConfigError: there is no such set.
    """
    from binarize import recipes

    sets = sorted({name.partition("/")[0] for name in recipes.names()})
    if recipe_set not in sets:
        raise ConfigError(unknown_name("set of recipes", recipe_set, sets))
    return [name for name in recipes.names() if name.partition("/")[0] == recipe_set]


def seeds_of(text: str, *, counted: bool = False) -> tuple[int, ...]:
    """The seeds that `--seeds` names: `0,3`; with `counted`, `3` alone stands for 0, 1 and 2.

    Raises:
        ConfigError: it names none.
    """
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 0 or len(set(found)) < len(found):
        raise ConfigError(f"--seeds {text!r}: expected different whole numbers with commas between: 0,1,2.")
    return tuple(range(found[0])) if counted and len(found) == 1 and found[0] > 0 else found


def train_trials(
    trials: Sequence[Trial], settings: Sequence[str], root: Path | None, jobs: int, device: str | None = None
) -> None:
    """Train what is not trained yet; a run that was stopped continues.

    Args:
        trials: what to train.
        settings: for all of them.
        root: folder of the data set.
        jobs: how many at a time; above 1 each in a process of its own, which share the threads.
        device: of those processes, as `--device`; this process is on it already.

    Raises:
        ConfigError: a recipe that does not exist or cannot be followed.
        TrainingError: one failed, in a process of its own; those that were under way are trained to the end.
    """
    if jobs == 1:
        for trial in trials:
            _train_here(trial, settings, root)
        return
    _load_all(trials, settings)  # what is wrong with a recipe is found before the first process starts
    threads = max(1, (os.cpu_count() or 1) // jobs)
    click.echo(f"{len(trials)} runs, {jobs} at a time with {threads} threads each", err=True)
    pool = ThreadPoolExecutor(jobs)
    try:
        waiting = {
            pool.submit(_train_apart, trial, settings, root, threads, device): trial for trial in trials
        }
        for number, future in enumerate(as_completed(waiting), start=1):
            future.result()
            click.echo(f"{number} of {len(trials)} done: {waiting[future].folder}", err=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _load_all(trials: Sequence[Trial], settings: Sequence[str]) -> None:
    from binarize import recipes
    from binarize.training.build import faults

    for trial in trials:
        recipes.load(trial.name, [*settings, *trial.settings], faults)


def _train_here(trial: Trial, settings: Sequence[str], root: Path | None) -> None:
    from binarize import recipes
    from binarize.cli.train import Screen
    from binarize.training import staged

    recipe = recipes.load(trial.name, [*settings, *trial.settings])
    tried = "".join(f", {value}" for value in trial.values)
    click.echo(f"{trial.name}{tried}, seed {trial.seed}: {trial.folder}", err=True)
    with Screen(recipe.training.epochs, sys.stderr) as screen:
        staged.train(recipe, trial.folder, root=root, resume=True, report=screen.show, begin=screen.begin)


def _train_apart(
    trial: Trial, settings: Sequence[str], root: Path | None, threads: int, device: str | None
) -> None:
    from binarize import recipes

    command = [sys.executable, "-m", "binarize", "train", str(recipes.find(trial.name)), "--resume"]
    command += ["--out", str(trial.folder)]
    command += [part for setting in (*settings, *trial.settings) for part in ("--set", setting)]
    command += ["--data", str(root)] if root is not None else []
    command += ["--device", device] if device is not None else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    ended = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if ended.returncode:
        tail = "\n".join(f"  {line}" for line in ended.stdout.splitlines()[-_TAIL:])
        raise TrainingError(f"{trial.folder}: its training ended with status {ended.returncode}:\n{tail}")
