"""`binarize data check` for classification: images of each class, sizes, what cannot be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from binarize.cli.output import counted, print_json, progress_bar, say, tell
from binarize.errors import BinarizeError, DataError, listed, warn

if TYPE_CHECKING:
    from binarize.data.class_survey import Sizes
    from binarize.data.classes import ClassDataset

_SHOWN = 10


def check_classes(name: str, parts: Mapping[str, ClassDataset], *, as_json: bool = False) -> None:
    """Read every image, and print what the parts hold.

    Args:
        name: of the data set.
        parts: by the name of the split, each through its transform.
        as_json: print one JSON document instead.

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
    found = [finding for split, part in parts.items() for finding in findings(part, f"{name} {split}")]
    warnings = [finding.message for finding in found if not finding.error]
    faults += [finding.message for finding in found if finding.error]
    if as_json:
        splits = {split: _facts(part, sizes[split]) for split, part in parts.items()}
        print_json({"data": name, "splits": splits, "warnings": warnings, "errors": faults})
    else:
        for split, part in parts.items():
            say(f"{split}: {_described(part)}, {sizes[split]} (width x height)")
        for text in warnings:
            warn(text)
    refuse(faults)
    if not as_json:
        tell("all can be read, and every image has a class")


def refuse(faults: Sequence[str]) -> None:
    """Raise a DataError that names the first faults, if there are any."""
    if faults:
        more = f"\n... and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise DataError(f"{counted(len(faults), 'fault')}:\n" + "\n".join(faults[:_SHOWN]) + more)


def _facts(part: ClassDataset, sizes: Sizes) -> dict[str, Any]:
    """For JSON; sizes are (width, height)."""
    classes = dict(zip(part.truth.names, part.counts().tolist(), strict=True))
    return {"images": len(part), "classes": classes, "smallest": sizes.least, "largest": sizes.most}


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
