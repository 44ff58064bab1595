"""Networks of the libraries beside timm, as subjects of the checks."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from binarize.coverage.libraries.network import Given, Network
from binarize.coverage.subjects import Subject, Use, count_convolutions, layout, subjects, tensors, versions
from binarize.errors import ConfigError, near_names, unknown_name

DISTRIBUTIONS = {
    "smp": "segmentation-models-pytorch",
    "torchvision": "torchvision",
    "transformers": "transformers",
}
"""Libraries with a catalogue, and what is installed for each."""


@dataclass(frozen=True, kw_only=True)
class CatalogueSubject(Subject):
    """A network of a catalogue; small enough to be always run with real numbers."""

    @property
    def network(self) -> Network:
        """Its entry."""
        return catalogue(self.library)[self.name]

    @property
    def catalogued(self) -> bool:
        """Always."""
        return True

    @property
    def most(self) -> int:
        """Few images: the last maps of these networks have several pixels at their smallest size."""
        return 4

    @property
    def family(self) -> str:
        """What it predicts."""
        return self.network.task

    @property
    def heads(self) -> tuple[str, ...]:
        """See `Network`."""
        return self.network.heads

    @property
    def beside(self) -> tuple[str, ...]:
        """See `Network`."""
        return self.network.beside

    @property
    def idle(self) -> tuple[str, ...]:
        """See `Network`."""
        return self.network.idle

    def versions(self) -> dict[str, str]:
        """Versions, also of its library."""
        return versions(DISTRIBUTIONS[self.library])

    def build(self) -> nn.Module:
        """The float network, with random weights."""
        return self.network.build()

    def shell(self) -> nn.Module:
        """The same network: many constructors of these networks need the values of their tensors."""
        return self.build()

    def rebuilt(self) -> nn.Module:
        """The float network, of a class that `binarize.load` cannot build."""
        return self.build()

    def measure(self) -> tuple[int, int]:
        """How many parameters and convolutions it has."""
        return _measure(self.library, self.name)

    def sizes(self, shell: nn.Module, model: nn.Module, batch: int) -> tuple[tuple[int, ...], ...]:
        """(C, H, W) as the entry has them."""
        return tuple((self.network.channels, *size) for size in self.network.sizes)

    def example(self, size: tuple[int, ...]) -> Given:
        """Two images, and other inputs that the forward takes."""
        return self.network.example((size[1], size[2]))

    def feed(self, images: Tensor, training: bool) -> Given:
        """See `Feed`."""
        return self.network.feed(images, training)

    def of_first(self, output: Any) -> list[Tensor]:
        """The part of an output that belongs to the first image."""
        for index in self.network.first:
            output = output[index]
        if self.network.first:
            return tensors(output)
        if self.network.only:
            output = [output[name] for name in self.network.only]
        return [tensor[:1] for tensor in tensors(output)]

    def layout(self, output: Any) -> str:
        """The structure of an output, with shapes if they do not depend on the weights."""
        return layout(output, shapes=not self.network.counted)


@functools.cache
def _measure(library: str, name: str) -> tuple[int, int]:
    model = catalogue(library)[name].build()
    return sum(parameter.numel() for parameter in model.parameters()), count_convolutions(model)


@functools.cache
def catalogue(library: str) -> dict[str, Network]:
    """The networks of a library, by name.

    Raises:
        ConfigError: for an unknown library, or one that cannot be imported.
    """
    if library not in DISTRIBUTIONS:
        raise ConfigError(unknown_name("library with a catalogue", library, DISTRIBUTIONS))
    try:
        module = importlib.import_module(f"binarize.coverage.libraries.{library}")
    except ImportError as error:
        raise ConfigError(
            f"--library {library}: {DISTRIBUTIONS[library]} cannot be imported ({error}); "
            f"pip install {DISTRIBUTIONS[library]}, or 'binarize[coverage]' for all libraries."
        ) from error
    return {network.name: network for network in module.NETWORKS}


def subject(name: str, use: Use, library: str) -> Subject:
    """The subject with these names, which must exist."""
    if library == "timm":
        return Subject(name=name, use=use)
    return CatalogueSubject(name=name, use=use, library=library)


def chosen(libraries: Sequence[str], patterns: Sequence[str], uses: Sequence[Use]) -> list[Subject]:
    """The networks of these libraries whose names match one of the globs (all without any).

    Args:
        libraries: `timm`, or of `DISTRIBUTIONS`.
        patterns: globs; each must match in at least one of the libraries.
        uses: of timm's models; those of catalogues are taken as they are.

    Raises:
        ConfigError: for an unknown library, one that is not installed, or a glob that matches none.
    """
    for library in libraries:
        if library not in ("timm", *DISTRIBUTIONS):
            raise ConfigError(unknown_name("library", library, ("timm", *DISTRIBUTIONS)))
    if tuple(libraries) == ("timm",):
        return [each for use in uses for each in subjects(patterns, use)]
    names = {library: _names(library) for library in dict.fromkeys(libraries)}
    known = [name for some in names.values() for name in some]
    for glob in patterns:
        if not any(fnmatchcase(name, glob) for name in known):
            near = near_names(glob, known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"for example {', '.join(known[:3])}."
            where = ", ".join(names)
            raise ConfigError(
                f"--pattern {glob!r} matches none of the {len(known)} networks of {where}; {hint}"
            )
    return [
        subject(name, use, library)
        for library, some in names.items()
        for use in (uses if library == "timm" else ("model",))
        for name in some
        if not patterns or any(fnmatchcase(name, glob) for glob in patterns)
    ]


def _names(library: str) -> list[str]:
    return [each.name for each in subjects()] if library == "timm" else list(catalogue(library))
