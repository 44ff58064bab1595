"""What came out of a run: its best and its last epoch, their figures, and where their networks lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from binarize.errors import BinarizeError, ConfigError
from binarize.files import container
from binarize.training.best import best_of, is_better
from binarize.training.figures import figures_in, headline
from binarize.training.folder import BEST, MODEL
from binarize.training.metadata import Checkpoint, read_checkpoint


@dataclass(frozen=True, kw_only=True)
class Row:
    """A network of a run.

    Attributes:
        title: `best`, `last`, or `last, without EMA`.
        epoch: counted from 1.
        loss: of training, mean over that epoch.
        figures: on the validation split, by name; empty if it was not evaluated after that epoch.
        file: where it lies; None if it was not kept.
    """

    title: str
    epoch: int
    loss: float
    figures: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None


def rows(out: Path, history: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Best and last epoch of a run, with EMA also those of the plain weights.

    Args:
        out: folder of the run.
        history: its log; not empty. Of a run in stages only the last one counts: the others train other
            networks.
    """
    stage = history[-1].get("stage")
    own = [line for line in history if line.get("stage") == stage]
    kept = [(found, file) for file in (out / BEST, out / MODEL) if (found := checkpoint_in(file)) is not None]
    found = []
    for part, suffix in (("val", ""), ("val_without_ema", ", without EMA")):
        best = best_of(own, part)
        ends = [("best", best[0])] if best is not None else []
        if not suffix or part in history[-1]:
            ends.append(("last", history[-1]["epoch"]))
        for title, epoch in ends:
            line = history[epoch - 1]
            files = [f for c, f in kept if not suffix and c.epoch == epoch and c.kept == title]
            found.append(
                Row(
                    title=f"{title}{suffix}",
                    epoch=epoch,
                    loss=line["loss"],
                    figures=_main(line.get(part, {})),
                    file=files[0] if files else None,
                )
            )
    return found


def best_file(folder: Path) -> Path:
    """The network of the best epoch in the folder of a run.

    Raises:
        ConfigError: it is not a folder, or holds none.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: --best takes the folder of a run; a file holds one network only.")
    best: tuple[Checkpoint, Path] | None = None
    for file in (folder / BEST, folder / MODEL):
        found = checkpoint_in(file)
        if found is None or found.kept != "best" or found.figure is None:
            continue
        if best is None or is_better(found.figure, found.value, best[0].value):
            best = found, file
    if best is None:
        raise ConfigError(
            f"{folder} holds no network of its best epoch: it was trained with training.keep=last, or "
            "nothing was measured on a validation split. Train with --set training.keep=both."
        )
    return best[1]


def checkpoint_in(file: Path) -> Checkpoint | None:
    """Which network of its run a file holds; None if there is no file, or it does not say."""
    try:
        return read_checkpoint(container.read_metadata(file))
    except BinarizeError:
        return None


def _main(measured: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that lines of text show."""
    if not measured:
        return {}
    return {name: measured[name] for name in figures_in(measured).line if name in measured}


def epoch_line(figures: Mapping[str, Any], epochs: int) -> str:
    """The figures of an epoch, and how many epochs there are, as one line of text."""
    parts = [f"epoch {figures['epoch']}/{epochs}", f"loss {figures['loss']:.4f}"]
    if "val" in figures:
        measured = figures["val"]
        words = figures_in(measured).line.items()
        main, plain = headline(measured)[0], figures.get("val_without_ema", {})
        for name, word in words:
            if measured[name] is not None:
                both = name == main and plain.get(name) is not None
                beside = f" ({plain[name]:.4f} without EMA)" if both else ""
                parts.append(f"{word} {measured[name]:.4f}{beside}")
    if "flipped" in figures:
        parts.append(f"flipped {100 * figures['flipped']:.1f} %")
    parts.append(f"{figures['images_per_second']:.3g} images/s")
    return "  ".join(parts)
