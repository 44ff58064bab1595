"""A packed layer and its input as arguments of the kernels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from binarize.errors import ConfigError
from binarize.native.epilogue import Epilogue
from binarize.native.types import Dab
from binarize.runtime.layer_data import LayerData


def scale_and_shift(layer: LayerData) -> Epilogue:
    """The values of weights and activations, and the shift behind their product."""
    scale, shift = layer.vector("scale"), layer.vector("shift")
    offset = layer.vector("offset") if layer.spec.offset else None
    if layer.spec.quantizer.kind == "step":  # (sign + 1) / 2; of both sets together the products are doubled
        half = None if offset is None else offset / 2
        midpoint = 0.0 if layer.spec.quantizer.ranges else 1.0
        return Epilogue(mul=scale / 2, add=shift, offset=half, midpoint=midpoint)
    if layer.spec.quantizer.kind == "shifted_step":  # (sign + 1) / 2
        half = None if offset is None else offset / 2
        return Epilogue(mul=scale / 2, add=shift, offset=half, midpoint=1.0)
    if layer.spec.quantizer.kind != "adabin":
        return Epilogue(mul=scale, add=shift, offset=offset)
    alpha = layer.vector("alpha")  # one factor of all activations: it may stand at the weights as well
    offset = None if offset is None else alpha * offset
    return Epilogue(mul=alpha * scale, add=shift, offset=offset, midpoint=float(layer.vector("beta")))


def steps_of(layer: LayerData) -> dict[str, Tensor]:
    """What makes the bit x > 0 of the sign that kernels take: infinity times 0 is NaN, whose bit is 0.

    Args:
        layer: whose quantizer is a `step`.
    """
    quantizer, channels = layer.spec.quantizer, layer.spec.in_channels
    infinite = torch.full((channels,), torch.inf)
    if not quantizer.ranges:
        return {"mul": infinite}
    signed, stepped = two_sets(layer)
    ones = (torch.ones(2 * len(signed)), infinite[: len(stepped)], torch.ones(len(stepped)))
    always = torch.zeros(2 * channels)
    always[2 * channels - len(stepped) :] = torch.inf
    return {"mul": torch.cat(ones), "add": always}


def two_sets(layer: LayerData) -> tuple[Tensor, Tensor]:
    """The channels whose values are +-1, and those whose values are 0 and 1."""
    stepped = torch.zeros(layer.spec.in_channels, dtype=torch.bool)
    for start, stop in layer.spec.quantizer.ranges:
        stepped[start:stop] = True
    return (~stepped).nonzero().flatten(), stepped.nonzero().flatten()


def doubled(layer: LayerData) -> Tensor | None:
    """Channels whose sums of +-1 products are twice those of a layer with both sets; None for others.

    With weights w: 2 sum w v = sum w s + sum w s over the signed channels, + sum w s + sum w over those of 0
    and 1, v being (s + 1) / 2. The last sum is that of channels whose sign is +1 (and 0 in the padding).
    """
    if not layer.spec.quantizer.ranges:
        return None
    signed, stepped = two_sets(layer)
    return torch.cat([signed, signed, stepped, stepped])


def dab_of(layer: LayerData) -> Dab:
    """The parameters of its activation quantizer."""
    quantizer = layer.spec.quantizer
    a: Tensor | None = None
    if quantizer.scale == "adaptive":
        a = layer.vector("a")
    elif quantizer.scale == "learned":
        raise RuntimeError("a scale without statistics")
    return Dab(
        k=layer.vector("k") if quantizer.threshold in ("adaptive", "mean") else None,
        b=layer.vector("b") if quantizer.threshold in ("adaptive", "b") else None,
        a=a,
        groups=quantizer.scale_groups(layer.spec.in_channels) if quantizer.scale != "none" else 0,
        plain=quantizer.scale == "mad",
    )


def quantizer_arguments(data: LayerData) -> dict[str, Any]:
    """What a `PreparedPack` takes of a layer's quantizer: `dab`, or `mul` and `add`."""
    kind = data.spec.quantizer.kind
    if kind == "dab":
        return {"dab": dab_of(data)}
    if kind == "step":
        return dict(steps_of(data))
    if kind == "redistributed":
        return {"mul": data.vector("k"), "add": data.vector("b")}
    if kind in ("shifted", "shifted_step"):
        return {"add": data.vector("beta")}
    if kind == "adabin":
        # dividing by alpha turns the comparison around where it is negative
        sign = torch.sign(data.vector("alpha"))
        add = -sign * data.vector("beta")
        channels = data.spec.in_channels
        return {"mul": sign.expand(channels), "add": add.expand(channels)}
    return {}


def check_input(layer: LayerData, x: Tensor) -> None:
    """The kernels take a map as it is described: what does not fit the weights must not reach them.

    Raises:
        ConfigError: another number of channels or dimensions than the layer's.
    """
    spec = layer.spec
    linear = spec.kind == "linear"
    fits = x.dim() >= 1 if linear else x.dim() == len(spec.kernel) + 2
    if not fits or x.shape[-1 if linear else 1] != spec.in_channels:
        places = "(..., Cin)" if linear else f"(N, Cin{', size' * len(spec.kernel)})"
        raise ConfigError(
            f"a packed {spec.kind} layer of {spec.in_channels} input channels got an input of shape "
            f"{tuple(x.shape)}; expected {places} with Cin = {spec.in_channels}."
        )


def is_finite(x: Tensor) -> bool:
    """Whether all of it is."""
    return bool(torch.isfinite(x).all())


def as_maps(x: Tensor, *, linear: bool) -> Tensor:
    """(N, C, H, W), a view where that is possible; rows (N, C) are images of one position."""
    if not linear:
        return x.unsqueeze(2) if x.dim() == 3 else x
    if x.dim() == 4:
        return x.movedim(-1, 1)
    images = x.shape[0] if x.dim() > 1 else 1
    return x.reshape(images, 1, math.prod(x.shape[1:-1]), x.shape[-1]).movedim(-1, 1)


def back(y: Tensor, x: Tensor, *, linear: bool) -> Tensor:
    """The inverse of `as_maps` for a result with other channels or positions."""
    if not linear:
        return y.squeeze(2) if x.dim() == 3 else y
    return y.movedim(1, -1).reshape(*x.shape[:-1], y.shape[1])
