"""Pictures of what happens inside a network, with findings: what `binarize.inspect` adds to a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from binarize.inspect.inspection import Settings, Skipped, inspect_networks
from binarize.inspect.subject import load_subjects
from binarize.report.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Insight:
    """One picture.

    Attributes:
        title: a few words.
        picture: a file, for a light page.
        dark: the same for a dark page; None for a picture whose own background is light.
        narrow: the same for a phone: a file for a light page, and one for a dark page.
        form: of the files.
        findings: sentences.
        warnings: sentences on what is probably wrong.
    """

    title: str
    picture: bytes
    dark: bytes | None = None
    narrow: tuple[bytes, bytes] | None = None
    form: Literal["png", "svg"] = "png"
    findings: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def insights(
    subject: Subject, root: Path | None, split: str | None, images: int, watch: Callable[[str, int], Any]
) -> Iterator[Insight | str]:
    """What the analyses of `binarize.inspect` find in a network; a sentence for each that does not fit it.

    Args:
        subject: the network.
        root: folder of its data set.
        split: part of it.
        images: how many to use.
        watch: shows progress (`binarize.inspect.inspection.Settings`).

    Raises:
        DataError: data that is missing or wrong.
    """
    loaded = [(subject.recipe, subject.model)]
    label = subject.recipe.method.name if subject.recipe.method else "float"
    chosen = ("entropy", "parameters", "maps", "weights", "bypass", "gradients")
    found = load_subjects([subject.file], [label], loaded, root=root, split=split, images=images)
    for section in inspect_networks(found, chosen, Settings(watch=watch)):
        if isinstance(section, Skipped):
            yield f"{section.analysis}: {section.reason}"
        else:
            yield Insight(
                title=section.title,
                picture=section.picture(clear=True),
                dark=section.picture(clear=True, dark=True),
                narrow=(
                    section.picture(clear=True, narrow=True),
                    section.picture(clear=True, dark=True, narrow=True),
                ),
                findings=tuple(map(str, section.findings)),
                warnings=tuple(map(str, section.warnings)),
            )
