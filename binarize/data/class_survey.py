"""Checking classification data before training: classes without an image, one class only, files, sizes."""

from __future__ import annotations

from dataclasses import dataclass

from binarize.data.classes import ClassDataset
from binarize.data.findings import SHOWN, Finding, report
from binarize.errors import listed

SAMPLE = 32
"""Number of images that are read before training or evaluation."""


def findings(data: ClassDataset, where: str) -> list[Finding]:
    """What the class ids show; nothing is read.

    Args:
        data: the data set.
        where: its name in messages: "cifar10 train".
    """
    counts = data.counts()
    names = data.truth.names
    missing = [name for name, count in zip(names, counts.tolist(), strict=True) if not count]
    present = len(names) - len(missing)
    if present == 1:
        only = names[int(counts.argmax())]
        text = f"{where}: all {len(data)} images are of class {only}: there is nothing to distinguish."
        return [Finding("one class", text, error=True)]
    if not missing:
        return []
    shown = listed(missing, SHOWN)
    return [
        Finding(
            "absent",
            f"{where}: {len(missing)} of {len(names)} classes have no image: {shown}. Are all folders of "
            "classes filled, and named alike in all parts of the data set?",
        )
    ]


def inspect(data: ClassDataset, where: str) -> set[str]:
    """Read a sample of the images; warn of what is probably wrong.

    Args:
        data: the data set.
        where: its name in messages.

    Returns:
        The kinds of the findings that were warned of.

    Raises:
        DataError: an image cannot be read, or all are of one class.
    """
    count = min(SAMPLE, len(data))
    for i in range(count):
        data.images.read(round(i * (len(data) - 1) / max(1, count - 1)))
    return report(findings(data, where))


@dataclass
class Sizes:
    """Sizes (width, height) of the images read so far.

    Attributes:
        least: the one of the fewest pixels.
        most: of the most pixels.
    """

    least: tuple[int, int] | None = None
    most: tuple[int, int] | None = None

    def add(self, size: tuple[int, int]) -> None:
        """One more image."""
        pixels = size[0] * size[1]
        if self.least is None or pixels < self.least[0] * self.least[1]:
            self.least = size
        if self.most is None or pixels > self.most[0] * self.most[1]:
            self.most = size

    def __str__(self) -> str:
        if self.least is None or self.most is None:
            return "no image"
        least, most = (f"{width}x{height}" for width, height in (self.least, self.most))
        return least if least == most else f"{least} to {most}"
