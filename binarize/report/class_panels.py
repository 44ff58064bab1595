"""Whole images beside their class and the classes that a network finds likeliest."""

from __future__ import annotations

from dataclasses import dataclass

from binarize.data.classes import Classes
from binarize.data.samples import SampleDataset
from binarize.errors import ConfigError
from binarize.report.images import encoded, reduced, short_name
from binarize.report.subject import Subject
from binarize.training.classify import classify

_SHOWN = 3
_SMALL = 96  # pixels up to which JPEG would be seen to blur


@dataclass(frozen=True, kw_only=True)
class ClassPanel:
    """One image.

    Attributes:
        title: its name.
        size: (width, height) of the picture.
        image: PNG of a small picture, else JPEG.
        form: of the image.
        truth: name of its class.
        likeliest: names and probabilities of the likeliest classes, at most three, best first.
    """

    title: str
    size: tuple[int, int]
    image: bytes
    form: str
    truth: str
    likeliest: tuple[tuple[str, float], ...]

    @property
    def right(self) -> bool:
        """Whether the likeliest class is the true one."""
        return self.likeliest[0][0] == self.truth


def class_panel(subject: Subject, data: SampleDataset, index: int) -> ClassPanel:
    """An image of a split, with its class and the likeliest ones; of equal ones the first counts.

    Args:
        subject: a network that classifies whole images.
        data: the split.
        index: of the image.

    Raises:
        ConfigError: an image that the network cannot take, or maps in place of classes.
        DataError: the image cannot be read.
    """
    truth, recipe = subject.truth, subject.recipe
    if not isinstance(truth, Classes):
        raise ConfigError(f"{subject.name}: it gives maps ({truth.task}), not a class for each image.")
    image, target = data.load(index)
    try:
        shares = classify(subject.model, image, recipe.data.evaluation, recipe.network.output)
    except ConfigError as error:
        raise ConfigError(f"{data.name(index)}: {error}") from error
    values, ids = shares.sort(descending=True, stable=True)
    found = zip(ids[:_SHOWN].tolist(), values[:_SHOWN].tolist(), strict=True)
    shown = reduced(image, smooth=True)
    form = "png" if max(shown.shape[1:]) <= _SMALL else "jpeg"
    return ClassPanel(
        title=short_name(data.name(index)),
        size=(shown.shape[2], shown.shape[1]),
        image=encoded(shown, form),
        form=form,
        truth=truth.names[int(target)],
        likeliest=tuple((truth.names[i], share) for i, share in found),
    )
