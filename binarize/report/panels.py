"""Predictions beside truths, as small pictures for a page."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from binarize.data.dataset import Depth, Labels
from binarize.data.samples import SampleDataset
from binarize.errors import ConfigError
from binarize.report.subject import Subject
from binarize.training import pictures
from binarize.training.figures import figures_in
from binarize.training.tasks import task_of

WIDTH = 560
"""Pixels of the pictures, at most."""
_QUALITY = 82


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One image.

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
    """Several images, and the classes in them with their colours as `#rrggbb`."""

    panels: Sequence[Panel]
    classes: Sequence[tuple[str, str]] = ()


def make_panels(
    subject: Subject, data: SampleDataset, count: int, report: Callable[[int], None]
) -> Panels | str:
    """Images spread over a split with truth and prediction; a sentence if there can be none.

    Args:
        subject: the network.
        data: the split.
        count: images.
        report: called with the number of images done.

    Raises:
        ConfigError: images that the network cannot take.
        DataError: files that cannot be read.
    """
    truth = subject.truth
    if not isinstance(truth, (Labels, Depth)):
        return "No panels: a network that classifies whole images predicts no map."
    total = len(data)
    chosen = sorted({round((i + 0.5) * total / count - 0.5) for i in range(min(count, total))})
    made, maps = [], []
    for done, index in enumerate(chosen, start=1):
        image, target = data.load(index)
        try:
            predicted = pictures.predict_image(
                subject.model, image, subject.recipe.data.evaluation, truth, subject.recipe.network.output
            )
        except ConfigError as error:
            raise ConfigError(f"{data.name(index)}: {error}") from error
        made.append(_panel(data.name(index), image, target, predicted, truth))
        maps += [target, predicted]
        report(done)
    classes = pictures.classes_in(maps, truth) if isinstance(truth, Labels) else []
    colours = [(name, "#{:02x}{:02x}{:02x}".format(*rgb) if rgb else "") for name, rgb in classes]
    return Panels(panels=made, classes=colours)


def _panel(name: str, image: Tensor, target: Tensor, predicted: Tensor, truth: Labels | Depth) -> Panel:
    span = pictures.depth_span(target) if isinstance(truth, Depth) else None
    if isinstance(truth, Depth) and not bool((target > 0).any()):
        span = pictures.depth_span(predicted)
    shown = [_reduced(image, smooth=True)]
    for found in (target, predicted):
        colours = pictures.coloured(found, truth, span)
        shown.append(_reduced(colours, smooth=isinstance(truth, Depth)))
    form = "jpeg" if isinstance(truth, Depth) else "png"
    return Panel(
        title=name.replace("\\", "/").rpartition("/")[2],
        size=(shown[0].shape[2], shown[0].shape[1]),
        image=_encoded(shown[0], "jpeg"),
        truth=_encoded(shown[1], form),
        prediction=_encoded(shown[2], form),
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


def _reduced(picture: Tensor, *, smooth: bool) -> Tensor:
    """(3, H, W) uint8, no wider than `WIDTH`; colours of classes are never mixed."""
    _, height, width = picture.shape
    if width <= WIDTH:
        return picture
    size = (max(1, round(height * WIDTH / width)), WIDTH)
    if not smooth:
        return F.interpolate(picture[None], size=size, mode="nearest-exact")[0]
    return F.interpolate(picture[None], size=size, mode="bilinear", antialias=True)[0]


def _encoded(picture: Tensor, form: str) -> bytes:
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    data = io.BytesIO()
    if form == "png":
        image.save(data, format="PNG", optimize=True)
    else:
        image.save(data, format="JPEG", quality=_QUALITY, optimize=True)
    return data.getvalue()
