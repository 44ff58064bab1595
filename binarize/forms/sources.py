"""Which trained networks are compared, and the data that they are measured on."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from binarize import recipes
from binarize.comparison.table import labels
from binarize.data.samples import SampleDataset
from binarize.errors import ConfigError
from binarize.files import container, zoo
from binarize.recipes import TrainingRecipe
from binarize.training import saved
from binarize.training.build import dataset, network
from binarize.training.figures import ALL
from binarize.training.folder import BEST, MODEL, model_file, read_log
from binarize.training.metadata import read_recipe


@dataclass(frozen=True, kw_only=True)
class Source:
    """A network to measure.

    Attributes:
        place: how it was named: `zoo:camvid-float`, the folder of a run, its file, or a recipe.
        file: that holds it; None for an untrained network of a recipe, of which only size and time are
            measured.
        recipe: that it was trained by.
        figures: that are known from elsewhere; only of an untrained network.
    """

    place: str
    file: Path | None
    recipe: TrainingRecipe
    figures: dict[str, float] | None = None

    @property
    def title(self) -> str:
        """What names it in tables, without the folders above a run."""
        if self.place.startswith(zoo.PREFIX) or self.file is None:
            return self.place
        return self.file.parent.name if self.file.name in (MODEL, BEST) else self.file.name

    @property
    def data(self) -> str:
        """Data set and split that it is measured on."""
        return f"{self.recipe.data.name} {self.recipe.data.test}"

    def load(self, samples: SampleDataset) -> nn.Module:
        """The network, in evaluation mode; one without a file with random weights."""
        if self.file is None:
            return network(self.recipe, samples.truth, weights=False).eval()
        return saved.load(self.file)[1]


def find(places: Iterable[str]) -> tuple[list[Source], list[str]]:
    """The networks that are named, and a sentence for each run that is not at its end.

    Args:
        places: runs, their files, `zoo:NAME`, where NAME may have `*` and `?`, or
            `RECIPE=FIGURE:VALUE,...` for an untrained network with figures that are known from elsewhere.

    Raises:
        ConfigError: no such network.
        FormatError: a file that no training wrote.
    """
    found, left_out = [], []
    for place in places:
        if "=" in place and not Path(place).exists():
            found.append(_untrained(place))
            continue
        for each in _expanded(place):
            file = model_file(Path(each))
            if not file.is_file():
                raise ConfigError(f"{each}: no such network; expected a run, its file or zoo:NAME.")
            recipe = read_recipe(container.read_metadata(file), file)
            if (done := _epochs(file)) is not None and done < recipe.training.epochs:
                left_out.append(f"{each}: left out, {done} of {recipe.training.epochs} epochs are done.")
                continue
            found.append(Source(place=each, file=file, recipe=recipe))
    return found, left_out


def grouped(sources: Sequence[Source]) -> dict[str, list[tuple[str, Source]]]:
    """The networks by data set and split, each with a name that is unique there.

    Raises:
        ConfigError: networks of one data set that are evaluated on other images, or one that is named twice.
    """
    groups: dict[str, list[Source]] = {}
    for source in sources:
        group = groups.setdefault(source.data, [])
        for other in group:
            if other.place == source.place:
                raise ConfigError(f"{source.place} is named twice.")
            if _images(other) != _images(source):
                raise ConfigError(
                    f"{other.place} and {source.place} are evaluated on other images: data.options and "
                    "data.evaluation of their recipes have to be the same."
                )
        group.append(source)
    return {data: list(zip(_labels(group), group, strict=True)) for data, group in groups.items()}


def samples_of(source: Source, split: str, root: Path | None = None) -> SampleDataset:
    """A split of its data set, as evaluation sees it."""
    return dataset(source.recipe, split, root=root)


def calibration_images(source: Source, count: int, root: Path | None = None) -> list[Tensor]:
    """Images (1, C, H, W) of the training split at even distances, as evaluation sees them."""
    samples = samples_of(source, source.recipe.data.train, root)
    step = max(1, len(samples) // count)
    return [samples[i].image[None] for i in range(0, len(samples), step)][:count]


def _images(source: Source) -> tuple[Any, ...]:
    """What decides on the images of an evaluation, but for their number at once."""
    data = source.recipe.data
    return data.options, data.evaluation.model_dump(exclude={"batch"})


def _labels(group: Sequence[Source]) -> list[str]:
    return labels([s.recipe for s in group], [s.file or Path(s.place) for s in group])


def _expanded(place: str) -> list[str]:
    """A place, or all entries of the zoo that a pattern matches."""
    if not place.startswith(zoo.PREFIX) or not any(sign in place for sign in "*?"):
        return [place]
    pattern = place.removeprefix(zoo.PREFIX)
    found = fnmatch.filter(zoo.names(), pattern)
    if not found:
        raise ConfigError(f"{place} matches no network of the zoo: `binarize zoo` lists them.")
    return [f"{zoo.PREFIX}{name}" for name in found]


def _epochs(file: Path) -> int | None:
    """How many epochs the run of a file has done; None if there is no log beside it."""
    return len(read_log(file.parent).lines) or None


def _untrained(place: str) -> Source:
    """`RECIPE=FIGURE:VALUE,...`."""
    name, _, text = place.partition("=")
    known = {figure for figures in ALL.values() for figure in (*figures.columns, *figures.line)}
    values: dict[str, Any] = {}
    for part in text.split(","):
        figure, _, value = part.partition(":")
        try:
            values[figure] = float(value)
        except ValueError:
            values = {}
        if figure not in known or not values:
            raise ConfigError(
                f"{place!r}: expected RECIPE=FIGURE:VALUE,..., such as "
                "nyuv2-397/convnext_atto-bidense-group=abs_rel:0.317,delta1:0.528; figures: "
                f"{', '.join(sorted(known))}."
            )
    return Source(place=name, file=None, recipe=recipes.load(name), figures=values)
