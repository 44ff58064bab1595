"""Guessing how the names of images and truths differ."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from string import ascii_letters

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
            if image != truth:
                yield from _namings(image, truth)


def _like(image: str, truths: Sequence[str]) -> Iterable[str]:
    """The truths that may belong to an image, if all are too many to compare."""
    if len(truths) <= _TRUTHS:
        return truths
    numbers = sorted(re.findall(r"\d+", image), key=len)
    part = numbers[-1] if numbers else image
    return [t for t in truths if part in t][:_TRUTHS] or truths[:_TRUTHS]


def _namings(image: str, truth: str) -> Iterator[Naming]:
    """By the longest part that both have; separators at its ends belong to the form, and maybe letters."""
    found = SequenceMatcher(None, image, truth, autojunk=False).find_longest_match()
    shared = image[found.a : found.a + found.size]
    for chars in ("_-. ", "_-. " + ascii_letters):  # img1 and seg1 share g1, but mean 1
        begins = found.size - len(shared.lstrip(chars)) if found.a or found.b else 0
        after = image[found.a + found.size :] or truth[found.b + found.size :]
        ends = len(shared.rstrip(chars)) if after else found.size
        if begins >= ends:
            continue
        names = ((image, found.a), (truth, found.b))
        one, two = (f"{text[: at + begins]}{{}}{text[at + ends :]}" for text, at in names)
        if one.count("{}") == 1 and two.count("{}") == 1:  # no name that holds {} itself
            yield Naming(image=one, truth=two)


def _rank(naming: Naming, images: Sequence[str], truths: Sequence[str]) -> tuple[float, ...]:
    """Pairs found; then words of the truths' form that speak for it; then short forms."""
    keys = {naming.truth_key(name): name for name in truths}
    keys.pop(None, None)
    taken = set(keys.values()) if naming.truth != "{}" else set()
    pairs = sum(1 for name in images if name not in taken and naming.image_key(name) in keys)
    form = naming.truth.lower()
    good = max((len(_GOOD) - i for i, word in enumerate(_GOOD) if word in form), default=0)
    bad = sum(word in form for word in _BAD)
    halved = any(_halved(naming.image, naming.image_key(name)) for name in images[:_IMAGES])
    return pairs, -bad, good, -halved, -len(naming.image) - len(naming.truth)


def _halved(form: str, key: str | None) -> bool:
    """Whether a name is cut between two letters: `im{}` for `img1`."""
    before = form.partition("{}")[0]
    return key is not None and before[-1:].isalpha() and key[:1].isalpha()
