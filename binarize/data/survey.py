"""Checking what the truths of a data set hold, before training.

A wrong unit of depth, masks of 0 and 255 or rotated pictures cause no error in training: the loss is 0.0000,
or the network learns something wrong. This module finds and names them, from a sample of the files or from
all.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch

from binarize.data.dataset import IGNORE, DenseDataset, Depth, Labels, sizes_differ
from binarize.data.depth_unit import DepthValues
from binarize.data.findings import FEW, OUTSIDE, SHOWN, Finding, absent, class_name, report
from binarize.data.reading import Head, read_depth_values, read_head, read_image_values, read_labels
from binarize.errors import DataError

SAMPLE = 32
"""Number of pairs that are read before training or evaluation."""


class Survey:
    """Counts over pairs of files.

    Args:
        data: the data set to check.
    """

    def __init__(self, data: DenseDataset) -> None:
        self.data = data
        self.pairs = self.pixels = self.known = 0
        self.counts = torch.zeros(IGNORE + 1, dtype=torch.int64)
        self.values: set[int] = set()
        self.sizes: Counter[tuple[int, int]] = Counter()  # (width, height) of the images
        self.deep = 0  # pixels with a depth, whether it counts or not
        self.depth = DepthValues(data.truth) if isinstance(data.truth, Depth) else None
        self._turned: list[tuple[Path, Head, Head]] = []
        self._dark: list[tuple[Path, int, int]] = []  # path, largest value, white
        self._bright = False

    def add(self, index: int) -> None:
        """Read one pair and count.

        Raises:
            DataError: a file cannot be read, or a mask holds a value that is not a class.
        """
        pair, truth = self.data.pairs[index], self.data.truth
        if pair.target is None:
            target = self.data.target(index)
        elif isinstance(truth, Labels):
            values = read_labels(pair.target)
            self.values |= set(values.unique().tolist())
            target = truth.ids(values, pair.target)
        else:
            stored = read_depth_values(pair.target)
            target = torch.from_numpy(stored.astype(np.float32) / np.float32(truth.scale))
            if self.depth is not None:
                self.depth.add(stored)
        if pair.target is not None:
            self._look(pair.image, pair.target)
        self.pairs += 1
        self.pixels += target.numel()
        if isinstance(truth, Labels):
            self.counts += torch.bincount(target.flatten(), minlength=IGNORE + 1)
            self.known = int(self.counts[:IGNORE].sum())
        else:
            self.known += int(((target > truth.least) & (target <= truth.most)).sum())
            self.deep += int((target > 0).sum())

    def _look(self, image: Path, target: Path) -> None:
        head, other = read_head(image), read_head(target)
        self.sizes[head.size] += 1
        if head.size != other.size:
            raise sizes_differ(image, head.size, target, other.size)
        if head.orientation != other.orientation:
            self._turned.append((image, head, other))
        if head.white and not self._bright:  # one image that uses its range is enough: the dark ones may, too
            stored = (head.mode in ("L", "RGB") or head.white > 255) and head.stretched is None
            largest = int(read_image_values(image).max(initial=0)) if stored else head.white
            if largest > head.white // 16:
                self._bright = True
            elif largest:  # a black picture does not show its white
                self._dark.append((image, largest, head.white))

    @property
    def classes(self) -> int:
        """How many classes occur."""
        return int((self.counts[:IGNORE] > 0).sum())

    def findings(self, where: str, *, complete: bool, trained: bool = False) -> list[Finding]:
        """What is wrong with the pairs read so far.

        Args:
            where: the name of the data in messages: "camvid train".
            complete: whether all pairs were read.
            trained: whether a network is to learn all classes from them.
        """
        truth = self.data.truth
        found = [self._nothing(where), self._few(where), self._unit(where) or self._outside(where)]
        found.append(self._one_class(where, complete))
        found += [self._orientation(where), self._darkness(where)]
        if trained and complete and isinstance(truth, Labels) and self.pairs:
            found.append(absent(truth, self.counts, where))
        return [finding for finding in found if finding is not None]

    def _seen(self) -> str:
        """What the truths hold, as text for messages."""
        if self.depth is not None:
            return self.depth.seen()
        shown = [str(v) for v in sorted(self.values)[:SHOWN]]
        more = ", ..." if len(self.values) > SHOWN else ""
        return f"their values are {', '.join(shown)}{more}" if shown else "they hold no value"

    def _nothing(self, where: str) -> Finding | None:
        truth = self.data.truth
        if self.known or not self.pairs:
            return None
        if isinstance(truth, Labels):
            ignored = ", ".join(str(v) for v in truth.ignored) or "none"
            text = (
                f"{self._seen()}, all of which are ignored (ignored: {ignored}). Class ids are 0 to "
                f"{len(truth.names) - 1}; see data.options.ignored and labels"
            )
        else:
            text = f"{self._seen()}{self.depth.remedy() if self.depth is not None else ''}"
        return Finding(
            "nothing", f"{where}: not one pixel of {self._images()} has a truth: {text}.", error=True
        )

    def _few(self, where: str) -> Finding | None:
        if not self.known or self.known >= FEW * self.pixels:
            return None
        remedy = self.depth.remedy() if self.depth is not None else ""
        share = f"{100 * self.known / self.pixels:.2g} %"
        return Finding(
            "few",
            f"{where}: only {share} of the pixels of {self._images()} have a truth: {self._seen()}{remedy}.",
        )

    def _unit(self, where: str) -> Finding | None:
        if (
            self.depth is None
            or not self.known
            or self.known < FEW * self.pixels
            or not self.depth.doubtful()
        ):
            return None
        return Finding("unit", f"{where}: {self.depth.seen()}{self.depth.remedy()}.")

    def _outside(self, where: str) -> Finding | None:
        truth = self.data.truth
        if not isinstance(truth, Depth) or not self.known or self.known < FEW * self.pixels:
            return None
        if self.depth is None or self.deep - self.known <= OUTSIDE * self.deep:
            return None
        return Finding(
            "outside",
            f"{where}: {100 * (1 - self.known / self.deep):.2g} % of the depths do not count: "
            f"{self.depth.seen()}. A larger `max_depth` (data.options) would let them; if one value stands "
            "for unknown depths, they do well to be left out.",
        )

    def _one_class(self, where: str, complete: bool) -> Finding | None:
        truth = self.data.truth
        present = self.counts[:IGNORE].nonzero().flatten().tolist()
        if not isinstance(truth, Labels) or len(present) != 1:
            return None
        ignored = sorted(self.values & set(truth.ignored))
        text = f"{where}: {self._images()} hold class {class_name(present[0], truth.names)} only"
        if ignored and len(truth.names) == 2 and complete:
            value = next(iter(self.values - set(ignored)), 0)
            other = 1 - present[0]
            pairs = ", ".join(f"{v}: {c}" for c, v in sorted([(present[0], value), (other, ignored[0])]))
            return Finding(
                "one class",
                f"{text}, and {ignored[0]}, which is ignored: there is nothing to learn. If {ignored[0]} "
                f"stands for class {class_name(other, truth.names)}, say so: `labels: {{{pairs}}}` in "
                "data.options (data set folder).",
                error=True,
            )
        also = f", besides {', '.join(map(str, ignored))}, which is ignored" if ignored else ""
        if not complete:
            return None
        return Finding(
            "one class",
            f"{text}{also}: there is nothing to distinguish. Do the masks hold what they should? See "
            "data.options.labels for values that stand for other classes.",
        )

    def _orientation(self, where: str) -> Finding | None:
        if not self._turned:
            return None
        path, head, other = self._turned[0]
        lies = (head.orientation >= 5) != (other.orientation >= 5)  # one of them, as it is stored
        sizes = "their sizes fit" if lies and len(set(head.size)) == 2 else "their sizes do not decide"
        return Finding(
            "turned",
            f"{where}: the EXIF tags of {len(self._turned)} of {self._images()} differ from those of their "
            f"truths, first {path}: the image has orientation {head.orientation}, the truth "
            f"{other.orientation}, where 1 stays as it is and others are turned upright; {sizes}. Check that "
            "they cover each other (`binarize predict --panel --truth`); else turn one, or remove the "
            "tag.",
        )

    def _darkness(self, where: str) -> Finding | None:
        if not self._dark or self._bright:
            return None
        path, largest, white = max(self._dark, key=lambda seen: seen[1])
        likely = next(value for value in (1, 15, 255, 4095) if largest <= value)
        return Finding(
            "dark",
            f"{where}: no value of {len(self._dark)} images is above {largest} ({path}), of {white} that "
            f"stand for white: the network sees them nearly black. If their white is {likely}, scale the "
            f"files to the full {white.bit_length()} bits.",
        )

    def _images(self) -> str:
        return f"{self.pairs} image{'s' * (self.pairs != 1)}"


def inspect(data: DenseDataset, where: str) -> set[str]:
    """Read a sample of the pairs, or all of them if the sample is suspicious; warn of the findings.

    Args:
        data: of files; drawn images need no check.
        where: its name in messages: "camvid train".

    Returns:
        The kinds of the findings that were warned of.

    Raises:
        DataError: a file is wrong, or nothing can be learned from this data.
    """
    survey = Survey(data)
    if not has_files(data):
        return set()
    order = [i for i in _spread(len(data)) if data.pairs[i].target is not None]
    for index in order[:SAMPLE]:
        survey.add(index)
    for index in order[SAMPLE:]:
        if survey.known and (isinstance(data.truth, Depth) or survey.classes > 1):
            break
        survey.add(index)
    return report(survey.findings(where, complete=survey.pairs == len(order)))


def has_files(data: DenseDataset) -> bool:
    """Whether samples are read from the pairs' files; a subclass may draw them, or have other files."""
    return type(data).load is DenseDataset.load and type(data).target is DenseDataset.target


def nothing(data: DenseDataset, where: str, seen: str) -> DataError:
    """The error for truths without a single pixel that counts.

    Args:
        data: the data set.
        where: its name.
        seen: the step that changed the truths before they were counted: "data.augmentation".
    """
    if not isinstance(data, DenseDataset):  # of the caller's, whom its own files concern
        return DataError(f"{where}: not one pixel has a truth.")
    survey = Survey(data)
    for index in _spread(len(data))[:SAMPLE] if has_files(data) else ():
        survey.add(index)
    for finding in survey.findings(where, complete=survey.pairs == len(data)):
        if finding.error:
            return DataError(finding.message)
    return DataError(
        f"{where}: not one pixel has a truth after {seen}; does it cut off the labelled part of the files?"
    )


def _spread(length: int) -> list[int]:
    """All indices, the first `SAMPLE` of them evenly spread over the data set."""
    count = min(SAMPLE, length)
    first = dict.fromkeys(round(i * (length - 1) / max(1, count - 1)) for i in range(count))
    return [*first, *(i for i in range(length) if i not in first)]
