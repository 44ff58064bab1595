"""Latent weights: their distribution, the share of each sign, and how many signs changed in training.

A weight's sign is the bit that a packed file holds of it: of a rule that centres its filters, that of the
centred weight. Flips are counted between a network and the one that its training started from; a weight that
flipped and came back counts as unchanged. What each epoch flipped is in the log of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from binarize.layers import BinaryLayer
from binarize.runtime import PackedLayer

EDGES = np.linspace(-4.0, 4.0, 82)
"""Of the bins of `LatentWeights.histogram`, in units of the layer's mean abs(w)."""


@dataclass(frozen=True, kw_only=True)
class LatentWeights:
    """The latent weights of one network.

    Attributes:
        layers: paths of the binary layers, in the order of definition.
        weights: (layers,) int64, how many.
        positive: (layers,) float64: share of the weights whose sign is +1.
        constant: (layers,) int64: output filters all of whose weights have one sign.
        size: (layers,) float64: mean abs(w); NaN in packed networks, which hold signs only.
        histogram: (layers, 81) float64: shares of w / mean abs(w) in the bins between `EDGES`; the outer bins
            hold what is beyond. NaN in packed networks.
        flipped: (layers,) float64: share of the signs that differ from the start's; None if the start is not
            known, NaN for a layer that the start does not have.
        epochs: (epochs,) int64: those that the run's log tells of.
        flipped_in_epoch: (epochs,) float64: share of all latent weights with another sign than before the
            epoch.
        without_gradient: (epochs,) float64: share of all latent weights whose gradient in the epoch's last
            step was 0.
    """

    layers: tuple[str, ...]
    weights: np.ndarray
    positive: np.ndarray
    constant: np.ndarray
    size: np.ndarray
    histogram: np.ndarray
    flipped: np.ndarray | None
    epochs: np.ndarray
    flipped_in_epoch: np.ndarray
    without_gradient: np.ndarray

    @property
    def never_flipped(self) -> tuple[str, ...]:
        """Layers all of whose signs are those of the start."""
        if self.flipped is None:
            return ()
        return tuple(name for name, share in zip(self.layers, self.flipped, strict=True) if share == 0)


def latent_weights(
    model: nn.Module, *, initial: nn.Module | None = None, history: Sequence[Mapping[str, Any]] = ()
) -> LatentWeights:
    """Look at the latent weights of a network; nothing is run.

    Args:
        model: converted, or packed: then signs only.
        initial: the converted network that its training started from, if flips are wanted.
        history: the figures of each epoch, as a run's log holds them (`epoch`, `flipped`, `dead`).
    """
    layers = _layers(model)
    signs = {name: _positive(layer) for name, layer in layers.items()}
    sizes = [_size(layer) for layer in layers.values()]
    told = [line for line in history if "flipped" in line]
    return LatentWeights(
        layers=tuple(layers),
        weights=np.array([bits.numel() for bits in signs.values()], dtype=np.int64),
        positive=np.array([bits.double().mean().item() for bits in signs.values()]),
        constant=np.array([_constant(bits) for bits in signs.values()], dtype=np.int64),
        size=np.array(sizes),
        histogram=np.array([_histogram(layer) for layer in layers.values()]).reshape(-1, len(EDGES) - 1),
        flipped=None if initial is None else _flips(signs, _layers(initial)),
        epochs=np.array([line["epoch"] for line in told], dtype=np.int64),
        flipped_in_epoch=np.array([line["flipped"] for line in told], dtype=np.float64),
        without_gradient=np.array([line.get("dead", np.nan) for line in told], dtype=np.float64),
    )


def _layers(model: nn.Module) -> dict[str, Any]:
    return {n: m for n, m in model.named_modules() if isinstance(m, (BinaryLayer, PackedLayer))}


def _positive(layer: Any) -> Tensor:
    """The bits of the weights: (Cout, ...) bool, of several planes (Cout, ..., planes)."""
    if isinstance(layer, PackedLayer):
        planes = [layer.signs(torch.float32, plane) > 0 for plane in range(layer.spec.weight_planes)]
        return (torch.stack(planes, -1) if len(planes) > 1 else planes[0]).cpu()
    if layer.weight_rule.planes > 1:
        with torch.no_grad():
            found = layer.weight_rule.signs(layer._latent_filters(), *layer.weight_parameters())
        if found is not None:
            return found[0].movedim(0, -1).cpu()
    filters = layer.binary_filters()
    dims = list(range(1, filters.dim()))
    low, high = filters.amin(dims, keepdim=True), filters.amax(dims, keepdim=True)
    if not bool(((filters == low) | (filters == high)).all()):  # not binary yet: it follows the training
        return (filters >= 0).cpu()
    return torch.where(low == high, filters >= 0, filters > (low + high) / 2).cpu()


def _constant(bits: Tensor) -> int:
    flat = bits.flatten(1)
    return int((flat.all(1) | flat.logical_not().all(1)).sum())


def _latent(layer: Any) -> np.ndarray | None:
    return None if isinstance(layer, PackedLayer) else layer.weight.detach().double().flatten().cpu().numpy()


def _size(layer: Any) -> float:
    w = _latent(layer)
    return float("nan") if w is None else float(np.abs(w).mean())


def _histogram(layer: Any) -> np.ndarray:
    w = _latent(layer)
    if w is None:
        return np.full(len(EDGES) - 1, np.nan)
    relative = w / max(float(np.abs(w).mean()), np.finfo(np.float64).tiny)
    counts, _ = np.histogram(relative.clip(EDGES[0], EDGES[-1]), EDGES)
    return counts / max(1, len(w))


def _flips(signs: Mapping[str, Tensor], start: Mapping[str, Any]) -> np.ndarray:
    shares = []
    for name, bits in signs.items():
        before = _positive(start[name]) if name in start else None
        same = before is not None and before.shape == bits.shape
        shares.append(bits.ne(before).double().mean().item() if same and before is not None else np.nan)
    return np.array(shares)
