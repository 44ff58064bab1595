"""Statistics of BatchNorm measured again with the final weights (`training.calibrate`)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from binarize.calibration import calibrate_in_place
from binarize.data.samples import SampleDataset
from binarize.recipes import TrainingRecipe
from binarize.training.batches import Batches, read_batches
from binarize.training.build import memory_format
from binarize.training.run import Run


def training_batches(recipe: TrainingRecipe, data: SampleDataset, batches: int) -> Iterator[Tensor]:
    """Images (N, 3, H, W) of this many batches, as a training would read them after its last epoch.

    Args:
        recipe: says how many are in a batch, and in how many parts of it.
        data: the training split, through the training transform.
        batches: may be more than an epoch has.
    """
    settings = recipe.training
    order = Batches(len(data), settings.batch, settings.seed)
    loader = DataLoader(data, batch_sampler=order, num_workers=recipe.data.workers)

    def all_of_them() -> Iterator[Tensor]:
        for epoch in count(settings.epochs):
            order.start(epoch)
            for images, _ in read_batches(loader):
                yield images

    for images in islice(all_of_them(), batches):
        yield from images.chunk(settings.accumulate)


def recalibrate(run: Run) -> None:
    """Measure the statistics of the weights that will be kept, over whole batches in every process.

    All processes have to call this.
    """
    settings = run.settings
    state = torch.get_rng_state()
    images = training_batches(run.recipe, run.data, settings.calibrate)
    layout = memory_format(settings)
    with run.strategy.whole_network(run.averaged, run.device) as net, run.accelerator.autocast():
        moved = (part.to(run.device, memory_format=layout) for part in images)
        calibrate_in_place(net, moved, thresholds="keep")
        if net is not run.net:
            _copy_statistics(net, run.net)
    torch.set_rng_state(state)


def _copy_statistics(source: nn.Module, target: nn.Module) -> None:
    own = dict(target.named_modules())
    with torch.no_grad():
        for name, module in source.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and name in own:
                for buffer, tensor in module.named_buffers(recurse=False):
                    own[name].get_buffer(buffer).copy_(tensor)
