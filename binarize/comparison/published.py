"""From a recipe to its row in the BiDense paper's tables (`binarize.comparison.paper`)."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from binarize.comparison.paper import DATA, TABLES, PaperRow
from binarize.errors import BinarizeError
from binarize.methods import create
from binarize.networks.catalog import NETWORKS
from binarize.option_texts import parse_kwargs
from binarize.recipes import TrainingRecipe
from binarize.recipes.schema import MethodSettings, Network
from binarize.user_code import is_file, parts

_OF_DATA = ("task", "num_classes", "max_depth", "img_size")  # options that the data set and the sizes decide
_NOT_IN_ROWS = ("form", "ablation")  # options of methods that make no other row


def published(recipe: TrainingRecipe) -> dict[str, float]:
    """The printed figures of a recipe's row, fractions and metres; empty if the paper has no such row."""
    row = paper_row(recipe)
    return {} if row is None else dict(row.figures[recipe.data.name])


def paper_row(recipe: TrainingRecipe) -> PaperRow | None:
    """The row that a recipe's network, method and data set have in Tables 1 to 4, if there is one.

    Encoder, decoder and all options of the method have to be the row's; how long and on what sizes it is
    trained does not matter.
    """
    name = recipe.data.name
    rows = [row for table in TABLES.values() if name in table.data for row in table.rows]
    return next((row for row in rows if is_of_row(recipe, row)), None)


def is_of_row(recipe: TrainingRecipe, row: PaperRow) -> bool:
    """Whether a recipe's network and method are those of a row; its data set does not matter."""
    return _network(recipe.network) == (row.network, row.encoder, row.pretrained) and _same_method(
        recipe.method, row
    )


def _network(chosen: Network) -> tuple[str, str, bool] | None:
    """Name, encoder and whether it is pretrained; None for one with options that no row has.

    `upernet:convnext_tiny?width=64` says the same as the name, the encoder and the options apart.
    """
    if is_file(chosen.name):
        return None
    name, encoder, query = parts(chosen.name)
    if name not in NETWORKS:
        return None
    try:
        given: dict[str, Any] = {**parse_kwargs(query), **chosen.options}
    except BinarizeError:
        return None
    encoder = str(chosen.encoder or given.pop("encoder", "") or encoder)
    pretrained = bool(given.pop("pretrained", chosen.pretrained))
    defaults = {n: p.default for n, p in inspect.signature(NETWORKS.get(name)).parameters.items()}
    others = {n: v for n, v in given.items() if n not in _OF_DATA}
    same = all(n in defaults and defaults[n] == v for n, v in others.items())
    return (name, encoder, pretrained) if same else None


def _same_method(chosen: MethodSettings | None, row: PaperRow) -> bool:
    if chosen is None or row.method is None:
        return chosen is None and row.method is None
    policy = (chosen.keep, chosen.only, chosen.first, chosen.last, chosen.weights)
    if chosen.name != row.method or policy != ((), (), 1, 1, "binary"):
        return False
    try:
        return _options(chosen.name, chosen.options) == _options(row.method, row.options)
    except BinarizeError:
        return False


def _options(name: str, given: Any) -> dict[str, Any]:
    """The options of a method that make it another row."""
    fields = dataclasses.asdict(create(name, **given))
    return {key: value for key, value in fields.items() if key not in _NOT_IN_ROWS}


def remark(recipe: TrainingRecipe) -> dict[str, Any]:
    """Remarks on the printed figures of a recipe's data set."""
    known = DATA.get(recipe.data.name)
    return {"remark": known.remark} if known is not None and known.remark else {}
