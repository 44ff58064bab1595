"""From a recipe to a run: data, network, optimizer and all else that a training needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.utils.data import DataLoader

from binarize.data.catalog import check_split
from binarize.data.findings import report
from binarize.data.samples import SampleDataset
from binarize.errors import ConfigError, first_line, warn
from binarize.files import container
from binarize.modes import evaluating
from binarize.preprocessing import Preprocessing
from binarize.recipes import TrainingRecipe
from binarize.recipes.schema import Training
from binarize.training import trackers
from binarize.training.averaging import MovingAverage, averaging_warning
from binarize.training.balance import class_weights
from binarize.training.batches import Batches
from binarize.training.build import dataset, memory_format, network
from binarize.training.build import optimizer as create_optimizer
from binarize.training.callbacks import Callbacks
from binarize.training.compiled import CompiledForward
from binarize.training.distill import Teacher
from binarize.training.distributed import share_drops, synchronize_norms
from binarize.training.environment import (
    ShardingSettings,
    fsdp_hidden_from_accelerate,
    on_cpu,
    requested_sharding,
)
from binarize.training.folder import BEST, MODEL, STATE, with_stages_located
from binarize.training.health import LatentWatch
from binarize.training.inputs import InputWatch
from binarize.training.metadata import preprocessing_of, read_checkpoint
from binarize.training.outputs import selected
from binarize.training.process_group import keep_group_at_exit
from binarize.training.progress import Event, Progress
from binarize.training.replicas import Replicas
from binarize.training.resume import Change, check_folder, make_folder, warn_of_changed_code
from binarize.training.run import Run
from binarize.training.sharding import Shards
from binarize.training.sizes import check_size
from binarize.training.state import restore_state
from binarize.training.strategy import Strategy
from binarize.training.tally import Tally
from binarize.training.tasks import task_of


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a caller in Python trains, in place of what a recipe names.

    Attributes:
        network: converted if it is to be; it is trained itself, and moved to the device.
        data: the training split.
        val: the validation split, if there is one.
        images: what images go through before they are what `data` gives; None if that is not known.
    """

    network: nn.Module
    data: SampleDataset
    val: SampleDataset | None
    images: Preprocessing | None

    def splits(self) -> tuple[SampleDataset, SampleDataset | None, Tally | None]:
        """Both splits, and the counts to be made of the first."""
        return self.data, self.val, task_of(self.data.truth).tally(self.data, "the data", set())


def set_up(
    recipe: TrainingRecipe,
    out: Path,
    *,
    root: Path | None = None,
    resume: bool = False,
    report: Callable[[Event], None] | None = None,
    tell: Callable[[str], None] | None = None,
    callbacks: Sequence[Any] = (),
    given: Given | None = None,
) -> Run:
    """Build a run, and find what is wrong with it before anything is written.

    Args:
        recipe: what to train, on what, and how.
        out: folder of the run.
        root: folder of the data set, in place of the recipe's.
        resume: continue with what is in `out`.
        report: called after each step and each epoch, in the main process.
        tell: called in the main process with what was loaded at the start.
        callbacks: those of the caller.
        given: network and data of the caller, in place of those that the recipe names.

    Raises:
        BinarizeError: what `loop.train` raises before its first step.
    """
    settings = recipe.training
    keep_group_at_exit()
    sharding = requested_sharding()
    accelerator = _accelerator(settings)
    changes, planned = check_folder(out, recipe, resume)
    trackers.chosen(settings.trackers)  # or an error
    data, val, tally = _datasets(recipe, root) if given is None else given.splits()
    _check_val(settings, val)
    loss = task_of(data.truth).loss(settings, _class_weights(settings, data, accelerator))
    resumed = resume and (out / STATE).is_file()
    heard = tell if tell is not None and accelerator.is_main_process else _unheard
    placed = with_stages_located(recipe, out)
    net = given.network if given else network(placed, data.truth, weights=not resumed, tell=heard)
    net = net.to(memory_format=memory_format(settings))
    strategy = _strategy(net, accelerator, sharding, compiled=settings.compile)
    average = MovingAverage(net) if settings.ema is not None else None
    bare = create_optimizer(net, settings, accelerator.device)
    tensors = average.tensors if average is not None else None
    progress = restore_state(out / STATE, net, bare, tensors) if resumed else Progress()
    progress.planned = planned
    optimizer = _prepare(strategy, bare, average, accelerator)
    (_check_given if given else _check_sizes)(strategy.standalone, recipe, data, val, heard)
    make_folder(out)  # all that can be wrong with the network is known by now
    learning = placed.training.distillation
    floats = placed.model_copy(update={"method": None})
    rebuild = None if given else partial(network, floats, data.truth, weights=False)
    teacher = Teacher(learning, net, accelerator.device, rebuild) if learning else None
    batches, loader = _batches(recipe, data, accelerator)
    _check_steps(progress, batches.steps, settings, out)
    if resumed:
        _go_on(progress, changes, recipe, out, heard)
    return Run(
        recipe=recipe,
        out=out,
        accelerator=accelerator,
        strategy=strategy,
        forward=CompiledForward(strategy.model) if settings.compile else strategy.model,
        optimizer=optimizer,
        average=average,
        progress=progress,
        loss=loss,
        mixing=task_of(data.truth).mixing(settings),
        teacher=teacher,
        data=data,
        val=val,
        batches=batches,
        loader=loader,
        tally=tally,
        latents=LatentWatch(net),
        inputs=InputWatch(net, batches.steps, accelerator.device),
        images=preprocessing_of(recipe, data.truth) if given is None else given.images,
        report=report,
        callbacks=Callbacks(callbacks, on=accelerator.is_main_process),
    )


def _unheard(text: str) -> None:
    """The other processes would only repeat what the main one reports."""


def _accelerator(settings: Training) -> Accelerator:
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    with fsdp_hidden_from_accelerate():
        accelerator = Accelerator(
            cpu=on_cpu(),  # or processes on CPUs would not find each other
            mixed_precision=settings.precision,
        )
    world = accelerator.num_processes
    if settings.batch % (world * settings.accumulate):
        raise ConfigError(
            f"batch {settings.batch} cannot be shared by {world} processes in {settings.accumulate} parts; "
            "choose a multiple."
        )
    return accelerator


def _datasets(
    recipe: TrainingRecipe, root: Path | None
) -> tuple[SampleDataset, SampleDataset | None, Tally | None]:
    """The splits for training and validation, both inspected, and the counts to be made of the first."""
    chosen = recipe.data
    check_split(chosen.name, chosen.test)  # `evaluate` needs it later: report it now
    data = dataset(recipe, chosen.train, root=root, training=True)
    val = dataset(recipe, chosen.val, root=root) if chosen.val is not None else None
    name = f"{chosen.name} {chosen.train}"
    task = task_of(data.truth)
    tally = task.tally(data, name, task.inspect(data, name))
    if val is not None:
        task.inspect(val, f"{chosen.name} {chosen.val}")
    report(task.doubts(data, val, (name, f"{chosen.name} {chosen.val}"), chosen.augmentation))
    return data, val, tally


def _class_weights(settings: Training, data: SampleDataset, accelerator: Accelerator) -> Tensor | None:
    if not settings.class_balance:
        return None
    return class_weights(
        data,
        settings.class_balance,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        device=accelerator.device,
    )


def _check_val(settings: Training, val: SampleDataset | None) -> None:
    """Refuse settings that need a validation split."""
    if val is not None:
        return
    for name, on in (("keep: best", settings.keep == "best"), ("patience", settings.patience is not None)):
        if on:
            raise ConfigError(
                f"training.{name} needs a validation split, which decides what is best: set data.val, or "
                "leave it out."
            )


def _go_on(
    progress: Progress,
    changes: Sequence[Change],
    recipe: TrainingRecipe,
    out: Path,
    tell: Callable[[str], None],
) -> None:
    """Note what changes in the middle of a run, and say it; find the network of its best epoch."""
    warn_of_changed_code(out, recipe)
    for change in changes:
        if change.name == "network.name":  # the same text elsewhere
            continue
        progress.changes.append(
            {"epochs": progress.done, "name": change.name, "was": change.was, "now": change.now}
        )
        tell(f"changed  {change.name}: {change.was} -> {change.now}, after {progress.done} epochs")
    keep = recipe.training.keep
    file = out / (BEST if keep == "both" else MODEL)
    kept = read_checkpoint(container.read_metadata(file)) if file.is_file() else None
    if keep == "last" or kept is None or kept.kept != "best":
        progress.best = None
    elif progress.best is None or kept.epoch != progress.best["epoch"]:  # newer than the state
        progress.best = {"epoch": kept.epoch, "figure": kept.figure, "value": kept.value}


def _strategy(
    net: nn.Module, accelerator: Accelerator, sharding: ShardingSettings | None, *, compiled: bool
) -> Strategy:
    """The only place that distinguishes FSDP and whole replicas."""
    if sharding is not None and accelerator.num_processes > 1:
        if compiled:
            raise ConfigError(
                "training.compile does not go together with FSDP, whose layers gather their weights between "
                "steps of the forward pass: leave one of the two out."
            )
        return Shards(net, accelerator, sharding)
    return Replicas(net, accelerator)


def _prepare(
    strategy: Strategy, bare: torch.optim.Optimizer, average: MovingAverage | None, accelerator: Accelerator
) -> torch.optim.Optimizer:
    """Let the network see all processes' images, and move all to the device; the optimizer to step with."""
    world = accelerator.num_processes
    if world > 1:
        synchronize_norms(strategy.net)
        share_drops(strategy.net, accelerator.process_index, world)
    strategy.wrap()
    optimizer = accelerator.prepare_optimizer(bare)
    if average is not None:
        average.to(accelerator.device)
    return optimizer


def _check_sizes(
    net: nn.Module,
    recipe: TrainingRecipe,
    data: SampleDataset,
    val: SampleDataset | None,
    tell: Callable[[str], None],
) -> None:
    """Find out whether the network takes the images, by one forward pass for each kind of them."""
    size, chosen = recipe.data.augmentation.size, recipe.network.output
    given = check_size(net, data.truth, size, "data.augmentation.size", chosen, trained=True)
    if given != size:
        out, seen = (f"{height}x{width}" for height, width in (given, size))
        tell(f"network: maps of {out} for images of {seen}, resized bilinearly for loss and evaluation")
    if recipe.data.evaluation.resize is not None:  # of the test split too, which is evaluated later
        check_size(net, data.truth, recipe.data.evaluation.resize, "data.evaluation.resize", chosen)
    elif val is not None:
        height, width = val[0].image.shape[-2:]
        where = f"images of {recipe.data.val} (see data.evaluation)"
        check_size(net, val.truth, (height, width), where, chosen)


def _check_given(net: nn.Module, recipe: TrainingRecipe, data: SampleDataset, *_: Any) -> None:
    """Find out whether a network of the caller gives what the truth of the data needs."""
    image = data[0].image
    task = task_of(data.truth)
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    try:
        with evaluating(net), torch.no_grad():
            output = net(image[None].to(device))
    except Exception as error:  # whatever the code of the caller's does
        raise ConfigError(
            f"the network fails on an image {tuple(image.shape)} of the data: {type(error).__name__}: "
            f"{first_line(error)}."
        ) from error
    maps = selected(output, recipe.network.output)
    task.check(maps, (image.shape[-2], image.shape[-1]))
    if spare := task.spare(maps):
        warn(f"{spare}.")


def _batches(
    recipe: TrainingRecipe, data: SampleDataset, accelerator: Accelerator
) -> tuple[Batches, DataLoader[Any]]:
    settings = recipe.training
    rank, world = accelerator.process_index, accelerator.num_processes
    batches = Batches(len(data), settings.batch, settings.seed, rank=rank, world=world)
    loader = DataLoader(
        data,
        batch_sampler=batches,
        num_workers=recipe.data.workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    return batches, loader


def _check_steps(progress: Progress, steps: int, settings: Training, out: Path) -> None:
    """Note the steps of an epoch; refuse data of another length, warn of an average that is too long."""
    if progress.step and progress.steps != steps:
        raise ConfigError(
            f"{out} was started with {progress.steps} steps per epoch, this data makes {steps}: is it "
            "another data set?"
        )
    progress.steps = steps
    if text := averaging_warning(settings, settings.epochs * steps):
        warn(text)
