"""Guessing how the names of images and truths differ."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher

from binarize.data.pairing import Naming

_IMAGES = 6  # images whose truths are looked for among all names
_TRUTHS = 300  # names that are compared letter by letter
_KEPT = 40  # guesses that are tried on all names
_GOOD = ("trainids", "labelids", "labels", "label", "mask", "seg", "gt", "depth", "annot")
_BAD = ("color", "colour", "instance", "poly", "vis", "overlay", "preview", "edge", "bound")


def guess_naming(images: Sequence[str], truths: Sequence[str], *, together: bool = False) -> Naming:
    """The forms of both names with which most images find a truth.

    Args:
        images: names of the images, without folder and ending.
        truths: of the truths.
        together: whether these are the same files, images and truths in one folder.
    """
    plain = Naming()
    if not together and set(images) <= set(truths):
        return plain
    tried = Counter(_guesses(images, truths))
    best = [plain] if not together else []
    best += [naming for naming, _ in tried.most_common(_KEPT)]
    return max(best, key=lambda n: _rank(n, images, truths), default=plain)


def _guesses(images: Sequence[str], truths: Sequence[str]) -> Iterator[Naming]:
    step = max(1, len(images) // _IMAGES)
    for image in images[::step]:
        for truth in _like(image, truths):
            if image != truth and (naming := _naming(image, truth)) is not None:
                yield naming


def _like(image: str, truths: Sequence[str]) -> Iterable[str]:
    """The truths that may belong to an image, if all are too many to compare."""
    if len(truths) <= _TRUTHS:
        return truths
    numbers = sorted(re.findall(r"\d+", image), key=len)
    part = numbers[-1] if numbers else image
    return [t for t in truths if part in t][:_TRUTHS] or truths[:_TRUTHS]


def _naming(image: str, truth: str) -> Naming | None:
    """By the longest part that both have; separators at its ends belong to the form."""
    found = SequenceMatcher(None, image, truth, autojunk=False).find_longest_match()
    shared = image[found.a : found.a + found.size]
    inner = shared.strip("_-. ")
    if not inner:
        return None
    begin = found.size - len(shared.lstrip("_-. ")) if found.a or found.b else 0
    ends = image[found.a + found.size :] or truth[found.b + found.size :]
    stop = len(shared.rstrip("_-. ")) if ends else found.size
    forms = (
        text[: at + begin] + "{}" + text[at + stop :] for text, at in ((image, found.a), (truth, found.b))
    )
    one, two = forms
    if one.count("{}") != 1 or two.count("{}") != 1:  # a name that holds {} itself
        return None
    return Naming(image=one, truth=two)


def _rank(naming: Naming, images: Sequence[str], truths: Sequence[str]) -> tuple[float, ...]:
    """Pairs found; then words of the truths' form that speak for it; then short forms."""
    keys = {naming.truth_key(name): name for name in truths}
    keys.pop(None, None)
    taken = set(keys.values()) if naming.truth != "{}" else set()
    pairs = sum(1 for name in images if name not in taken and naming.image_key(name) in keys)
    form = naming.truth.lower()
    good = max((len(_GOOD) - i for i, word in enumerate(_GOOD) if word in form), default=0)
    bad = sum(word in form for word in _BAD)
    return pairs, -bad, good, -len(naming.image) - len(naming.truth)
