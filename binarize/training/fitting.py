"""Training without a recipe file: a network and data that the caller has, by the loop of `train`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from binarize import graph, methods
from binarize.data.dataset import Truth, truth_as_json
from binarize.data.own_samples import IMAGENET, OwnSamples, samples
from binarize.data.samples import SampleDataset
from binarize.errors import ConfigError
from binarize.files import container
from binarize.graph.model_copy import copied
from binarize.methods import Method
from binarize.model_info import qualified_name
from binarize.preprocessing import Preprocessing, preprocessing_of
from binarize.random_state import same_random_state
from binarize.recipes import TrainingRecipe, validate
from binarize.training.best import best_of
from binarize.training.build import FROM_PYTHON
from binarize.training.callbacks import Callback, End
from binarize.training.folder import BEST, MODEL
from binarize.training.loop import follow
from binarize.training.outcome import epoch_line
from binarize.training.run import Run
from binarize.training.setup import Given, set_up


@dataclass(frozen=True, kw_only=True)
class Result:
    """What `fit` gives.

    Attributes:
        network: trained, in evaluation mode, on the CPU: that of the last epoch, or with `keep="best"` that
            of the best one; with `ema` the averaged weights.
        history: figures of every epoch: `epoch`, `loss`, `lr`, `seconds`, and `val` where it was evaluated.
        best: epoch (from 1), name and value of the best main figure on `val`; None without `val`.
        stopped: why a callback ended the training; empty if none did.
        out: folder of the run; None if nothing was kept.
        file: of the network, for `binarize.load`; None if nothing was kept.
        best_file: of the network of the best epoch, if that was kept.
    """

    network: nn.Module
    history: list[dict[str, Any]]
    best: tuple[int, str, float] | None
    stopped: str
    out: Path | None
    file: Path | None
    best_file: Path | None


def fit(
    network: nn.Module,
    data: Any,
    *,
    epochs: int,
    val: Any = None,
    truth: Truth | None = None,
    batch: int = 8,
    lr: float = 1e-3,
    method: str | Method | None = None,
    policy: graph.Policy | None = None,
    output: str | int | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] = (),
    out: str | Path | None = None,
    resume: bool = False,
    workers: int = 0,
    tell: Callable[[str], None] | None = None,
    **training: Any,
) -> Result:
    """Train a network on data; loss and figures follow from what the targets mean.

    It is the loop of `binarize train`: losses, schedules, checkpoints, resumption and processes are the same.

    Args:
        network: float or converted, left untouched. It gives logits (N, classes, H, W), metres (N, 1, H, W)
            or (N, H, W), or logits (N, classes) for classification.
        data: a data set of the toolkit with its transform, or pairs (image, target) by index, such as a torch
            Dataset. Images: PIL, arrays (H, W, 3) or tensors (3, H, W) of 8 bits, or tensors (C, H, W) of
            floats as the network takes them, all of one size. Targets: class ids (H, W), metres (H, W), or a
            class id.
        epochs: passes over all images.
        val: likewise, of any sizes; evaluated after each epoch.
        truth: what targets mean: `binarize.data.Labels(names=...)`, `Depth(scale=1, most=...)`,
            `Classes(names=...)`; not needed for data sets that have an attribute `truth`.
        batch: images of a step.
        lr: highest learning rate.
        method: converts a copy of the network first, as `binarize.apply`: `"bidense"`, or one with options,
            `binarize.methods.AdaBin()`. None trains the network as it is.
        policy: with `method`: which layers stay float.
        output: which of the network's outputs counts: an index, a key or an attribute.
        preprocessing: mean and std for images of 8 bits; by default those that the network knows
            (`binarize.preprocessing`), else ImageNet's. The file holds them. Of images that come as floats it
            holds nothing, unless it is given here.
        callbacks: see `Callback`.
        out: folder of the run; None keeps no files.
        resume: continue the run in `out`, with the same arguments.
        workers: processes that load images.
        tell: called with lines of text: what is trained, and each epoch; for instance `print`.
        training: further settings of a recipe's part `training` (`binarize.recipes.schema.Training`):
            `ema=0.99`, `schedule="constant"`, `keep="best"`, `patience=5`, `seed=1`...

    Raises:
        ConfigError: arguments that cannot be used, a network that does not fit the data, or a folder that
            holds another run.
        DataError: data that is not as described above, or has nothing to learn from.
        StoppedError: Ctrl-C; all was saved.
        TrainingError: numbers that are not finite.
        TraceError: the network cannot be converted.
    """
    images = _images(network, preprocessing)
    seed = training.get("seed", 0)
    split = samples(data, truth, images=images, seed=seed, same_size=True)
    looked = None if val is None else samples(val, truth or split.truth, images=images, what="val")
    _check_alike(split, looked)
    made = methods.create(method) if isinstance(method, str) else method
    size = tuple(int(side) for side in split[0].image.shape[-2:])
    options = {"keep": "last", **training} if out is None else training
    recipe = _recipe(
        network, made, policy, size, output, val is not None, workers,
        {"epochs": epochs, "batch": batch, "lr": lr, **options},
    )  # fmt: skip
    given = Given(
        network=_prepared(network, made, policy, split, seed),
        data=split,
        val=looked,
        images=None if preprocessing is None and _as_floats(split) else images,
    )
    return _run(recipe, given, None if out is None else Path(out), resume, callbacks, tell)


def _run(
    recipe: TrainingRecipe,
    given: Given,
    out: Path | None,
    resume: bool,
    callbacks: Sequence[Any],
    tell: Callable[[str], None] | None,
) -> Result:
    last = _Last()
    heard = [*callbacks, last]
    if tell is not None:
        heard.append(_Lines(tell, recipe.training.epochs))
    if out is None and resume:
        raise ConfigError("fit: resume=True continues a run in a folder: give out=.")
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="binarize-")))
        with same_random_state():
            run = set_up(recipe, folder, resume=resume, tell=tell, callbacks=heard, given=given)
            history = follow(run, tell)
        trained = _trained(run)
    best_file = folder / (BEST if recipe.training.keep == "both" else MODEL)
    return Result(
        network=trained,
        history=history,
        best=best_of(history),
        stopped=last.stopped,
        out=out,
        file=None if out is None else folder / MODEL,
        best_file=best_file if out is not None and run.progress.best is not None else None,
    )


class _Last(Callback):
    """Keeps why the training ended."""

    stopped = ""

    def on_end(self, end: End) -> None:
        self.stopped = end.stopped


class _Lines(Callback):
    """A line of text for each epoch."""

    def __init__(self, tell: Callable[[str], None], epochs: int) -> None:
        self._tell, self._epochs = tell, epochs

    def on_epoch(self, figures: Mapping[str, Any]) -> None:
        self._tell(epoch_line(figures, self._epochs))


def _images(network: nn.Module, given: Preprocessing | Mapping[str, Any] | None) -> Preprocessing:
    if isinstance(given, Preprocessing):
        return given
    if given is not None:
        return Preprocessing.from_dict(given)
    return preprocessing_of(network) or IMAGENET


def _as_floats(data: SampleDataset) -> bool:
    """Whether the caller prepared the images; the transforms of the toolkit apply ImageNet's mean and std."""
    return isinstance(data, OwnSamples) and data.has_floats()


def _check_alike(data: SampleDataset, val: SampleDataset | None) -> None:
    if val is not None and type(val.truth) is not type(data.truth):
        raise ConfigError(
            f"val: its truth is {type(val.truth).__name__}, that of data is {type(data.truth).__name__}."
        )


def _prepared(
    network: nn.Module, method: Method | None, policy: graph.Policy | None, data: SampleDataset, seed: int
) -> nn.Module:
    """A copy of the network, converted if there is a method."""
    spec = getattr(network, "binarize_spec", None)
    if method is None:
        if policy is not None:
            raise ConfigError("fit: policy says which layers a method leaves float: give method= too.")
        made = copied(network)
    else:
        generator = torch.Generator().manual_seed(seed)
        example = data[0].image[None]
        made = graph.apply(network, method, policy=policy, example_inputs=example, generator=generator)
    if spec is not None:
        made.binarize_spec = spec
    return made


def _recipe(
    network: nn.Module,
    method: Method | None,
    policy: graph.Policy | None,
    size: tuple[int, ...],
    output: str | int | None,
    val: bool,
    workers: int,
    training: dict[str, Any],
) -> TrainingRecipe:
    """The arguments as a recipe, which the run's files hold; network and data are called by what they are."""
    if training.get("start_from") is not None:
        raise ConfigError("fit: start_from is for recipes; load the weights into the network first.")
    if isinstance(training.get("schedule"), str):
        training["schedule"] = {"name": training["schedule"]}
    chosen = policy or graph.Policy()
    values = {
        "about": "",
        "data": {
            "name": FROM_PYTHON,
            "train": "data",
            "val": "val" if val else None,
            "test": "val",
            "augmentation": {"size": size},
            "evaluation": {"batch": training["batch"]},
            "workers": workers,
        },
        "network": {"name": qualified_name(network), "output": output},
        "method": None if method is None else {**_said(method), **chosen.as_dict()},
        "training": training,
    }
    return validate(values, "of fit")


def _said(method: Method) -> dict[str, Any]:
    """Name of a method, and those of its options that are not its defaults."""
    usual = methods.create(method.name).options()
    options = {name: value for name, value in method.options().items() if usual.get(name) != value}
    return {"name": method.name, "options": options}


def _trained(run: Run) -> nn.Module:
    """A copy of the network that was kept, on the CPU."""
    with run.strategy.whole_network(run.averaged, torch.device("cpu")) as net:
        trained = copied(net).cpu().eval()
    if run.settings.keep == "best" and run.progress.best is not None:
        # tied tensors are stored once
        trained.load_state_dict(container.read(run.out / MODEL).tensors, strict=False)
    if run.images is not None:
        trained.binarize_preprocessing = run.images.as_dict()  # type: ignore[assignment] - a plain attribute
    trained.binarize_truth = truth_as_json(run.data.truth)  # type: ignore[assignment] - likewise
    return trained
