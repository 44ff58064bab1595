"""The training loop, top to bottom: one for all recipes, on one device or many."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.utils.data import DataLoader

from binarize import files
from binarize.data.catalog import check_split
from binarize.data.dataset import DenseDataset
from binarize.data.survey import inspect
from binarize.errors import ConfigError, DataError, TrainingError, warn
from binarize.graph.model_copy import copied
from binarize.recipes import TrainingRecipe, validate
from binarize.training.averaging import averaging_warning, decay_at
from binarize.training.balance import class_weights
from binarize.training.batches import Batches
from binarize.training.build import adamw, dataset, network
from binarize.training.curves import draw_curves
from binarize.training.distill import Teacher
from binarize.training.distributed import all_sum, share_drops, synchronize_norms
from binarize.training.environment import fsdp_hidden_from_accelerate, on_cpu, requested_sharding
from binarize.training.evaluate import SMALL, evaluate
from binarize.training.events import event_log
from binarize.training.folder import CURVES, LOG, MODEL, STATE
from binarize.training.health import LatentWatch, first_not_finite, last_norm
from binarize.training.inputs import InputWatch
from binarize.training.losses import create_loss
from binarize.training.metadata import file_metadata
from binarize.training.process_group import destroy_group_at_exit, keep_group_at_exit
from binarize.training.schedule import rate
from binarize.training.sharding import clip_gradients, shard, share_gradients
from binarize.training.sizes import check_size
from binarize.training.stages import float_weights
from binarize.training.state import Progress, collect_state, read_recipe, restore_state, save_state
from binarize.training.tally import Tally
from binarize.training.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happened: a step, or the end of an epoch.

    Attributes:
        epoch: counted from 0.
        step: steps done in this epoch.
        steps: of an epoch.
        loss: mean over this epoch so far.
        rate: learning rate.
        images: per step.
        figures: of an epoch that is over, what its line of the log says; else empty.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    rate: float
    images: int
    figures: dict[str, Any]


class StoppedError(TrainingError):
    """A training that was interrupted after it was saved."""


def train(
    recipe: TrainingRecipe,
    out: Path,
    *,
    root: Path | None = None,
    resume: bool = False,
    report: Callable[[Event], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Train by a recipe; the run's folder holds state, model and log.

    Args:
        recipe: what, on what, how.
        out: folder of the run; made if it is not there.
        root: folder of the data set, in place of the recipe's.
        resume: go on with what is in `out`; a run that is complete is left as it is.
        report: called after each step and each epoch, in the main process.
        tell: called in the main process with what was loaded at the start.

    Returns:
        The figures of every epoch.

    Raises:
        ConfigError: a recipe that cannot be followed, a folder that holds another run or cannot be written,
            or accelerate's environment asks for what is not offered (`environment.requested_sharding`).
        DataError: data that is missing or wrong, or has nothing to learn from.
        StoppedError: Ctrl-C; all was saved.
        TrainingError: numbers that are not finite; the last checkpoint is kept.
    """
    settings = recipe.training
    keep_group_at_exit()
    sharding = requested_sharding()
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    with fsdp_hidden_from_accelerate():
        accelerator = Accelerator(
            cpu=on_cpu(),  # or processes on CPUs would not find each other
            mixed_precision=settings.precision,
        )
    rank, world = accelerator.process_index, accelerator.num_processes
    if settings.batch % (world * settings.accumulate):
        raise ConfigError(
            f"batch {settings.batch} cannot be shared by {world} processes in {settings.accumulate} parts; "
            "choose a multiple."
        )
    state_file = out / STATE
    _check_folder(out, recipe, resume)

    check_split(recipe.data.name, recipe.data.test)  # what `evaluate` will want, now rather than then
    data = dataset(recipe, recipe.data.train, root=root, training=True)
    val = dataset(recipe, recipe.data.val, root=root) if recipe.data.val is not None else None
    name = f"{recipe.data.name} {recipe.data.train}"
    tally: Tally | None = Tally(data, name, inspect(data, name))
    if val is not None:
        inspect(val, f"{recipe.data.name} {recipe.data.val}")
    balance = None
    if settings.class_balance:
        balance = class_weights(
            data, settings.class_balance, rank=rank, world=world, device=accelerator.device
        )
    start = _silent if tell is None or not accelerator.is_main_process else tell
    net = network(recipe, data.truth, weights=not (resume and state_file.is_file()), tell=start)
    layout = torch.channels_last if settings.channels_last else torch.preserve_format
    net = net.to(memory_format=layout)
    twin = None
    if sharding is not None and world > 1:
        twin = copied(net)
        shard(net, sharding, accelerator.device, world)
    weights = Weights(net, averaged=settings.ema is not None, twin=twin)
    adam = adamw(net, settings, accelerator.device)
    progress = Progress()
    if resume and state_file.is_file():
        progress = restore_state(state_file, net, adam, weights.average)
    if world > 1:
        synchronize_norms(net)
        share_drops(net, rank, world)
    # a network that is split wants no wrapper of data-parallel training
    model = accelerator.prepare_model(net, evaluation_mode=twin is not None)
    optimizer = accelerator.prepare_optimizer(adam)
    weights.to(accelerator.device)
    _check_sizes(twin if twin is not None else net, recipe, data, val)
    _make_folder(out)  # all that can be wrong is known by now
    loss_of = create_loss(data.truth, balance)
    teacher = Teacher(settings.distillation, net, accelerator.device) if settings.distillation else None

    batches = Batches(len(data), settings.batch, settings.seed, rank=rank, world=world)
    loader = DataLoader(
        data,
        batch_sampler=batches,
        num_workers=recipe.data.workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    steps = batches.steps
    if progress.step and progress.steps != steps:
        raise ConfigError(
            f"{out} was begun with {progress.steps} steps per epoch, this data makes {steps}: is it another "
            "data set?"
        )
    progress.steps = steps
    watch = LatentWatch(net)
    inputs = InputWatch(net, steps, accelerator.device)
    if text := averaging_warning(settings, settings.epochs * steps):
        warn(text)

    def show(epoch: int, step: int, loss: float, lr: float, figures: dict[str, Any]) -> None:
        if report is not None:
            images = settings.batch
            report(
                Event(epoch=epoch, step=step, steps=steps, loss=loss, rate=lr, images=images, figures=figures)
            )

    def save() -> None:
        main = accelerator.is_main_process
        state: dict[str, Tensor] = {}
        if main or twin is not None:  # parts of a tensor come from all processes
            state = collect_state(net, adam, weights.average, wanted=main)
        with weights.network(torch.device("cpu"), wanted=main) as trained:
            if main:
                plain = recipe.model_dump(mode="json")
                _write_log(out / LOG, progress.history)
                source = getattr(trained, "binarize_spec", None)
                files.save(trained, out / MODEL, source=source, entries=file_metadata(recipe, data.truth))
                # Last: what is newer than the state is written again when the run goes on from it.
                save_state(state_file, plain, progress, state)
        accelerator.wait_for_everyone()  # or a process that ends now would take down the one that writes

    done = progress.step // steps
    logged = event_log(out, done, on=accelerator.is_main_process and done < settings.epochs)
    with _interruptible() as stopped, logged as log_events:
        for epoch in range(done, settings.epochs):
            start, began = progress.step % steps, time.perf_counter()
            batches.start(epoch, start)
            watch.restart()
            inputs.restart()
            model.train()
            first_stage = epoch < settings.activations_first * settings.epochs
            with float_weights(net) if first_stage else contextlib.nullcontext():
                for step, (images, targets) in enumerate(_loaded(loader), start=start):
                    if tally is not None and not start:
                        tally.add(targets)
                    lr = rate(
                        settings.schedule,
                        settings.lr,
                        progress.step,
                        steps_per_epoch=steps,
                        epochs=settings.epochs,
                    )
                    for group in optimizer.param_groups:
                        group["lr"] = lr
                    _seed(settings.seed, progress.step, 0)  # of dropout: a resumed run draws the same
                    optimizer.zero_grad()
                    loss = 0.0
                    parts = list(
                        zip(
                            images.chunk(settings.accumulate), targets.chunk(settings.accumulate), strict=True
                        )
                    )
                    for index, (part, target) in enumerate(parts):
                        part = part.to(accelerator.device, memory_format=layout)
                        target = target.to(accelerator.device)
                        waits = index < len(parts) - 1
                        with accelerator.no_sync(model) if waits else contextlib.nullcontext():
                            with inputs.looked_at(step):
                                output = _output(model, part)
                            value = loss_of(output, target)
                            if teacher is not None:
                                value = value + teacher.loss(part, output)
                            value = value / len(parts)
                            accelerator.backward(value)
                        loss += all_sum(value.detach()).item() / world  # of all: they must stop together
                    if not np.isfinite(loss):
                        _give_up(net, epoch, step, state_file, "the loss")
                    if twin is not None:
                        share_gradients(net.parameters(), world)
                    if settings.clip is not None and twin is not None:
                        clip_gradients(net.parameters(), settings.clip)
                    elif settings.clip is not None:
                        accelerator.clip_grad_norm_(model.parameters(), settings.clip)
                    optimizer.step()
                    if settings.ema is not None:
                        weights.follow(decay_at(settings, progress.step))
                    progress.step += 1
                    progress.loss += loss
                    if accelerator.is_main_process:
                        show(epoch, step + 1, progress.loss / (step + 1), lr, {})
                    if stopped(accelerator) and step + 1 < steps:
                        save()
                        destroy_group_at_exit()
                        raise StoppedError(
                            f"stopped in epoch {epoch + 1} after {step + 1} of {steps} steps; all is saved "
                            f"in {out}. Go on with --resume."
                        )
            if problem := first_not_finite(net):
                _give_up(net, epoch, steps - 1, state_file, problem)
            if tally is not None and not start:
                tally.check(accelerator.device)
                tally = None  # one whole epoch tells
            figures: dict[str, Any] = {
                "epoch": epoch + 1,
                "loss": progress.loss / steps,
                "lr": lr,
                "images_per_second": (steps - start) * settings.batch / (time.perf_counter() - began),
                **({} if start else watch.figures()),
            }
            if not start and (constant := inputs.constant()):
                figures["constant_inputs"] = constant
            last = epoch + 1 == settings.epochs
            if val is not None and (last or (epoch + 1) % settings.evaluate_every == 0):
                with weights.network(accelerator.device) as trained, accelerator.autocast():
                    figures["val"] = evaluate(
                        trained,
                        val,
                        device=accelerator.device,
                        batch=recipe.data.evaluation.batch,
                        rank=rank,
                        world=world,
                        where=f"{recipe.data.name} {recipe.data.val}",
                    )
            figures["seconds"] = time.perf_counter() - began
            progress.history.append(figures)
            progress.loss = 0.0
            if last or (epoch + 1) % settings.save_every == 0:
                save()
            if accelerator.is_main_process:
                log_events(figures)
                show(epoch, steps, figures["loss"], lr, figures)
            if stopped(accelerator) and not last:
                save()
                destroy_group_at_exit()
                raise StoppedError(
                    f"stopped after epoch {epoch + 1} of {settings.epochs}; all is saved in {out}. "
                    "Go on with --resume."
                )
    if accelerator.is_main_process and progress.history:
        draw_curves(progress.history, out / CURVES)
    destroy_group_at_exit()
    return progress.history


def _silent(text: str) -> None:
    """What other processes have to say is what the main one says."""


def _loaded(loader: DataLoader[Any]) -> Iterator[Any]:
    """What a loader gives; an error of a loading process without that process's traceback."""
    try:
        yield from loader
    except DataError as error:
        raise DataError(str(error).strip().rpartition("DataError: ")[2]) from None


def _output(model: nn.Module, images: Tensor) -> Tensor:
    """What the network says; ConfigError where the images are too few or too small for it."""
    try:
        output = model(images)
        if not isinstance(output, Tensor):
            raise ConfigError(
                f"in training the network gives a {type(output).__name__}, expected one tensor (N, C, H, W): "
                "let its forward return that alone."
            )
        return output
    except ConfigError:
        raise
    except ValueError as error:
        if len(images) > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            f"{last_norm(model, images)}: BatchNorm cannot learn from one image at a time where maps are of "
            "one pixel, in a float network neither: take a larger training.batch, a smaller "
            "training.accumulate, or larger images (data.augmentation.size)."
        ) from error
    except RuntimeError as error:
        height, width = images.shape[-2:]
        other = isinstance(error, torch.OutOfMemoryError) or "size" not in str(error).lower()
        if other or min(height, width) >= SMALL:
            raise
        raise ConfigError(
            f"data.augmentation.size [{height}, {width}] is too small for the network: "
            f"{str(error).splitlines()[0].rstrip('.')}."
        ) from error


def _check_sizes(
    net: nn.Module, recipe: TrainingRecipe, data: DenseDataset, val: DenseDataset | None
) -> None:
    """Find out whether the network takes the images, by one forward pass for each kind of them."""
    size = recipe.data.augmentation.size
    check_size(net, data.truth, size, "data.augmentation.size", same_size=True)
    if recipe.data.evaluation.resize is not None:  # of the test split too, which is looked at later
        check_size(net, data.truth, recipe.data.evaluation.resize, "data.evaluation.resize")
    elif val is not None:
        height, width = val[0].image.shape[-2:]
        where = f"images of {recipe.data.val} (see data.evaluation)"
        check_size(net, val.truth, (height, width), where)


def _check_folder(out: Path, recipe: TrainingRecipe, resume: bool) -> None:
    state = out / STATE
    if not state.is_file():
        return
    if not resume:
        raise ConfigError(f"{out} holds a run already; go on with --resume, or name another folder.")
    stored = validate(read_recipe(state), str(state)).model_dump(mode="json")
    given = recipe.model_dump(mode="json")
    differing = sorted(_differences(stored, given))
    if differing:
        raise ConfigError(f"{out} holds a run of another recipe: {'; '.join(differing[:5])}.")


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {out}: {error.strerror or error}.") from error
    files.check_target(out / STATE)


def _differences(stored: Any, given: Any, name: str = "") -> Iterator[str]:
    free = ("about", "data.root", "data.workers", "training.save_every", "training.evaluate_every")
    if isinstance(stored, dict) and isinstance(given, dict):
        for key in stored.keys() | given.keys():
            yield from _differences(stored.get(key), given.get(key), f"{name}.{key}" if name else key)
    elif stored != given and name not in free:
        yield f"{name} was {stored!r}, is {given!r}"


def _seed(*numbers: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def _give_up(net: nn.Module, epoch: int, step: int, state: Path, what: str) -> None:
    found = first_not_finite(net)
    kept = f"{state} is of before" if state.is_file() else "nothing was saved yet"
    raise TrainingError(
        f"epoch {epoch + 1}, step {step + 1}: {what} is not finite"
        f"{f', and so is {found}' if found and found != what else ''}; {kept}. A lower training.lr, "
        "training.clip=1.0 or precision=no may help."
    )


def _write_log(path: Path, history: list[dict[str, Any]]) -> None:
    files.write_bytes(path, "".join(json.dumps(line) + "\n" for line in history).encode())


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[Accelerator], bool]]:
    """Let Ctrl-C wait for the end of a step; a second one does not. In other threads nothing changes."""
    pressed = False

    def note(number: int, frame: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    def stopped(accelerator: Accelerator) -> bool:
        if accelerator.num_processes == 1:
            return pressed
        return bool(all_sum(torch.tensor(float(pressed), device=accelerator.device)).item())

    try:
        old = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread
        yield stopped
        return
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, old)
