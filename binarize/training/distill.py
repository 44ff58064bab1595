"""Learning from a float network that was trained for the same task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binarize import files
from binarize.errors import ConfigError, warn
from binarize.files import container
from binarize.recipes.schema import Distillation
from binarize.training import saved
from binarize.training.distributed import all_sum
from binarize.training.evaluation import resized
from binarize.training.folder import model_file
from binarize.training.metadata import chosen_output, has_recipe
from binarize.training.outputs import selected


class Teacher:
    """A frozen network, and how far another one's outputs and encoder maps are from its own.

    Per pixel, with temperature T: T^2 KL(softmax(teacher / T) || softmax(student / T)) (Hinton et al., arXiv
    1503.02531), mean over pixels; with `loss: cross_entropy` -T^2 sum_c softmax(teacher / T)_c
    ln softmax(student / T)_c, larger by the teacher's entropy. Alone (`hard: 0`) with T = 1 that is the
    distributional loss of ReActNet (arXiv 2003.03488, Section 4.3). For depth mean |ln student - ln teacher|.
    Maps: mean over maps of mean((student - teacher)^2) / mean(teacher^2), the latter over the images of all
    processes.

    Args:
        settings: weights of both, and the teacher's file, the folder of its run or `zoo:NAME`.
        student: the network that learns; its attribute `encoder` gives the maps.
        device: where both are.
        rebuild: gives the float network that the recipe names, which stands in where the teacher's file names
            code that is gone, or is another account's.

    Raises:
        ConfigError: `features` is set and one of the networks has no `encoder`.

    Attributes:
        hard: weight of the loss against the truth.
    """

    def __init__(
        self,
        settings: Distillation,
        student: nn.Module,
        device: torch.device,
        rebuild: Callable[[], nn.Module] | None = None,
    ) -> None:
        self._settings = settings
        self.hard = settings.hard
        file = model_file(Path(settings.teacher))
        metadata = container.read_metadata(file)
        net = _read(file, metadata, rebuild)
        # float: a file may hold half-precision weights, as the zoo's do
        self._net = net.float().to(device).requires_grad_(False)
        self._output = chosen_output(metadata)
        self._maps: dict[str, list[Tensor]] = {}
        if settings.features:
            for name, net in (("student", student), ("teacher", self._net)):
                encoder = getattr(net, "encoder", None)
                if not isinstance(encoder, nn.Module):
                    raise ConfigError(f"distillation.features: the {name} has no part called encoder.")
                encoder.register_forward_hook(self._keep(name))

    def loss(self, images: Tensor, output: Tensor) -> Tensor:
        """What is added to the loss of a part.

        Args:
            images: (N, 3, H, W), the ones that `output` is of.
            output: of the student, (N, C, H, W), or (N, C) of a classifier.
        """
        with torch.no_grad():
            expected = selected(self._net(images), self._output).float()
        output = output.float()
        expected = resized(expected, output.shape[-2:])
        if expected.shape != output.shape:
            raise ConfigError(
                f"distillation.teacher gives {expected.shape[1]} channels, the network {output.shape[1]}."
            )
        if output.shape[1] > 1:
            t = self._settings.temperature
            learnt, wanted = (output / t).log_softmax(1), (expected / t).log_softmax(1)
            if self._settings.loss == "kl":
                difference = F.kl_div(learnt, wanted, reduction="none", log_target=True)
            else:
                difference = -wanted.exp() * learnt
            apart = t * t * difference.sum(1).mean()
        else:
            apart = (output.clamp_min(1e-3).log() - expected.clamp_min(1e-3).log()).abs().mean()
        total = self._settings.weight * apart
        if self._settings.features:
            # taken out: the graph behind a map would live as long as the network
            student, teacher = (self._maps.pop(name) for name in ("student", "teacher"))
            pairs = [(a.float(), b.float()) for a, b in zip(student, teacher, strict=True)]
            between = torch.stack([(a - b).square().mean() for a, b in pairs])
            own = torch.stack([*(b.square().mean() for _, b in pairs), torch.ones_like(total)])
            *powers, n = all_sum(own)  # of the images of all processes
            power = (torch.stack(powers) / n).clamp_min(1e-12)
            total = total + self._settings.features * (between / power).mean()
        return total

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, result: Any) -> None:
            self._maps[name] = list(result)

        return hook


def _read(file: Path, metadata: Mapping[str, str], rebuild: Callable[[], nn.Module] | None) -> nn.Module:
    """The network of a teacher's file; one of code that cannot run is built by the recipe of the student."""
    trained = has_recipe(metadata)
    try:
        return saved.load(file)[1] if trained else files.load(file)
    except ConfigError as error:
        if rebuild is None or not saved.is_custom(file):
            raise
        model = rebuild()
        net = saved.load(file, model)[1] if trained else files.load(file, model)
        warn(f"distillation.teacher is built by the recipe's network, since {error}")
        return net
