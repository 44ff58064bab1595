"""Trained networks in files: each knows the recipe that made it."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from binarize import files
from binarize.data.dataset import Depth, Labels, truth_from_json
from binarize.errors import ConfigError, FormatError
from binarize.files import container
from binarize.recipes import Recipe, validate
from binarize.training.build import network
from binarize.training.folder import MODEL, model_file
from binarize.training.loop import RECIPE_ENTRY, TRUTH_ENTRY


def load(path: Path) -> tuple[Recipe, nn.Module]:
    """The recipe and the network, in evaluation mode, of a run's folder, its model file or `zoo:NAME`.

    Raises:
        ConfigError: there is no such file.
        FormatError: it was not written by a training, or is corrupt.
    """
    file = model_file(path)
    if not file.is_file():
        hint = f" ({MODEL} in a run's folder)" if file.name == MODEL else ""
        raise ConfigError(f"{file}: no such file; expected a model that `binarize train` wrote{hint}.")
    metadata = container.read_metadata(file)
    if RECIPE_ENTRY not in metadata:
        raise FormatError(
            f"{file}: its header holds no recipe: it was not written by `binarize train`, so nothing tells "
            "how images are prepared and what its outputs mean. binarize.load gives the network in Python."
        )
    try:
        values = json.loads(metadata[RECIPE_ENTRY])
    except ValueError as error:
        raise FormatError(f"{file} is corrupted: its recipe is no JSON.") from error
    recipe = validate(values, str(file))
    header = files.read_header(file)
    if header.source.get("source") != "custom":
        return recipe, files.load(file).float()  # the zoo's float weights have 16 bits
    # a network of a third party: its class is not in the file, but the recipe builds it
    bare = recipe.model_copy(update={"method": None})
    return recipe, files.load(file, network(bare, _truth(file, metadata), weights=False)).float()


def load_with_truth(path: Path) -> tuple[Recipe, nn.Module, Labels | Depth]:
    """As `load`, and what the network was trained to tell: the data set need not be there.

    Raises:
        ConfigError: there is no such file.
        FormatError: it was not written by a training, or is corrupt.
    """
    recipe, model = load(path)
    file = model_file(path)
    return recipe, model, _truth(file, container.read_metadata(file))


def _truth(file: Path, metadata: dict[str, str]) -> Labels | Depth:
    try:
        return truth_from_json(metadata[TRUTH_ENTRY])
    except (KeyError, ValueError, TypeError) as error:
        raise FormatError(f"{file} is corrupted: its {TRUTH_ENTRY!r} entry says no truth.") from error
