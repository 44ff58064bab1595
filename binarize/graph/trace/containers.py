"""Contents of attributes, dicts, lists, sets and deques: compared by identity, and restored."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any


def same_attributes(held: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether an object's `__dict__` holds the same objects under the same names as before."""
    return len(held) == len(before) and all(held.get(n, held) is v for n, v in before.items())


def same_content(container: Any, before: Any) -> bool:
    """Whether a container still holds its noted content: the items of a dict, the elements of others."""
    if len(container) != len(before):
        return False
    if isinstance(container, dict):
        pairs = zip(container.items(), before, strict=True)
        return all(m is n and v is w for (m, v), (n, w) in pairs)
    if isinstance(container, set):
        return container == set(before)
    return all(m is n for m, n in zip(container, before, strict=True))


def refill(container: Any, before: Any) -> None:
    """Restore the content of a container, without calling its class, which may react to changes."""
    if isinstance(container, dict):
        kind: Any = OrderedDict if isinstance(container, OrderedDict) else dict
        kind.clear(container)
        for name, value in before:
            kind.__setitem__(container, name, value)
    elif isinstance(container, set):
        set.clear(container)
        set.update(container, before)
    else:
        kind = deque if isinstance(container, deque) else list
        kind.clear(container)
        kind.extend(container, before)


def same_items(a: Any, b: Any) -> bool:
    """Whether two lists, dicts or sets hold the same objects; tensors are not compared by value."""
    return same_content(a, list(b.items()) if isinstance(b, dict) else b)
