"""`binarize train`: a recipe in, a trained network out."""

from __future__ import annotations

import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from binarize.cli import output
from binarize.cli.examples import examples
from binarize.cli.options import device_option, out_option
from binarize.cli.output import console, counted, shows_progress, size
from binarize.cli.sparkline import Curves
from binarize.cli.speed import importing
from binarize.errors import ConfigError, is_first_process, listed
from binarize.tables import better

if TYPE_CHECKING:
    from binarize.training.loop import Event


_WIDE = 100  # columns that the line of progress needs for the course of the main figure


@click.command(
    epilog=examples("""
        # no download, a few minutes on a CPU
        binarize train shapes/tiny-bidense
        # your data, with other values
        binarize train mine.yaml --set training.epochs=100 --set training.lr=1e-3
        # continue a run that was stopped
        binarize train mine.yaml --resume
    """)
)
@click.argument("recipe")
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder of the data set.")
@out_option("Folder of the run.  [default: runs/RECIPE]")
@click.option("--resume", is_flag=True, help="Continue the run in that folder.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Another value: training.lr=1e-3."
)
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, the figures of the networks.")
def train(
    recipe: str,
    root: Path | None,
    out: Path | None,
    resume: bool,
    settings: tuple[str, ...],
    device: str | None,
    as_json: bool,
) -> None:
    """Train a network by a recipe.

    RECIPE is a file or a name that `binarize recipes` lists. The name of a folder of recipes (camvid) lists
    them. For data of your own `binarize init` writes a recipe.

    The run's folder holds model.safetensors (the network), best.safetensors (that of the epoch which was best
    on the validation split; see training.keep), state.safetensors (what --resume continues from), log.jsonl
    (the figures of each epoch) and curves.png. Ctrl-C saves and ends. For a recipe with stages, the folder
    has one for each stage, which is a run of its own.

    With --json the lines of the epochs go to stderr.

    --resume continues by the same recipe. --set training.epochs=N extends a run whose learning rate is
    constant, also one that is finished. With the schedule onecycle the rate depends on the number of epochs:
    continue with --set training.schedule.name=constant --set training.lr=RATE, or start a new run from its
    weights (training.start_from).
    """
    with importing():
        from binarize import recipes
        from binarize.runtime import keep_memory
        from binarize.training import build, staged
        from binarize.training.environment import on_device
        from binarize.training.folder import MODEL, STATE
        from binarize.training.header import first_line

    say = partial(output.say, stream=sys.stderr) if as_json else output.say
    keep_memory()  # a step takes a tenth less time
    _check_name(recipe, out)
    chosen = recipes.load(recipe, settings, build.faults)
    if is_first_process():
        say(first_line(recipe, chosen))  # data and network take a while
    folder = out or Path("runs") / Path(recipe).with_suffix("").name
    begun = any(path.is_file() for path in (folder / STATE, *(folder / n / STATE for n in chosen.stages)))
    if resume and is_first_process() and not begun:
        say(f"{folder} holds no run to continue: this is a new one")
    lines = sys.stderr if as_json else None
    with on_device(device), Screen(chosen.training.epochs, lines) as screen:
        history = staged.train(
            chosen, folder, root=root, resume=resume, report=screen.show, tell=say, begin=screen.begin
        )
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return
    if as_json:
        output.print_json(outcome(folder, history))
    elif history and screen.shown:
        print_outcome(folder, history)
        say(f"written  {folder / MODEL}")
        say(f"Next: {shlex.join(['binarize', 'evaluate', str(folder / MODEL)])}")
    elif history:
        epochs = chosen.training.epochs
        early = "" if len(history) >= epochs else f" of {epochs}, ended early by training.patience"
        say(f"{folder} holds a complete run of {counted(len(history), 'epoch')}{early}.")
        if early:
            say("Continue with --resume --set training.patience=null.")


def _check_name(recipe: str, out: Path | None) -> None:
    """Refuse what is given in place of a recipe by mistake.

    Raises:
        ConfigError: it is the folder of a run, or a network.
    """
    from binarize.training.folder import LOG, STATE

    path = Path(recipe)
    if any((path / name).is_file() for name in (STATE, LOG)):
        raise ConfigError(
            f"{recipe} is the folder of a run, expected a recipe. To continue the run: "
            f"`binarize train RECIPE --out {out or recipe} --resume`, with the recipe that it began with."
        )
    if path.suffix == ".py" or ".py:" in recipe:
        raise ConfigError(
            f"{recipe} is a network's code, expected a recipe, which names it as network.name. "
            "`binarize init --network nets.py:NAME` writes one for your images."
        )


def outcome(folder: Path, history: list[dict[str, Any]]) -> dict[str, Any]:
    """What `--json` prints: best and last epoch of a run, with the figures that the log has."""
    from binarize.training.outcome import rows

    networks = [
        {
            "title": row.title,
            "epoch": row.epoch,
            "loss": row.loss,
            "figures": dict(row.figures),
            "file": None if row.file is None else str(row.file),
        }
        for row in (rows(folder, history) if history else [])
    ]
    seconds = sum(line["seconds"] for line in history)
    return {"run": str(folder), "epochs": len(history), "seconds": seconds, "networks": networks}


def print_outcome(folder: Path, history: list[dict[str, Any]]) -> None:
    """Best and last epoch of a run, their figures and files, and the time that it took."""
    from rich.table import Table

    from binarize.training.figures import ALL
    from binarize.training.outcome import rows

    found = rows(folder, history)
    words = {name: word for task in ALL.values() for name, word in task.line.items()}
    figures = list(dict.fromkeys(name for row in found for name in row.figures))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("epoch")
    for head in ("", "loss", *(f"{words[name]}{better(name)}" for name in figures)):
        table.add_column(head, justify="right")
    table.add_column("network", overflow="fold")
    for row in found:
        cells = [_number(row.loss), *(_number(row.figures.get(name)) for name in figures)]
        table.add_row(row.title, str(row.epoch), *cells, row.file.name if row.file is not None else "-")
    output.say()
    console().print(table)
    seconds = sum(line["seconds"] for line in history)
    output.say(f"time     {_time(seconds)} in all, {_time(seconds / len(history))} for an epoch")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


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
            BarColumn(10),
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
        # asked now: while a bar is shown, stderr is rich's, which says none
        self._new_curves = partial(Curves, sys.stderr.encoding, wide=self._progress.console.width >= _WIDE)
        self._curves = self._new_curves()
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
        self._curves = self._new_curves()
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None

    def show(self, event: Event) -> None:
        """A step, or the end of an epoch."""
        self.shown = True
        if event.figures:
            from binarize.training.outcome import epoch_line

            self._curves.add(event.figures)
            self._progress.stop()  # the bar does not see the line on stdout
            stage = f"{self._stage}: " if self._stage else ""
            lines = [f"{stage}{epoch_line(event.figures, self._epochs)}"]
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
