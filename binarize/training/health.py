"""Are latent weights alive: how many flip, how many no gradient reaches, and where numbers went wrong."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from binarize.layers import BinaryLayer


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
        self._signs = [layer.weight.detach() >= 0 for layer in self._layers]

    def figures(self) -> dict[str, float]:
        """Shares of all latent weights; nothing for a float network.

        `flipped`: those with another sign than at the last `restart`. `dead`: those that the last step's
        gradient did not reach (exactly 0).
        """
        total = sum(layer.weight.numel() for layer in self._layers)
        if not total:
            return {}
        pairs = zip(self._layers, self._signs, strict=True)
        flipped = sum(int((layer.weight.detach() >= 0).ne(old).sum()) for layer, old in pairs)
        gradients = [layer.weight.grad for layer in self._layers]
        dead = sum(int((g == 0).sum()) for g in gradients if g is not None)
        return {"flipped": flipped / total, "dead": dead / total}


def first_not_finite(model: nn.Module) -> str:
    """What holds the first NaN or infinity: a parameter, a gradient, a buffer, by name; or nothing."""
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"the weights {name}"
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and not bool(torch.isfinite(buffer).all()):
            return f"the statistics {name}"
    for name, parameter in reversed(list(model.named_parameters())):  # backward meets the last layers first
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return f"the gradient of {name}"
    return ""
