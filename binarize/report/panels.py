"""Predictions beside truths, as small pictures for a page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from binarize.data.classes import Classes
from binarize.data.dataset import Depth, Labels
from binarize.data.samples import SampleDataset
from binarize.errors import ConfigError
from binarize.report.class_panels import ClassPanel, class_panel
from binarize.report.images import encoded, reduced, short_name
from binarize.report.subject import Subject
from binarize.training import pictures
from binarize.training.figures import figures_in
from binarize.training.tasks import task_of


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One image with its map of classes or depths.

    Attributes:
        title: its name.
        size: (width, height) of the pictures.
        image: JPEG.
        truth: PNG of class colours, or JPEG of depth.
        prediction: likewise.
        form: of the latter two.
        figures: of this image, in words.
        span: metres of the brightest and the darkest colour; None without depth.
    """

    title: str
    size: tuple[int, int]
    image: bytes
    truth: bytes
    prediction: bytes
    form: str
    figures: str
    span: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Panels:
    """Several images, all with maps or all with one class each.

    Attributes:
        panels: of the images.
        classes: those in maps, with their colours as `#rrggbb`.
    """

    panels: Sequence[Panel] | Sequence[ClassPanel]
    classes: Sequence[tuple[str, str]] = ()

    @property
    def of_whole_images(self) -> bool:
        """Whether the network gives one class for each image, not a map."""
        return bool(self.panels) and isinstance(self.panels[0], ClassPanel)


def make_panels(subject: Subject, data: SampleDataset, count: int, report: Callable[[int], None]) -> Panels:
    """Images spread over a split with truth and prediction.

    Args:
        subject: the network.
        data: the split.
        count: images.
        report: called with the number of images done.

    Raises:
        ConfigError: images that the network cannot take.
        DataError: files that cannot be read.
    """
    total = len(data)
    chosen = sorted({round((i + 0.5) * total / count - 0.5) for i in range(min(count, total))})
    if isinstance(subject.truth, Classes):
        return Panels(panels=[class_panel(subject, data, index) for index in _watched(chosen, report)])
    return _of_maps(subject, data, _watched(chosen, report), subject.truth)


def _watched(chosen: Sequence[int], report: Callable[[int], None]) -> Iterator[int]:
    for done, index in enumerate(chosen, start=1):
        yield index
        report(done)


def _of_maps(subject: Subject, data: SampleDataset, chosen: Iterable[int], truth: Labels | Depth) -> Panels:
    made, maps = [], []
    for index in chosen:
        image, target = data.load(index)
        try:
            predicted = pictures.predict_image(
                subject.model, image, subject.recipe.data.evaluation, truth, subject.recipe.network.output
            )
        except ConfigError as error:
            raise ConfigError(f"{data.name(index)}: {error}") from error
        made.append(_panel(data.name(index), image, target, predicted, truth))
        maps += [target, predicted]
    classes = pictures.classes_in(maps, truth) if isinstance(truth, Labels) else []
    colours = [(name, "#{:02x}{:02x}{:02x}".format(*rgb) if rgb else "") for name, rgb in classes]
    return Panels(panels=made, classes=colours)


def _panel(name: str, image: Tensor, target: Tensor, predicted: Tensor, truth: Labels | Depth) -> Panel:
    span = pictures.depth_span(target) if isinstance(truth, Depth) else None
    if isinstance(truth, Depth) and not bool((target > 0).any()):
        span = pictures.depth_span(predicted)
    shown = [reduced(image, smooth=True)]
    for found in (target, predicted):
        colours = pictures.coloured(found, truth, span)
        shown.append(reduced(colours, smooth=isinstance(truth, Depth)))
    form = "jpeg" if isinstance(truth, Depth) else "png"
    return Panel(
        title=short_name(name),
        size=(shown[0].shape[2], shown[0].shape[1]),
        image=encoded(shown[0], "jpeg"),
        truth=encoded(shown[1], form),
        prediction=encoded(shown[2], form),
        form=form,
        figures=_figures(predicted, target, truth),
        span=span,
    )


def _figures(predicted: Tensor, target: Tensor, truth: Labels | Depth) -> str:
    """The figures of one image, over all of its pixels that have a truth."""
    metric = task_of(truth).metric()
    metric.update(predicted[None], target[None])
    found = metric.compute()
    known: Any = figures_in(found).line
    return ", ".join(f"{word} {found[name]:.3f}" for name, word in known.items() if found[name] is not None)
