"""What activation quantizers (and weight rules) have learnt, layer by layer (BiDense, Figures 6a to 6c)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from binarize.errors import ConfigError
from binarize.inspect.binarizers import Binarizer, find_binarizers
from binarize.inspect.roles import roles_of


@dataclass(frozen=True, kw_only=True)
class LearntParameters:
    """Learnt parameters of one network.

    Attributes:
        layers: paths of the binarizers, shallow to deep.
        roles: of each in its block (`binarize.inspect.roles`).
        values: by the parameter's name in the method, one array (n,) float64 for each layer: n is 1, a number
            of groups or the channels; empty where a layer does not have it. What a weight rule learns has
            `weight.` in front of its name.
    """

    layers: tuple[str, ...]
    roles: tuple[str, ...]
    values: dict[str, tuple[np.ndarray, ...]]

    @property
    def means(self) -> dict[str, np.ndarray]:
        """(layers,) float64 by name; NaN where a layer does not have it."""
        return {
            name: np.array([v.mean() if len(v) else np.nan for v in v_]) for name, v_ in self.values.items()
        }


def parameters(model: nn.Module, order: Sequence[str] = ()) -> LearntParameters:
    """The learnt parameters of a network's quantizers.

    Every parameter of a quantizer counts, whatever its method: k, b and a of the DAB, beta of ReActNet, alpha
    and beta of AdaBin. In a packed network they have the names of the file format, and those of weight rules
    are folded into scales.

    Args:
        model: converted or packed; only looked at.
        order: paths, shallow to deep, such as `Entropy.layers`; else the order of definition counts.

    Raises:
        ConfigError: a name in `order` is not a binarizer of the network.
    """
    found = {binarizer.name: binarizer for binarizer in find_binarizers(model)}
    if unknown := [name for name in order if name not in found]:
        raise ConfigError(
            f"parameters: order names {unknown[0]!r}, which is not a binary layer of the network."
        )
    layers = (*order, *(name for name in found if name not in set(order)))
    held = [_parameters(found[name]) for name in layers]
    names = dict.fromkeys(name for one in held for name in one)
    nothing = np.zeros(0)
    return LearntParameters(
        layers=layers,
        roles=tuple(roles_of(layers)),
        values={name: tuple(one.get(name, nothing) for one in held) for name in names},
    )


def _parameters(binarizer: Binarizer) -> dict[str, np.ndarray]:
    module: Any = binarizer.module
    if binarizer.quantizer is None:
        names = module.spec.quantizer.parameters(module.spec.in_channels)
        return {name: _flat(module.vector(name)) for name in names}
    found = {name: _flat(value) for name, value in binarizer.quantizer.named_parameters()}
    state = getattr(module, "weight_state", None)
    if state is not None:
        found |= {f"weight.{name}": _flat(value) for name, value in state.named_parameters()}
    return found


def _flat(value: Any) -> np.ndarray:
    return value.detach().double().flatten().cpu().numpy()
