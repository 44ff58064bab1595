"""`binarize data check` for classification: images of each class, sizes, what cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from binarize.cli.output import counted, progress_bar, say, tell
from binarize.errors import BinarizeError, DataError, listed, warn

if TYPE_CHECKING:
    from binarize.data.classes import ClassDataset

_SHOWN = 10


def check_classes(name: str, parts: Mapping[str, ClassDataset]) -> None:
    """Read every image, and print what the parts hold.

    Args:
        name: of the data set.
        parts: by the name of the split, each through its transform.

    Raises:
        DataError: images that cannot be read, or a part of one class only; the first ones are named.
    """
    from binarize.data.class_survey import Sizes, findings

    faults: list[str] = []
    sizes = {split: Sizes() for split in parts}
    with progress_bar("{task.description}", counts=True, transient=False) as progress:
        for split, part in parts.items():
            for index in progress.track(range(len(part)), description=split):
                try:
                    image = part.images.read(index)
                    sizes[split].add((image.shape[-1], image.shape[-2]))
                    _ = part[index]
                except DataError as error:
                    faults.append(str(error))
                except BinarizeError as error:  # the error of a transform does not name the file
                    faults.append(f"{part.name(index)}: {error}")
    for split, part in parts.items():
        say(f"{split}: {_described(part)}, {sizes[split]} (width x height)")
        for finding in findings(part, f"{name} {split}"):
            if finding.error:
                faults.append(finding.message)
            else:
                warn(finding.message)
    if faults:
        more = f"\n... and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise DataError(f"{len(faults)} are wrong:\n" + "\n".join(faults[:_SHOWN]) + more)
    tell("all can be read, and every image has a class")


def _described(part: ClassDataset) -> str:
    """Images and classes, and which have the fewest and the most."""
    counts = part.counts()
    names = part.truth.names
    least, most = int(counts.min()), int(counts.max())
    text = f"{counted(len(part), 'image')} of {len(names)} classes"
    if least == most:
        return f"{text}, {least} of each"
    few, many = (
        [n for n, c in zip(names, counts.tolist(), strict=True) if c == end] for end in (least, most)
    )
    return f"{text}, from {least} ({listed(few, 3)}) to {most} ({listed(many, 3)})"
