"""An entry of the zoo from a run: the network in its smallest form, its figures, and a card."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from binarize import files
from binarize.comparison.collect import Result, collect
from binarize.comparison.table import columns, differences, label
from binarize.data.catalog import info
from binarize.data.dataset import Depth, Truth
from binarize.errors import ConfigError
from binarize.files.zoo import CARD, METRICS, MODEL
from binarize.methods import create
from binarize.recipes import TrainingRecipe, load
from binarize.training import saved
from binarize.training.baselines import baselines
from binarize.training.folder import LOG
from binarize.training.metadata import file_metadata
from binarize.training.resume import FREE

Report = Callable[[str, int, int], None]
_FLOORS = {"constant": "best of one value", "by_position": "best by position"}


def add_entry(
    run: Path,
    folder: Path,
    *,
    name: str | None = None,
    recipe_name: str = "",
    root: Path | None = None,
    report: Report | None = None,
) -> Path:
    """Write an entry of the zoo.

    A binary network is packed; of a float network the weights are rounded to 16 bits. The card's figures
    were measured with that file.

    Args:
        run: folder that `binarize train` wrote; all epochs of its recipe are done.
        folder: of the zoo.
        name: of the entry; by default that of the recipe without its encoder, or data set and method.
        recipe_name: the name of the recipe on the card.
        root: folder of the data set, in place of the recipe's.
        report: called with what is done, how much of it and of how much.

    Returns:
        The entry's folder; an entry that was there before is replaced.

    Raises:
        ConfigError: no run there, one that is not complete, or one of another recipe than `recipe_name`.
        DataError: data that is missing or wrong.
    """
    recipe, model, truth = _load_complete(run)
    if recipe_name:
        _check_recipe(run, recipe, recipe_name)  # before the evaluation, which takes long
    title = name or _name(recipe, recipe_name)
    known = file_metadata(recipe, truth)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as temporary:
        made = Path(temporary)
        binary = recipe.method is not None
        if binary:
            files.save(model, made / MODEL, packed=True, entries=known)
        else:
            files.save(model.half(), made / MODEL, entries=known)
        shutil.copy(run / LOG, made)

        def tell(what: str) -> Callable[[int, int], None]:
            return lambda done, total: report(what, done, total) if report is not None else None

        full = collect(run, root=root, report=tell("the run"))
        result = collect(
            made, root=root, count=False, report=tell("the packed file" if binary else "the file")
        )
        found = baselines(recipe, root=root, report=tell("baselines"))
        metrics = _metrics(title, recipe_name, result, full, found, (made / MODEL).stat().st_size)
        files.write_bytes(made / METRICS, (json.dumps(metrics, indent=2) + "\n").encode())
        files.write_bytes(made / CARD, _card(metrics, full, truth).encode())
        target = folder / title
        target.mkdir(exist_ok=True)
        for part in (MODEL, METRICS, CARD, LOG):
            files.write_bytes(target / part, (made / part).read_bytes())
    return target


def _load_complete(run: Path) -> tuple[TrainingRecipe, nn.Module, Truth]:
    """The result of a run; ConfigError if there is no run, or not all epochs of its recipe are done."""
    if not (run / LOG).is_file():
        raise ConfigError(f"{run}: no run; expected a folder that `binarize train` wrote, with its {LOG}.")
    recipe, model, truth = saved.load_with_truth(run)
    done = len((run / LOG).read_text(encoding="utf-8").splitlines())
    if done != recipe.training.epochs:
        raise ConfigError(f"{run}: {done} of {recipe.training.epochs} epochs are done.")
    return recipe, model, truth


def _name(recipe: TrainingRecipe, recipe_name: str) -> str:
    """`camvid-bidense-layer` for the recipe camvid/convnext_atto-bidense-layer."""
    if recipe_name:
        encoder = recipe.network.encoder
        return recipe_name.replace("/", "-").replace(f"{encoder}-" if encoder else "", "")
    return f"{recipe.data.name}-{recipe.method.name if recipe.method else 'float'}"


def _metrics(
    name: str, recipe_name: str, result: Result, full: Result, found: dict[Any, Any], size: int
) -> dict[str, Any]:
    recipe = result.recipe
    return {
        "name": name,
        "label": label(recipe),
        "recipe_name": recipe_name,
        "data": recipe.data.name,
        "split": result.split,
        "seed": recipe.training.seed,
        "bytes": size,
        "figures": result.figures,
        "figures_before_packing": full.figures,
        "floors": found,
        "costs": full.costs,
        "seconds": full.seconds,
        "recipe": recipe.model_dump(mode="json"),
    }


def _card(metrics: dict[str, Any], full: Result, truth: Truth) -> str:
    recipe = full.recipe
    names = columns({"rows": [{"figures": metrics["figures"]}]})
    honest = metrics["costs"]["honest"]
    height, width = recipe.data.augmentation.size
    head = f"{recipe.network.title}, {metrics['label']}"
    stored = "weights rounded to 16 bits"
    if recipe.method is not None:
        bits = create(recipe.method.name, **recipe.method.options).bits[0]
        stored = "weights of one bit" if bits == 1 else f"weights of {bits} bits"
    begun = recipe.training.start_from
    how = "from scratch" if begun is None else f"from the weights of {begun}"
    if recipe.stages:
        how = f"in {len(recipe.stages)} stages"
    elif begun is None and recipe.network.pretrained:
        how = "from timm's pretrained weights"
    settings = _settings(metrics["recipe_name"], recipe)
    changed = "".join(f" --set {shlex.quote(setting)}" for setting in settings)
    command = f"`binarize train {metrics['recipe_name']}{changed}`"
    if not metrics["recipe_name"]:
        command = "`binarize train FILE`, FILE being what `recipe` in metrics.json holds."
    floors = list(metrics["floors"])
    last = (
        "the last column a prediction without"
        if len(floors) == 1
        else "the last two columns predictions without"
    )
    counted = []
    if isinstance(truth, Depth):
        counted = [f"- Figures: means over {metrics['figures']['images']} images; {truth.counted}."]
    lines = [
        f"# {metrics['name']}",
        "",
        f"{head}, trained {how} on {metrics['data']}: {metrics['bytes']:,} bytes, {stored}.",
        "",
        "```python",
        f'model = binarize.load("zoo:{metrics["name"]}")',
        "```",
        "",
        f"or `binarize predict zoo:{metrics['name']} IMAGE...`",
        "",
        f"| {metrics['data']} {metrics['split']} | "
        + " | ".join(("this file", "before", *(_FLOORS[kind] for kind in floors)))
        + " |",
        f"| --- | {' | '.join(['---:'] * (2 + len(floors)))} |",
        *(_figure_line(key, text, metrics) for key, text in names.items()),
        "",
        f"`before` is the trained network as it was, {last} the image (`binarize data floor`).",
        "",
        f"- Command: {command}",
        f"- Seed {metrics['seed']}, {recipe.training.epochs} epochs of batches of {recipe.training.batch}, "
        f"{metrics['seconds'] / 60:.0f} minutes.",
        f"- Cost at {height}x{width}: {honest['binary_macs']:,} multiply-accumulates of one bit, "
        f"{honest['float_macs']:,} of 32 bits.",
        *counted,
        f"- Data: {info(recipe.data.name).terms or 'built in.'}",
        "- Limits: a small network and a small budget, meant for comparisons between methods; images are "
        f"of {height}x{width} or near it. One run; another seed gives other figures.",
    ]
    return "\n".join(lines) + "\n"


def _check_recipe(run: Path, recipe: TrainingRecipe, name: str) -> None:
    """Refuse a recipe whose command would not repeat the run."""
    load(name)  # raises for an unknown name
    try:
        left = _differing(load(name, _settings(name, recipe)), recipe)
    except ConfigError:
        left = _differing(load(name), recipe)
    if left:
        # a difference of names explains most
        names = {key: value for key, value in left.items() if key.endswith("name")} or left
        faults = [f"{key} is {a!r} there, {b!r} in the run" for key, (a, b) in sorted(names.items())]
        shown = "; ".join(faults[:3])
        raise ConfigError(f"--recipe {name}: {run} followed another recipe: {shown}. Name that one, or none.")


def _settings(name: str, recipe: TrainingRecipe) -> list[str]:
    """The settings in which the run differs from the recipe of that name, as `--set` takes them."""
    if not name:
        return []
    found = _differing(load(name), recipe)
    return [f"{key}={json.dumps(value)}" for key, (_, value) in sorted(found.items())]


def _differing(given: TrainingRecipe, own: TrainingRecipe) -> dict[str, tuple[Any, Any]]:
    found = differences(given.model_dump(mode="json"), own.model_dump(mode="json"))
    return {key: values for key, values in found.items() if key not in FREE}


def _figure_line(key: str, text: str, metrics: dict[str, Any]) -> str:
    scale, digits = (100.0, 2) if "%" in text else (1.0, 3)
    sources = (metrics["figures"], metrics["figures_before_packing"], *metrics["floors"].values())
    values = (f"{scale * s[key]:.{digits}f}" if s.get(key) is not None else "-" for s in sources)
    return f"| {text} | {' | '.join(values)} |"
