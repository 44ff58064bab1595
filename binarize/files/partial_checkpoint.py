"""Weights that fit a network in part, such as those of other classes: what fits, what does not, and why."""

from __future__ import annotations

import os
from dataclasses import dataclass

from torch import Tensor, nn

from binarize.errors import listed
from binarize.files.checkpoint_entries import read_entries
from binarize.files.checkpoint_match import find_match
from binarize.files.container import check_readable

_COUNTER = "num_batches_tracked"
_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class PartialMatch:
    """The tensors of a file that fit a network by name and shape, and all others by name.

    Attributes:
        tensors: those that fit, by the network's names.
        expected: how many the network has.
        shapes: names that both have, with the shapes in the file and in the network: `128x64 (19x64)`.
        missing: names that the file does not have.
        unexpected: names that the network does not have.
    """

    tensors: dict[str, Tensor]
    expected: int
    shapes: dict[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    @property
    def share(self) -> float:
        """Of the network's tensors, how many fit."""
        return len(self.tensors) / max(1, self.expected)

    def load_into(self, model: nn.Module) -> None:
        """Put those that fit into the network, in its own dtypes; the others stay as they are."""
        model.load_state_dict(self.tensors, strict=False)

    def __str__(self) -> str:
        parts = [f"{len(self.tensors)} of {self.expected} tensors fit"]
        if self.shapes:
            texts = [f"{name} is {shapes}" for name, shapes in self.shapes.items()]
            parts.append(f"{len(texts)} of another shape ({listed(texts, _SHOWN)})")
        for what, names in (
            ("missing in the file", self.missing),
            ("unknown to the network", self.unexpected),
        ):
            if names:
                parts.append(f"{len(names)} {what} ({listed(names, _SHOWN)})")
        return "; ".join(parts)


def match_in_part(model: nn.Module, path: str | os.PathLike[str], *, converted: bool = False) -> PartialMatch:
    """Compare a file with a network, whose weights stay as they are.

    Args:
        model: the network, float or converted.
        path: as of `load_checkpoint`.
        converted: also take the file of a converted network.

    Raises:
        ConfigError: there is no such file, or its name ends otherwise.
        FormatError: it cannot be read, or is packed.
    """
    where = repr(str(path))
    entries = read_entries(check_readable(path), where, converted=converted)
    own = model.state_dict()
    found = find_match(entries, own.keys(), where).tensors
    fitting = {n: t for n, t in found.items() if n in own and t.shape == own[n].shape}
    shapes = {
        n: f"{_shape(t)}, expected {_shape(own[n])}"
        for n, t in found.items()
        if n in own and n not in fitting
    }
    return PartialMatch(
        tensors=fitting,
        expected=sum(not n.endswith(_COUNTER) or n in found for n in own),
        shapes=shapes,
        missing=tuple(n for n in own if n not in found and not n.endswith(_COUNTER)),
        unexpected=tuple(n for n in found if n not in own),
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
