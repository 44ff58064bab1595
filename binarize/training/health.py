"""How many latent weights flip, how many get no gradient, and where numbers are not finite."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from torch import Tensor, nn

from binarize.errors import TrainingError
from binarize.layers import BinaryLayer
from binarize.training.distributed import all_sum
from binarize.training.dtensor import is_split, local_part


class LatentWatch:
    """Signs of all latent weights at one time, to be compared with those of a later one.

    Args:
        model: converted or not.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = [m for m in model.modules() if isinstance(m, BinaryLayer)]
        self._signs: list[Tensor] = []
        self.restart()

    def restart(self) -> None:
        """Compare with what they are now."""
        self._signs = [self._positive(layer) for layer in self._layers]

    def figures(self) -> dict[str, float]:
        """Shares of all latent weights; nothing for a float network.

        `flipped`: those with another sign than at the last `restart`. `dead`: those that the last step's
        gradient did not reach (exactly 0, or none although they are trained). Where weights are split, all
        processes have to call this.
        """
        total = sum(layer.weight.numel() for layer in self._layers)
        if not total:
            return {}
        pairs = zip(self._layers, self._signs, strict=True)
        flipped = sum(int(self._positive(layer).ne(old).sum()) for layer, old in pairs)
        dead = sum(_without_gradient(layer.weight) for layer in self._layers)
        weight = self._layers[0].weight
        if is_split(weight):
            counts = torch.tensor([flipped, dead], device=weight.device)
            flipped, dead = all_sum(counts).tolist()
        return {"flipped": flipped / total, "dead": dead / total}

    @staticmethod
    def _positive(layer: BinaryLayer) -> Tensor:
        return local_part(layer.weight.detach()) >= 0


def _without_gradient(weight: nn.Parameter) -> int:
    if weight.grad is None:
        return local_part(weight.detach()).numel() if weight.requires_grad else 0
    return int((local_part(weight.grad) == 0).sum())


def first_not_finite(model: nn.Module) -> str:
    """What holds the first NaN or infinity: a parameter, a gradient, statistics, by name; or nothing.

    All processes have to call this, and all get the same answer. Statistics are the buffers of norms and of
    the toolkit's modules; those of others may hold infinities on purpose, as the masks of attention do.
    """
    parameters = list(model.named_parameters())
    found = [(f"the weights {name}", p) for name, p in parameters]
    for path, module in model.named_modules():
        ours = type(module).__module__.startswith("binarize.")
        if ours or isinstance(module, nn.modules.batchnorm._NormBase):
            prefix = f"{path}." if path else ""
            own = module.named_buffers(recurse=False)
            found += [(f"the statistics {prefix}{name}", b) for name, b in own if b.is_floating_point()]
    # backward meets the last layers first
    found += [(f"the gradient of {name}", p.grad) for name, p in reversed(parameters) if p.grad is not None]
    if not found:
        return ""
    broken = all_sum(torch.stack([_broken(tensor) for _, tensor in found]))
    return next((what for (what, _), n in zip(found, broken.tolist(), strict=True) if n), "")


def not_finite(model: nn.Module, epoch: int, step: int, state: Path, what: str) -> TrainingError:
    """The error that ends a training whose numbers are not finite. All processes have to call this.

    Args:
        model: the network.
        epoch: counted from 0.
        step: of the epoch, counted from 0.
        state: the file of the last checkpoint, whether it exists or not.
        what: that is not finite: "the loss".
    """
    found = first_not_finite(model)
    verb = "are" if found.startswith(("the weights", "the statistics")) else "is"
    kept = f"{state} is of before" if state.is_file() else "nothing was saved yet"
    return TrainingError(
        f"epoch {epoch + 1}, step {step + 1}: {what} is not finite"
        f"{f', and so {verb} {found}' if found and found != what else ''}; {kept}. A lower training.lr, "
        "training.clip=1.0 or precision=no may help."
    )


def last_norm(model: nn.Module, images: Tensor) -> str:
    """The norm, by name, that a forward pass comes to last: the one that refuses its input."""
    called: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda _module, _args, name=name: called.append(str(name)))
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
    ]
    try:
        with torch.no_grad(), contextlib.suppress(ValueError):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return called[-1] if called else ""


def _broken(tensor: Tensor) -> Tensor:
    return torch.isfinite(local_part(tensor.detach())).all().logical_not().float()
