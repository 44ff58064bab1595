"""One training with all its parts, as `setup` builds it and `step`, `checkpoint` and `loop` use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from binarize.data.samples import SampleDataset
from binarize.preprocessing import Preprocessing
from binarize.recipes import TrainingRecipe
from binarize.recipes.schema import Training
from binarize.training.averaging import MovingAverage
from binarize.training.batches import Batches
from binarize.training.callbacks import Callbacks
from binarize.training.distill import Teacher
from binarize.training.health import LatentWatch
from binarize.training.inputs import InputWatch
from binarize.training.mixing import Mixing
from binarize.training.progress import Event, Progress
from binarize.training.strategy import Strategy
from binarize.training.tally import Tally


@dataclass(kw_only=True)
class Run:
    """One training.

    Attributes:
        recipe: that it follows.
        out: its folder.
        accelerator: device, precision and processes.
        strategy: the network, and how processes hold it.
        forward: what a training step calls: `strategy.model`, or that compiled.
        optimizer: of the network's parameters, prepared by the accelerator.
        average: of the parameters; None without `training.ema`.
        progress: where it is.
        loss: of outputs (N, C, H, W) and targets (N, H, W), or (N, C) and (N,).
        mixing: of the images of a step with each other; None for none.
        teacher: whose outputs are learned too; None without `training.distillation`.
        data: the training split.
        val: the split that is evaluated during training, if there is one.
        batches: which images a step sees.
        loader: that reads them.
        tally: counts over the truths of the first whole epoch; None afterwards.
        latents: examines latent weights.
        inputs: examines the inputs of binary layers.
        images: what an image goes through before it is the network's input; None if that is not known.
        report: called with what happened, in the main process; None if no one listens.
        callbacks: those of the caller.
        constant_loss: of the best prediction that is the same for all pixels; None while it is unknown.
    """

    recipe: TrainingRecipe
    out: Path
    accelerator: Accelerator
    strategy: Strategy
    forward: Callable[[Tensor], Any]
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    progress: Progress
    loss: nn.Module
    mixing: Mixing | None
    teacher: Teacher | None
    data: SampleDataset
    val: SampleDataset | None
    batches: Batches
    loader: DataLoader[Any]
    tally: Tally | None
    latents: LatentWatch
    inputs: InputWatch
    images: Preprocessing | None
    report: Callable[[Event], None] | None
    callbacks: Callbacks
    constant_loss: float | None = None

    @property
    def settings(self) -> Training:
        """The recipe's part `training`."""
        return self.recipe.training

    @property
    def net(self) -> nn.Module:
        """The network, without a wrapper of data-parallel training."""
        return self.strategy.net

    @property
    def share(self) -> float:
        """How much of the planned training is done, 0 to 1, by steps; a run that was extended stays at 1."""
        return min(1.0, self.progress.step / (self.progress.steps * self.progress.planned))

    @property
    def device(self) -> torch.device:
        """Of this process."""
        return self.accelerator.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.accelerator.is_main_process

    @property
    def averaged(self) -> dict[str, Tensor] | None:
        """The averaged parameters by name; None without `training.ema`."""
        return None if self.average is None else self.average.tensors

    def show(self, epoch: int, step: int, loss: float, rate: float, figures: dict[str, Any]) -> None:
        """Report a step or, with its figures, the end of an epoch; see `Event`."""
        if self.report is not None and self.is_main:
            self.report(self.event(epoch, step, loss, rate, figures))

    def event(self, epoch: int, step: int, loss: float, rate: float, figures: dict[str, Any]) -> Event:
        """What happened; see `Event`."""
        steps, images = self.progress.steps, self.settings.batch
        return Event(
            epoch=epoch, step=step, steps=steps, loss=loss, rate=rate, images=images, figures=figures
        )
