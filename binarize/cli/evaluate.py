"""`binarize evaluate`: measure a trained network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from binarize.cli.options import best_option, chosen_file
from binarize.cli.output import console, counted, print_json, progress_bar, say, tell
from binarize.cli.speed import importing
from binarize.errors import ConfigError
from binarize.tables import better


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--split", help="Part of the data set.  [default: the recipe's test]")
@best_option
@click.option("--flip", is_flag=True, help="Mean over the image and its mirror image.")
@click.option("--scales", metavar="S,S...", help="Mean over these sizes: 0.75,1,1.25.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def evaluate(
    checkpoint: Path,
    root: Path | None,
    split: str | None,
    best: bool,
    flip: bool,
    scales: str | None,
    as_json: bool,
) -> None:
    """Measure CHECKPOINT, a model that `binarize train` wrote, or the folder of its run.

    Segmentation: mIoU, pixel accuracy, IoU of each class. Depth: delta1-3, AbsRel, SqRel, RMSE, RMSE log,
    log10, SILog. Processes that torchrun started share the images.
    """
    sizes = _scales(scales)
    with importing():
        from accelerate import PartialState

        from binarize.data.dataset import Depth
        from binarize.runtime import keep_memory
        from binarize.training import saved
        from binarize.training.build import dataset
        from binarize.training.environment import on_cpu
        from binarize.training.evaluate import evaluate as measure
        from binarize.training.folder import model_file
        from binarize.training.outcome import checkpoint_in
        from binarize.training.process_group import destroy_group_at_exit, keep_group_at_exit
        from binarize.training.tasks import task_of

    checkpoint = chosen_file(checkpoint, best)
    keep_memory()
    keep_group_at_exit()
    recipe, model = saved.load(checkpoint)
    part = split or recipe.data.test
    data = dataset(recipe, part, root=root)
    task_of(data.truth).inspect(data, f"{recipe.data.name} {part}")
    flip = flip or recipe.data.evaluation.flip
    sizes = sizes or recipe.data.evaluation.scales
    processes = PartialState(cpu=on_cpu())  # on one machine or several
    with progress_bar(part, counts=True, shown=processes.is_main_process) as progress:
        own = range(processes.process_index, len(data), processes.num_processes)
        task = progress.add_task("", total=len(own))
        figures = measure(
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
    destroy_group_at_exit()
    if not processes.is_main_process:
        return
    if as_json:
        document = {"checkpoint": str(checkpoint), "data": recipe.data.name, "split": part}
        print_json({**document, "flip": flip, "scales": list(sizes), **figures})
        return
    mean = ["mirror images"] * flip
    mean += [f"sizes x {', '.join(f'{s:g}' for s in sizes)}"] * (tuple(sizes) != (1.0,))
    title = f"{recipe.data.name} {part}, {counted(len(data), 'image')}"
    _print(figures, title + (f"; mean with {' and '.join(mean)}" if mean else ""))
    kept = checkpoint_in(model_file(checkpoint))
    if kept is not None and kept.kept == "best":
        same = ", on these very images" if part == recipe.data.val else ""
        tell(f"The network of the {kept}, chosen by its {kept.figure} on {recipe.data.val}{same}.")
    if isinstance(data.truth, Depth):
        tell(f"Means over {counted(figures['images'], 'image')}; {data.truth.counted}.")


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
    from rich.table import Table

    tell(title)
    classes = figures.get("class_iou")
    for name, value in figures.items():
        if name in ("class_iou", "absent", "pixels", "images"):
            continue
        say(f"{name + better(name):18} {'-' if value is None else f'{value:.4f}'}")
    if classes is None:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("class", overflow="fold")
    table.add_column(f"IoU{better('class_iou')}", justify="right")
    for name, value in classes.items():
        table.add_row(name, "-" if value is None else f"{value:.4f}")
    console().print(table)
    if figures["absent"]:
        tell(f"not in the truth: {', '.join(figures['absent'])}")
