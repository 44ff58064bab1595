"""`binarize evaluate`: measure a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from binarize.cli.examples import examples
from binarize.cli.options import best_option, chosen_file, device_option, float_model, model_option
from binarize.cli.output import console, counted, print_json, progress_bar, say, tell
from binarize.cli.speed import importing
from binarize.cli.targets import check_output
from binarize.errors import ConfigError, listed
from binarize.tables import better

if TYPE_CHECKING:
    from accelerate import PartialState
    from torch import nn

    from binarize.data.samples import SampleDataset
    from binarize.recipes import TrainingRecipe

_CLASSES = 200  # of more, the table of `evaluate` shows the lowest only
_LOWEST = 20
_MISTAKES = 5


@click.command(
    epilog=examples(r"""
        # the last epoch of a run, and the best one
        binarize evaluate runs/tiny-bidense
        binarize evaluate runs/tiny-bidense --best
        # a network of the zoo, mean over mirror images and three sizes
        binarize evaluate zoo:camvid-bidense --data CamVid --flip \
            --scales 0.75,1,1.25
    """)
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--split", help="Part of the data set.  [default: the recipe's test]")
@best_option
@model_option
@click.option("--flip", is_flag=True, help="Mean over the image and its mirror image.")
@click.option("--scales", metavar="S,S...", help="Mean over these sizes: 0.75,1,1.25.")
@click.option(
    "--confusion",
    "picture",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Of classification: draw which class was taken for which (PNG).",
)
@click.option("--force", is_flag=True, help="Replace the picture if it exists.")
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def evaluate(
    checkpoint: Path,
    root: Path | None,
    split: str | None,
    best: bool,
    custom: str | None,
    flip: bool,
    scales: str | None,
    picture: Path | None,
    force: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Measure a trained network on a split of its data set.

    CHECKPOINT is a model that `binarize train` wrote, or the folder of its run.

    Segmentation: mIoU, pixel accuracy, IoU of each class. Depth: delta1-3, AbsRel, SqRel, RMSE, RMSE log,
    log10, SILog. Classification: top-1 and top-5 accuracy, accuracy of each class. Processes that torchrun
    started share the images.
    """
    sizes = _scales(scales)
    with importing():
        from accelerate import PartialState

        from binarize.data.classes import Classes
        from binarize.data.dataset import Depth
        from binarize.runtime import keep_memory
        from binarize.training import saved
        from binarize.training.build import dataset
        from binarize.training.confusion import draw_confusion
        from binarize.training.environment import on_cpu, on_device
        from binarize.training.process_group import destroy_group_at_exit, keep_group_at_exit
        from binarize.training.tasks import task_of

    checkpoint = chosen_file(checkpoint, best)
    keep_memory()
    keep_group_at_exit()
    recipe, model = saved.load(checkpoint, float_model(custom))
    part = split or recipe.data.test
    data = dataset(recipe, part, root=root)
    saved.check_classes(checkpoint, data.truth)
    if picture is not None:
        check_output(picture, force=force, option="--confusion", ending=".png")
        if not isinstance(data.truth, Classes):
            raise ConfigError(
                f"evaluate: --confusion is for classification; {checkpoint} is for {data.truth.task}."
            )
    task_of(data.truth).inspect(data, f"{recipe.data.name} {part}")
    flip = flip or recipe.data.evaluation.flip
    sizes = sizes or recipe.data.evaluation.scales
    with on_device(device):
        processes = PartialState(cpu=on_cpu())  # on one machine or several
    figures = _measured(recipe, model, data, part, processes, flip, sizes)
    destroy_group_at_exit()
    if not processes.is_main_process:
        return
    if picture is not None and isinstance(data.truth, Classes):
        draw_confusion(figures["confusion"], picture, list(data.truth.names))
    if as_json:
        document = {"checkpoint": str(checkpoint), "data": recipe.data.name, "split": part}
        print_json({**document, "flip": flip, "scales": list(sizes), **figures})
        return
    _print(figures, f"{recipe.data.name} {part}, {counted(len(data), 'image')}{_averaged(flip, sizes)}")
    _tell_if_best(checkpoint, part, recipe.data.val)
    if isinstance(data.truth, Depth):
        tell(f"Means over {counted(figures['images'], 'image')}; {data.truth.counted}.")
    if picture is not None:
        say(f"written  {picture}")


def _measured(
    recipe: TrainingRecipe,
    model: nn.Module,
    data: SampleDataset,
    part: str,
    processes: PartialState,
    flip: bool,
    sizes: Sequence[float],
) -> dict[str, Any]:
    """The figures, with a bar for the images of this process."""
    from binarize.training.evaluation import evaluate

    with progress_bar(part, counts=True, shown=processes.is_main_process) as progress:
        own = range(processes.process_index, len(data), processes.num_processes)
        task = progress.add_task("", total=len(own))
        return evaluate(
            model.to(processes.device),
            data,
            output=recipe.network.output,
            device=processes.device,
            batch=recipe.data.evaluation.batch,
            flip=flip,
            scales=sizes,
            rank=processes.process_index,
            world=processes.num_processes,
            report=lambda done: progress.update(task, completed=done),
            where=f"{recipe.data.name} {part}",
        )


def _averaged(flip: bool, sizes: Sequence[float]) -> str:
    """What the predictions are means over, for the title."""
    mean = ["mirror images"] * flip
    mean += [f"sizes x {', '.join(f'{s:g}' for s in sizes)}"] * (tuple(sizes) != (1.0,))
    return f"; mean with {' and '.join(mean)}" if mean else ""


def _tell_if_best(checkpoint: Path, part: str, val: str | None) -> None:
    """Say so of the network of a run's best epoch, and on which images it was chosen."""
    from binarize.training.folder import model_file
    from binarize.training.outcome import checkpoint_in

    kept = checkpoint_in(model_file(checkpoint))
    if kept is not None and kept.kept == "best":
        same = ", on these images" if part == val else ""
        tell(f"The network of the {kept}, chosen by its {kept.figure} on {val}{same}.")


def _scales(text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0.1 <= scale <= 10 for scale in found):
        raise ConfigError(f"--scales {text!r}: expected numbers from 0.1 to 10 with commas between.")
    return found


def _print(figures: dict[str, Any], title: str) -> None:
    """The figures of a whole data set, then those of each class."""
    tell(title)
    for name, value in figures.items():
        if value is None or isinstance(value, float):
            say(f"{name + better(name):18} {'-' if value is None else f'{value:.4f}'}")
    for name, head in (("class_iou", "IoU"), ("class_accuracy", "accuracy")):
        if name in figures:
            _print_classes(figures[name], f"{head}{better(name)}")
            if figures["absent"]:
                tell(f"not in the truth: {listed(figures['absent'], _CLASSES)}")
    if "confusion" in figures:
        _print_confusions(figures["confusion"])


def _print_classes(classes: dict[str, float | None], head: str) -> None:
    """A row for each class; of very many, those with the lowest figures."""
    from rich.table import Table

    rows = list(classes.items())
    if len(rows) > _CLASSES:
        rows = sorted(((n, v) for n, v in rows if v is not None), key=lambda row: row[1])[:_LOWEST]
        tell(f"the {len(rows)} lowest of {len(classes)} classes:")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("class", overflow="fold")
    table.add_column(head, justify="right")
    for name, value in rows:
        table.add_row(name, "-" if value is None else f"{value:.4f}")
    console().print(table)


def _print_confusions(confusion: dict[str, dict[str, int]]) -> None:
    """The most frequent mistakes."""
    mistakes = [
        (n, true, taken) for true, row in confusion.items() for taken, n in row.items() if true != taken
    ]
    if mistakes:
        most = sorted(mistakes, key=lambda mistake: -mistake[0])[:_MISTAKES]
        tell(f"most often mistaken: {', '.join(f'{true} for {taken} ({n})' for n, true, taken in most)}")
