"""Trained networks in files: each knows the recipe that made it."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

from torch import nn

from binarize import files
from binarize.data.classes import Classes
from binarize.data.dataset import Truth
from binarize.errors import ConfigError, listed, near_paths
from binarize.files import container, zoo
from binarize.networks.catalog import NETWORKS
from binarize.recipes import TrainingRecipe
from binarize.training.build import network
from binarize.training.folder import MODEL, model_file
from binarize.training.metadata import read_recipe, read_truth


def load(path: Path, model: nn.Module | None = None) -> tuple[TrainingRecipe, nn.Module]:
    """The recipe and the network, in evaluation mode, of a run's folder, its model file or `zoo:NAME`.

    Args:
        path: of it.
        model: the float network, for a file whose network is of a custom class that this account does not
            build by itself.

    Raises:
        ConfigError: there is no such file.
        FormatError: it was not written by a training, or is corrupt.
    """
    file = model_file(path)
    if not file.is_file():
        hint = f" ({MODEL} in a run's folder)" if file.name == MODEL else ""
        if str(path) in zoo.names():
            hint += f"; the network of the zoo is {zoo.PREFIX}{path}"
        near = _runs_in(path) if path.is_dir() else near_paths(path)
        raise ConfigError(f"{file}: no such file; expected a model that `binarize train` wrote{hint}.{near}")
    metadata = container.read_metadata(file)
    recipe = read_recipe(metadata, file)
    if model is not None:
        return recipe, files.load(file, model).float()
    source = files.read_header(file).source
    if source["source"] != "custom" or "code" in source or recipe.network.name not in NETWORKS:
        return recipe, files.load(file).float()  # the zoo's float weights have 16 bits
    # a registered network of a third party: its class is not in the file, but the recipe builds it
    bare = recipe.model_copy(update={"method": None})
    return recipe, files.load(file, network(bare, read_truth(metadata, file), weights=False)).float()


def _runs_in(folder: Path) -> str:
    """For the end of a message, the runs that a folder holds; empty if it holds none."""
    runs = sorted(str(file.parent) for file in folder.glob(f"*/{MODEL}"))
    return f" Runs in it: {listed(runs)}." if runs else ""


def is_custom(path: Path) -> bool:
    """Whether a file holds a network that only code of its user's, or the user, can build.

    Args:
        path: as of `load`.

    Raises:
        ConfigError, FormatError: there is no such file, or it is corrupt.
    """
    return files.read_header(model_file(path)).source["source"] == "custom"


def check_classes(path: Path, truth: Truth) -> None:
    """Refuse to measure a network of whole images by other classes than it was trained for.

    Args:
        path: as of `load`.
        truth: of the data set to measure on.

    Raises:
        ConfigError: names of classes, or their order, differ.
    """
    if not isinstance(truth, Classes):
        return
    file = model_file(path)
    own = read_truth(container.read_metadata(file), file)
    if own == truth:
        return
    names = own.names if isinstance(own, Classes) else ()
    pairs = enumerate(zip_longest(names, truth.names, fillvalue="no class"))
    index, (one, other) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    raise ConfigError(
        f"{file}: trained for {len(names)} classes, the data set has {len(truth.names)}, and class {index} "
        f"is {one} there, {other} here. Measure on a data set of the same classes, in the same order "
        "(image-folder: data.options.classes)."
    )


def load_with_truth(path: Path, model: nn.Module | None = None) -> tuple[TrainingRecipe, nn.Module, Truth]:
    """As `load`, and the data set's truth, which gives the outputs their meaning; no data is needed.

    Args:
        path: as of `load`.
        model: likewise.

    Raises:
        ConfigError: there is no such file.
        FormatError: it was not written by a training, or is corrupt.
    """
    recipe, network = load(path, model)
    file = model_file(path)
    return recipe, network, read_truth(container.read_metadata(file), file)
