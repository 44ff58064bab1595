"""What a run is, in a few lines, before its first step."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from binarize.graph.wrappers import unwrapped
from binarize.layers import BinaryLayer
from binarize.layers.float_weights import has_float_weights
from binarize.model_info import plan_of
from binarize.recipes import TrainingRecipe
from binarize.training.build import FROM_PYTHON
from binarize.training.run import Run


def first_line(name: str, recipe: TrainingRecipe) -> str:
    """What is known before anything is read: shown at once, since data and network take a while."""
    return f"recipe   {name}{': ' if recipe.about else ''}{recipe.about}"


def header(run: Run, *, resumed: bool) -> Iterator[str]:
    """Network, data, steps, device and start, a line each.

    Args:
        run: before its first step.
        resumed: it continues with what its folder holds.
    """
    recipe, settings = run.recipe, run.settings
    yield f"network  {recipe.network.title}, {_method(run)}: {_counts(run)}"
    height, width = recipe.data.augmentation.size
    val = "" if run.val is None else f", {len(run.val)} of {recipe.data.val}"
    images = f"{len(run.data)} images of {recipe.data.train}{val}"
    yield f"data     {recipe.data.name}: {images}, at {height}x{width}"
    epochs = f"{settings.epochs} epoch{'s' * (settings.epochs > 1)} of {run.progress.steps} steps"
    rate = f"learning rate at most {settings.lr:g}, seed {settings.seed}"
    yield f"steps    {epochs} of {settings.batch} images, {rate}"
    yield f"device   {_device(run)}"
    yield f"start    {_start(run, resumed)}"


def _method(run: Run) -> str:
    """The recipe's method; of a network that `fit` was given converted, the one that converted it."""
    chosen = run.recipe.method
    if chosen is None:
        plan = plan_of(unwrapped(run.net))
        return "float" if plan is None else f"{plan.method['name']}, converted before"
    options = ", ".join(f"{name}={value}" for name, value in chosen.options.items())
    return f"{chosen.name} ({options})" if options else chosen.name


def _counts(run: Run) -> str:
    """Parameters by their bits, each once."""
    layers = [module for module in run.net.modules() if isinstance(module, BinaryLayer)]
    binary = {id(layer.weight): layer.weight.numel() * layer.weight_rule.planes for layer in layers}
    others = sum(p.numel() for p in run.net.parameters() if id(p) not in binary)
    if has_float_weights(run.net):
        others += sum(layer.weight.numel() for layer in layers)
        return f"binary activations in {len(layers)} layers, {others:,} parameters of 32 bits"
    if not binary:
        return f"{others:,} parameters of 32 bits"
    weights = f"{sum(binary.values()):,} weights of one bit in {len(layers)} layers"
    return f"{weights}, {others:,} parameters of 32 bits"


def _device(run: Run) -> str:
    settings, kind = run.settings, run.device.type
    name = torch.cuda.get_device_name(run.device) if kind == "cuda" else kind
    parts = [name, "float32" if settings.precision == "no" else settings.precision]
    if kind == "cpu":
        threads = torch.get_num_threads()
        parts.append(f"{threads} thread{'s' if threads > 1 else ''}")
    if run.accelerator.num_processes > 1:
        parts.append(f"{run.accelerator.num_processes} processes")
    if settings.compile:
        parts.append("compiled, which takes a minute or two first")
    return ", ".join(parts)


def _start(run: Run, resumed: bool) -> str:
    if resumed:
        done, steps = divmod(run.progress.step, run.progress.steps)
        after = f"{done} epoch{'s' * (done != 1)}"
        more = f" and {steps} step{'s' * (steps != 1)}" if steps else ""
        return f"continued after {after}{more}"
    if run.recipe.data.name == FROM_PYTHON:
        return "weights of the given network"
    if run.settings.start_from is not None:
        return run.settings.start_from
    if run.recipe.network.pretrained:
        return "pretrained weights"
    return "random weights"
