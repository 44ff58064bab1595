"""A cache that is emptied when it is full."""

from __future__ import annotations

import copy
import pickle

from binarize.bounded_cache import BoundedCache


def test_it_never_holds_more() -> None:
    cache: BoundedCache[int, str] = BoundedCache(3)
    for number in range(10):
        assert cache.keep(number, str(number)) == str(number)
        assert cache[number] == str(number)
        assert len(cache) <= 3
    assert cache.get(0) is None


def test_copies_have_the_same_bound() -> None:
    cache: BoundedCache[int, int] = BoundedCache(2)
    cache.keep(1, 1)
    for again in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert again == {1: 1}
        assert again.most == 2
