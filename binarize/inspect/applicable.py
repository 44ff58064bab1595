"""Which analyses make sense for which networks."""

from __future__ import annotations

from torch import nn

from binarize.errors import ConfigError
from binarize.layers import BinaryLayer
from binarize.runtime import PackedLayer

ANALYSES = {
    "entropy": "entropy of the activations behind each binarization",
    "parameters": "what the quantizers have learnt, over depth",
    "maps": "feature maps around the first binarization",
    "weights": "latent weights: distribution, signs, flips",
    "bypass": "share of each output's variance that comes through the bypass",
    "gradients": "gradient that reaches each latent weight",
    "sensitivity": "what the main figure gains from each layer that stays float",
}
"""All analyses by name, in the order in which they are shown."""


def is_packed(model: nn.Module) -> bool:
    """Whether a network has packed layers."""
    return any(isinstance(module, PackedLayer) for module in model.modules())


def is_float(model: nn.Module) -> bool:
    """Whether a network has no binary layer, in training or packed."""
    return not any(isinstance(module, (BinaryLayer, PackedLayer)) for module in model.modules())


def why_not(model: nn.Module, analysis: str) -> str:
    """Why an analysis says nothing about a network; empty if it does.

    Args:
        model: float, converted or packed.
        analysis: one of `ANALYSES`.
    """
    if is_float(model) and analysis != "sensitivity":
        return "a float network has no binary layers"
    if is_packed(model) and analysis in ("gradients", "sensitivity"):
        return "a packed network has no latent weights: inspect the run that it was made from"
    return ""


def needs_latent_weights(model: nn.Module, analysis: str) -> None:
    """Refuse a network for which an analysis makes no sense.

    Raises:
        ConfigError: it is packed or float.
    """
    if reason := why_not(model, analysis):
        raise ConfigError(f"{analysis}: {reason}.")
