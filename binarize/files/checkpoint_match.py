"""Which tensors of a checkpoint are those of a model: under which entry, behind which prefix."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from binarize.errors import FormatError
from binarize.files.checkpoint_entries import Entries

# Entries that training scripts put weights under, the likelier first.
_ENTRIES = ("state_dict", "model_state_dict", "model", "net", "network", "params", "weights", "module")
# Prefixes that wrappers and training scripts put in front of names.
_PREFIXES = ("module", "_orig_mod", "model", "net", "network", "backbone", "encoder")
_LEAST = 1 / 3  # of the model's names have to stand behind a prefix
_AVERAGED = re.compile(r"(^|[._])(ema|swa)([._]|$)|averag")
# What wrappers put into the middle of names.
_WRAPPED = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


@dataclass(frozen=True, kw_only=True)
class Match:
    """Tensors of a file as a model calls them.

    Attributes:
        entry: of the file that they stand in, "" for the file itself.
        prefix: taken off every name.
        tensors: by the model's names; what else stands behind the prefix keeps its own.
        beside: how many tensors of the entry stand outside of the prefix.
        hits: how many of the model's names are there.
    """

    entry: str
    prefix: str
    tensors: dict[str, Tensor]
    beside: int
    hits: int


def find_match(entries: Entries, expected: Collection[str], where: str, *, loose: bool = False) -> Match:
    """The entry and the prefix with the most names of a model.

    Averaged weights come first where several fit alike, then entries and prefixes that are known.

    Args:
        entries: of the file.
        expected: names of the model's tensors.
        where: what to call the file in messages.
        loose: take `stages_0` and `stages.0` for one name, which timm's encoders without a head change.

    Raises:
        FormatError: several fit alike, and nothing tells which is meant.
    """
    names = {_loose(name) if loose else name: name for name in expected}
    found: list[tuple[int, str, str]] = []
    for entry, tensors in entries.items():
        counts: Counter[str] = Counter()
        for name in tensors:
            plain = _plain(name, loose)
            starts = [0, *(m.end() for m in re.finditer(r"\.", plain))]
            counts.update(plain[:at] for at in starts if plain[at:] in names)
        found += [(hits, entry, prefix) for prefix, hits in counts.items()]
    if not found or max(found)[0] < _LEAST * len(names):
        # a few names that end alike say nothing: what stands in the file as it is
        entry = max(entries, key=lambda e: (len(names.keys() & entries[e].keys()), len(entries[e])))
        return _taken(entries[entry], entry, "", names, len(names.keys() & entries[entry].keys()), loose)
    most = max(hits for hits, _, _ in found)
    ranked = sorted((_rank(entry, prefix), entry, prefix) for hits, entry, prefix in found if hits == most)
    (best, entry, prefix), *others = ranked
    if others and others[0][0] == best and most == len(names):
        both = " and ".join(repr(f"{e}.{p}".strip(".")) for _, e, p in ranked[:3])
        raise FormatError(
            f"checkpoint {where}: {both} all fit this model; which is meant? Write the right one to a file "
            "of its own, with torch.save."
        )
    return _taken(entries[entry], entry, prefix, names, most, loose)


def _taken(
    tensors: Mapping[str, Tensor], entry: str, prefix: str, names: Mapping[str, str], hits: int, loose: bool
) -> Match:
    taken: dict[str, Tensor] = {}
    shown = prefix
    for name, tensor in tensors.items():
        plain = _plain(name, loose)
        if not plain.startswith(prefix):
            continue
        own = names.get(plain[len(prefix) :])
        if own is not None and name.endswith(own):
            shown = name[: -len(own)]
        taken[own if own is not None else plain[len(prefix) :]] = tensor
    return Match(entry=entry, prefix=shown, tensors=taken, beside=len(tensors) - len(taken), hits=hits)


def _rank(entry: str, prefix: str) -> tuple[bool, bool, int]:
    """The smaller, the likelier."""
    words = [*filter(None, entry.split(".")), *filter(None, prefix.split("."))]
    averaged = any(_AVERAGED.search(word) for word in words)
    known = all(w in _ENTRIES or w in _PREFIXES or _AVERAGED.search(w) for w in words)
    places = [_ENTRIES.index(w) if w in _ENTRIES else len(_ENTRIES) for w in filter(None, entry.split("."))]
    return not averaged, not known, places[0] if places else -1


def _plain(name: str, loose: bool) -> str:
    """A name without what wrappers put into its middle."""
    head = _WRAPPED.match(name)
    plain = (head[0] if head else "") + _WRAPPED.sub("", name)
    return _loose(plain) if loose else plain


def _loose(name: str) -> str:
    return name.replace("_", ".")
