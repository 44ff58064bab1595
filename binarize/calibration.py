"""`calibrate`: statistics of BatchNorm, and start values that depend on data, measured over some batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from binarize.errors import ConfigError, listed, warn
from binarize.graph.model_copy import copied
from binarize.graph.wrappers import unwrapped
from binarize.layers import BinaryLayer, Quantizer
from binarize.modes import evaluating
from binarize.norm_statistics import NormChange, Statistics

Thresholds = Literal["fresh", "keep"]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What `calibrate` did.

    Attributes:
        batches: how many were used.
        inputs: how many images, or other first inputs, they held.
        norms: the changes, largest first.
        thresholds: names of the quantizers whose thresholds were set to the mean of their input.
        started: names of those that took their start values from the first batch.
    """

    batches: int
    inputs: int
    norms: tuple[NormChange, ...]
    thresholds: tuple[str, ...] = ()
    started: tuple[str, ...] = ()

    @property
    def dead(self) -> tuple[str, ...]:
        """Names of the norms with dead channels."""
        return tuple(norm.name for norm in self.norms if norm.dead)


def calibrate(model: nn.Module, batches: Iterable[Any], *, thresholds: Thresholds = "fresh") -> nn.Module:
    """A copy of a model whose BatchNorm statistics are those of the given batches.

    First, in a conversion that was never trained: activation quantizers that start from the first batch (BiT,
    LQ-Net) do so, and thresholds that have never moved (DAB, RSign, BiSRNet's shift) are set to the mean of
    each channel of their input, so that both signs occur. A threshold that training has moved stays.

    Then the running statistics of each BatchNorm become mean and (unbiased) variance of all its inputs over
    all batches, each normalized by its own statistics as in training (Wu and Johnson, Rethinking "Batch" in
    BatchNorm, arXiv 2105.07576, Section 3): with batch B of n_B values, mean mu_B and variance s_B^2,
    mu = sum n_B mu_B / n and s^2 = (sum n_B (s_B^2 + mu_B^2)) / n - mu^2. Dropout is off. Weights stay.

    Args:
        model: float or converted, on any device; left untouched.
        batches: inputs (N, ...), or tuples whose first item is the input, such as those of a DataLoader;
            dicts are keyword arguments. If there are thresholds that were never trained, the batches are read
            twice; those of an iterator are then kept in memory.
        thresholds: `fresh` sets thresholds that were never trained; `keep` leaves all as they are.

    Raises:
        ConfigError: no batches, a deployed model, or batches too small for a BatchNorm.
    """
    return calibrated(model, batches, thresholds=thresholds)[0]


def calibrated(
    model: nn.Module, batches: Iterable[Any], *, thresholds: Thresholds = "fresh"
) -> tuple[nn.Module, Calibration]:
    """As `calibrate`, and a report of what it did."""
    if thresholds not in ("fresh", "keep"):
        raise ConfigError(f"calibrate: thresholds={thresholds!r}, expected 'fresh' or 'keep'.")
    result = copied(unwrapped(model))
    return result, calibrate_in_place(result, batches, thresholds=thresholds)


def calibrate_in_place(
    model: nn.Module, batches: Iterable[Any], *, thresholds: Thresholds = "fresh"
) -> Calibration:
    """As `calibrate`, of the model itself; modes are restored. Warns of dead channels."""
    from binarize.runtime import PackedLayer

    if any(isinstance(module, PackedLayer) for module in model.modules()):
        raise ConfigError("calibrate: the model is deployed, its norms are folded: give the one before.")
    names = {module: name for name, module in model.named_modules()}
    waiting = [m for m in names if isinstance(m, Quantizer) and _waits(m)]
    fresh = [m for m in names if isinstance(m, BinaryLayer) and _is_fresh(m)] if thresholds == "fresh" else []
    with _modes(model):
        if waiting or fresh:
            batches = (
                batches if isinstance(batches, Sequence) or iter(batches) is not batches else list(batches)
            )
            _start(model, batches, waiting, fresh)
        count, inputs, norms = _measure(model, batches, names)
    report = Calibration(
        batches=count,
        inputs=inputs,
        norms=tuple(sorted(norms, key=lambda norm: -norm.size)),
        thresholds=tuple(names[layer.quantizer] for layer in fresh),
        started=tuple(names[m] for m in waiting if not _waits(m)),
    )
    if report.dead:
        total = sum(norm.dead for norm in report.norms)
        warn(
            f"calibrate: {total} channels are dead, the same for all {inputs} inputs, in "
            f"{listed(report.dead, 4)}."
        )
    return report


@contextmanager
def _modes(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and without gradients, for as long as the block runs."""
    with evaluating(model), torch.no_grad():
        yield


def _measure(
    model: nn.Module, batches: Iterable[Any], names: Mapping[nn.Module, str]
) -> tuple[int, int, list[NormChange]]:
    norms = [m for m in names if isinstance(m, _BatchNorm) and m.running_mean is not None]
    watched = [Statistics(norm) for norm in norms]
    try:
        count, inputs = 0, 0
        for batch in batches:
            inputs += _run(model, batch)
            count += 1
    finally:
        for statistics in watched:
            statistics.stop()
    if not count:
        raise ConfigError("calibrate: no batches.")
    return count, inputs, [s.change(names[norm]) for s, norm in zip(watched, norms, strict=True) if s.count]


def _start(
    model: nn.Module, batches: Iterable[Any], waiting: Sequence[Quantizer], fresh: Sequence[BinaryLayer]
) -> None:
    """Start values that depend on data, layer behind layer: each sees what those before it make of theirs."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    kept = [{n: b.clone() for n, b in norm.named_buffers(recurse=False)} for norm in norms]
    for module in (*norms, *waiting):
        module.training = True
    centred = [_Centred(layer) for layer in fresh]
    try:
        for batch in batches:
            _run(model, batch)
    finally:
        for one in centred:
            one.stop()
        for module in (*norms, *waiting):
            module.training = False
        for norm, buffers in zip(norms, kept, strict=True):
            for name, buffer in buffers.items():
                norm.get_buffer(name).copy_(buffer)


class _Centred:
    """Keeps the threshold of a layer at the mean of its inputs so far."""

    def __init__(self, layer: Any) -> None:
        self._quantizer = layer.quantizer
        self._dim = -1 if isinstance(layer, nn.Linear) else 1
        self._count = 0.0
        self._mean = torch.zeros(())
        self._handle = layer.register_forward_pre_hook(self._see)

    def _see(self, module: Any, args: Any) -> None:
        x = args[0]
        channels = self._dim % x.dim()
        mean = x.double().mean([d for d in range(x.dim()) if d != channels])
        self._count += x.numel()
        self._mean = self._mean + (mean - self._mean) * (x.numel() / self._count)
        parameter, value = self._quantizer.centring(self._mean)
        parameter.copy_(value.reshape(parameter.shape))

    def stop(self) -> None:
        """Leave the threshold where it is."""
        self._handle.remove()


def _waits(module: Quantizer) -> bool:
    """Whether a quantizer will take start values from the first batch in training."""
    started = module._buffers.get("started")
    return started is not None and not bool(started)


def _is_fresh(layer: BinaryLayer) -> bool:
    """Whether a layer has a threshold that was never moved from 0."""
    quantizer = layer.quantizer
    if not isinstance(quantizer, Quantizer):
        return False
    found = quantizer.centring(torch.zeros((), dtype=torch.float64))
    return found is not None and not bool(found[0].any())


def _run(model: nn.Module, batch: Any) -> int:
    """One forward pass; how many inputs it was of."""
    device = next((p.device for p in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    first = batch
    if isinstance(batch, (tuple, list)) and batch:
        first = batch[0]
    try:
        if isinstance(batch, Mapping):
            first = next((v for v in batch.values() if isinstance(v, Tensor)), None)
            model(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()})
        elif isinstance(first, Tensor):
            model(first.to(device))
        else:
            raise ConfigError(
                f"calibrate: a batch is a {type(batch).__name__}; expected a tensor, a tuple that begins "
                "with one, or a dict of keyword arguments."
            )
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            "calibrate: a BatchNorm sees a single value per channel: take larger batches or larger images."
        ) from error
    return len(first) if isinstance(first, Tensor) and first.dim() else 1
