"""Names of recipes and what they are about, as lines of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping


def listing(abouts: Mapping[str, str], *, group: str) -> Iterator[str]:
    """Lines: a heading for those that are about the same, and each recipe.

    Args:
        abouts: the line `about` of each recipe, by its name.
        group: heading of those that have a line of their own.
    """
    width = max(map(len, abouts))
    counts = Counter(abouts.values())
    heading = ""
    for name, about in abouts.items():
        shared = counts[about] > 1 and about != ""
        if not heading or (shared and about != heading):
            heading = about if shared else group
            yield f"{heading}:"
        yield f"  {name}" if shared else f"  {name:{width}}  {about}".rstrip()
