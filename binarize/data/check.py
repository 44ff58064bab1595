"""All splits of a data set, read whole: what they hold, and what is wrong or doubtful in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from binarize.data.dataset import IGNORE, DenseDataset, Labels
from binarize.data.files import IMAGES
from binarize.data.findings import SHOWN, class_name
from binarize.data.overlap import shared_images
from binarize.data.survey import Survey, has_files
from binarize.errors import ConfigError, DataError, listed


@dataclass(kw_only=True)
class SplitCheck:
    """One split.

    Attributes:
        name: of the split.
        data: its samples.
        where: what to call it in messages: "camvid train".
        trained: whether a network learns from it.
        survey: counts over the files.
        shown: how many samples have which (height, width) when the network sees them.
        faults: files that cannot be used.
    """

    name: str
    data: DenseDataset
    where: str
    trained: bool
    survey: Survey = field(init=False)
    shown: Counter[tuple[int, int]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.survey = Survey(self.data)

    def add(self, index: int) -> None:
        """Read one sample as the network would see it, and its files."""
        try:
            sample = self.data[index]
            self.shown[sample.image.shape[-2], sample.image.shape[-1]] += 1
            if has_files(self.data) or self.data.pairs[index].target is None:  # drawn
                self.survey.add(index)
        except DataError as error:
            self.faults.append(str(error))
        except ConfigError as error:  # the error of a transform does not name the file
            self.faults.append(f"{self.data.pairs[index].image}: {error}")

    def findings(self) -> tuple[list[str], list[str]]:
        """Errors and warnings on the whole split."""
        found = self.survey.findings(self.where, complete=True, trained=self.trained)
        warnings = [finding.message for finding in found if not finding.error]
        return [finding.message for finding in found if finding.error], warnings + list(self._hidden())

    def _hidden(self) -> Iterable[str]:
        """Hidden files with the endings of images, which nothing reads."""
        folders = {path.parent for pair in self.data.pairs for path in pair if path is not None}
        for folder in sorted(path for path in folders if path.is_dir()):
            found = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in IMAGES)
            if names := [name for name in found if name.startswith(".")]:
                yield f"{folder}: {len(names)} hidden files are left out: {listed(names, 3)}."

    def facts(self) -> dict[str, Any]:
        """What the split holds, as plain values: sizes, shares of classes or depths in metres."""
        truth, survey = self.data.truth, self.survey
        sizes = {f"{height}x{width}": n for (width, height), n in survey.sizes.most_common()}
        sizes = sizes or {f"{height}x{width}": n for (height, width), n in self.shown.most_common()}
        found: dict[str, Any] = {"images": len(self.data), "sizes": sizes}
        if not survey.pairs or not survey.pixels:
            return found
        found["valid"] = survey.known / survey.pixels
        if isinstance(truth, Labels):
            counts = survey.counts[: len(truth.names)].tolist()
            total = max(1, sum(counts))
            found["classes"] = {name: n / total for name, n in zip(truth.names, counts, strict=True)}
            found["ignored"] = int(survey.counts[IGNORE]) / survey.pixels
        elif survey.depth is not None:
            found["depth"] = survey.depth.metres()
        return found


def between_splits(splits: Mapping[str, SplitCheck], trained: str) -> list[str]:
    """Warnings on splits together: classes that only the training split has, images in two splits."""
    warnings = []
    one = splits.get(trained)
    if one is None:
        return []
    for split in splits.values():
        if split is one:
            continue
        warnings += [text for text in (_absent(one, split),) if text]
        shared = shared_images(one.data, split.data, (one.where, split.where))
        warnings += [shared.message] if shared is not None else []
    return warnings


def _absent(one: SplitCheck, other: SplitCheck) -> str:
    """Classes that are learned, and that this split cannot measure."""
    truth = one.data.truth
    if not isinstance(truth, Labels) or not one.survey.known or not other.survey.known:
        return ""
    here, there = one.survey.counts, other.survey.counts
    missing = [i for i in range(len(truth.names)) if here[i] and not there[i] and i not in truth.unscored]
    if not missing:
        return ""
    names = listed((class_name(i, truth.names) for i in missing), SHOWN)
    return f"{other.where}: classes that {one.name} has occur nowhere: {names}. Their IoU cannot be measured."
