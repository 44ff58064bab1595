"""`binarize train`: a recipe in, a trained network out."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from binarize.cli.options import device_option, out_option
from binarize.cli.output import console, counted, say, shows_progress, size
from binarize.cli.sparkline import Curves
from binarize.cli.speed import importing
from binarize.errors import is_first_process, listed

if TYPE_CHECKING:
    from binarize.training.loop import Event


@click.command()
@click.argument("recipe")
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder of the data set.")
@out_option("Folder of the run.  [default: runs/RECIPE]")
@click.option("--resume", is_flag=True, help="Continue the run in that folder.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Another value: training.lr=1e-3."
)
@device_option
def train(
    recipe: str,
    root: Path | None,
    out: Path | None,
    resume: bool,
    settings: tuple[str, ...],
    device: str | None,
) -> None:
    """Train by RECIPE, a file or a name that `binarize recipes` lists.

    The name of a folder of recipes (camvid) lists them. For data of your own `binarize init` writes a recipe.

    The run's folder holds model.safetensors (the network), state.safetensors (what --resume continues from),
    log.jsonl (the figures of each epoch) and curves.png. Ctrl-C saves and ends. A recipe with stages has a
    folder in it for each, which is a run of its own.
    """
    with importing():
        from binarize import recipes
        from binarize.runtime import keep_memory
        from binarize.training import build, staged
        from binarize.training.environment import on_device
        from binarize.training.folder import MODEL, STATE
        from binarize.training.header import first_line

    keep_memory()  # a step takes a tenth less time
    chosen = recipes.load(recipe, settings, build.faults)
    if is_first_process():
        say(first_line(recipe, chosen))  # data and network take a while
    folder = out or Path("runs") / Path(recipe).with_suffix("").name
    begun = any(path.is_file() for path in (folder / STATE, *(folder / n / STATE for n in chosen.stages)))
    if resume and is_first_process() and not begun:
        say(f"{folder} holds no run to continue: this is a new one")
    with on_device(device), Screen(chosen.training.epochs) as screen:
        history = staged.train(
            chosen, folder, root=root, resume=resume, report=screen.show, tell=say, begin=screen.begin
        )
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return
    if history and screen.shown:
        say(f"written  {folder / MODEL}")
        say(f"Next: binarize evaluate {folder / MODEL}")
    elif history:
        say(f"{folder} holds a complete run of {counted(len(history), 'epoch')}.")


class Screen:
    """A bar per run on a terminal, and one line per epoch anywhere.

    Args:
        epochs: of the run.
        lines: where the lines go; stdout by default.
    """

    def __init__(self, epochs: int, lines: IO[str] | None = None) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(20),
            TimeRemainingColumn(),
            TextColumn(
                "loss {task.fields[loss]:.4f} {task.fields[curves]} {task.fields[speed]:.1f} images/s  "
                "{task.fields[memory]}"
            ),
        )
        self._progress = Progress(
            *columns, console=console(sys.stderr), disable=not shows_progress(), transient=True
        )
        self._epochs = epochs
        self._lines = lines
        self._task: Any = None
        self._stage = ""
        self._curves = Curves()
        self._began = (time.perf_counter(), 0)
        self.shown = False

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, stage: str, epochs: int) -> None:
        """A stage of the run begins; it has epochs of its own."""
        self._stage, self._epochs = stage, epochs
        self._curves = Curves()
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None

    def show(self, event: Event) -> None:
        """A step, or the end of an epoch."""
        self.shown = True
        if event.figures:
            self._curves.add(event.figures)
            self._progress.stop()  # the bar does not see the line on stdout
            lines = [f"{self._stage}{': ' if self._stage else ''}{_line(event.figures, self._epochs)}"]
            if constant := event.figures.get("constant_inputs"):
                lines.append(_about_constant(constant))
            console(self._lines).print("\n".join(lines), soft_wrap=True, markup=False)
            self._progress.start()
            return
        done = event.epoch * event.steps + event.step
        if self._task is None:
            self._began = (time.perf_counter(), done)
            self._task = self._progress.add_task(
                "", total=self._epochs * event.steps, epoch="", loss=0.0, speed=0.0, memory="", curves=""
            )
        began, first = self._began
        passed = time.perf_counter() - began
        self._progress.update(
            self._task,
            completed=done,
            epoch=f"{event.epoch + 1}/{self._epochs}",
            loss=event.loss,
            curves=self._curves.text(event.loss),
            speed=(done - first) * event.images / passed if passed > 0 else 0.0,
            memory=size(peak) if (peak := _peak_memory()) else "",
        )


def _peak_memory() -> int:
    """The most bytes that this process has used, of the accelerator if it is used; 0 if unknown (Windows)."""
    import torch

    if used := torch.cuda.max_memory_allocated():
        return used
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _about_constant(names: list[str]) -> str:
    return (
        f"warning: no channel of the input of {listed(names)} changed its sign in this epoch: "
        "the output there is the same whatever the image. `binarize.plan` shows the input of each layer; "
        "another method, or keeping the layers in float (policy.keep), may help."
    )


def _line(figures: dict[str, Any], epochs: int) -> str:
    parts = [f"epoch {figures['epoch']}/{epochs}", f"loss {figures['loss']:.4f}"]
    if "val" in figures:
        from binarize.training.figures import figures_in

        measured = figures["val"]
        words = figures_in(measured).line.items()
        parts += [f"{word} {measured[n]:.4f}" for n, word in words if measured[n] is not None]
    if "flipped" in figures:
        parts.append(f"flipped {100 * figures['flipped']:.1f} %")
    parts.append(f"{figures['images_per_second']:.3g} images/s")
    return "  ".join(parts)
