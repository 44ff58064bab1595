"""All analyses of some networks, as a list of sections: title, picture, numbers, findings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from binarize.data.transforms import MEAN, STD
from binarize.inspect.activation_entropy import entropy
from binarize.inspect.applicable import is_float, why_not
from binarize.inspect.binarizers import find_binarizers
from binarize.inspect.bypass_share import bypass_shares
from binarize.inspect.first_maps import feature_maps
from binarize.inspect.gradient_norms import gradients
from binarize.inspect.latent import latent_weights
from binarize.inspect.layer_sensitivity import By, keep_list, sensitivity
from binarize.inspect.layer_swaps import LayerSwaps
from binarize.inspect.learnt_parameters import parameters
from binarize.inspect.roles import block_of
from binarize.inspect.section import Section
from binarize.inspect.sections.bypass import bypass_section
from binarize.inspect.sections.entropy import entropy_section
from binarize.inspect.sections.gradients import gradients_section
from binarize.inspect.sections.maps import maps_section
from binarize.inspect.sections.parameters import parameters_section
from binarize.inspect.sections.sensitivity import sensitivity_section
from binarize.inspect.sections.weights import weights_section
from binarize.inspect.subject import Subject, is_higher_better
from binarize.model_info import first_nan

MAPS = 3
"""Images whose feature maps are drawn."""
_CALIBRATION = 32  # images for moments of layers in another form
_GRADIENT = 32  # images for gradients
_BATCH = 8  # of these images

Watch = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows progress: from what is done and how much there is to do, to what takes how much is done."""


def _unwatched(what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Progress that is not shown."""
    return nullcontext(lambda done: None)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the analyses need to know.

    Attributes:
        by: sensitivity of single layers, or of blocks.
        method: that makes layers of a float network binary.
        budget_bytes: for the keep list; None for no limit.
        budget_ops: likewise; without any budget there is no list.
        watch: shows progress.
    """

    by: By = "block"
    method: str = "bidense"
    budget_bytes: float | None = None
    budget_ops: float | None = None
    watch: Watch = _unwatched


@dataclass(frozen=True)
class Skipped:
    """An analysis that a network does not allow.

    Attributes:
        analysis: its name.
        label: of the network.
        reason: why.
    """

    analysis: str
    label: str
    reason: str


def inspect_networks(
    subjects: Sequence[Subject], what: Sequence[str], settings: Settings | None = None
) -> Iterator[Section | Skipped]:
    """The sections of the chosen analyses, in their order, and what was left out.

    Args:
        subjects: networks with the same images.
        what: names of `ANALYSES`.
        settings: see `Settings`.

    Raises:
        ConfigError: images that a network cannot take.
        DataError: images or truths that cannot be read, or no truth where one is needed.
    """
    settings = settings or Settings()
    broken = {one.label: f"its {name} holds NaN" for one in subjects if (name := first_nan(one.model))}
    for analysis in what:
        fit = []
        for subject in subjects:
            reason = why_not(subject.model, analysis) or _nothing(subject, analysis)
            reason = reason or broken.get(subject.label, "")
            if reason:
                yield Skipped(analysis, subject.label, reason)
            else:
                fit.append(subject)
        if fit:
            yield from _ANALYSES[analysis](fit, settings)


def _nothing(subject: Subject, analysis: str) -> str:
    """Why an analysis that fits a network finds nothing in it."""
    if analysis == "parameters" and not parameters(subject.model).values:
        return "its quantizers learn nothing"
    if analysis == "bypass" and not any(
        getattr(m, "bypass", None) is not None for m in subject.model.modules()
    ):
        return "its binary layers have no bypass"
    return ""


def _entropy(subjects: Sequence[Subject], settings: Settings) -> Iterator[Section]:
    found = {}
    for one in subjects:
        with settings.watch(f"entropy: {one.label}", len(one.data)) as report:
            found[one.label] = entropy(one.model, one.batches(), report=report)
    yield entropy_section(found)


def _parameters(subjects: Sequence[Subject], settings: Settings) -> Iterator[Section]:
    for one in subjects:
        yield parameters_section(
            one.label, parameters(one.model, _order(one)), _name("parameters", one, subjects)
        )


def _order(one: Subject) -> tuple[str, ...]:
    """The binarizers that a run with one image reaches, in its order."""
    called: dict[str, None] = {}
    handles = [
        b.module.register_forward_pre_hook(lambda *_, name=b.name: called.setdefault(name))
        for b in find_binarizers(one.model)
    ]
    try:
        with torch.no_grad():
            one.model(next(iter(one.batches(1)))[0].to(one.device))
    finally:
        for handle in handles:
            handle.remove()
    return tuple(called)


def _maps(subjects: Sequence[Subject], settings: Settings) -> Iterator[Section]:
    found = {one.label: feature_maps(one.model, one.batches(MAPS)) for one in subjects}
    images = [image for batch, _ in subjects[0].batches(MAPS) for image in batch]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    shown = [(image * std + mean).clamp(0, 1).permute(1, 2, 0).numpy() for image in images]
    yield maps_section(found, shown)


def _weights(subjects: Sequence[Subject], settings: Settings) -> Iterator[Section]:
    for one in subjects:
        start, reason = one.start()
        log = one.history()
        found = latent_weights(one.model, initial=start, history=log.lines)
        name = _name("weights", one, subjects)
        yield weights_section(one.label, found, reason, name, log=log.fault)


def _bypass(subjects: Sequence[Subject], settings: Settings) -> Iterator[Section]:
    found = {}
    for one in subjects:
        with settings.watch(f"bypass: {one.label}", len(one.data)) as report:
            found[one.label] = bypass_shares(one.model, one.batches(), report=report)
    yield bypass_section(found)


def _gradients(subjects: Sequence[Subject], settings: Settings) -> Iterator[Section]:
    found = {}
    for one in subjects:
        count = min(_GRADIENT, len(one.data))
        with settings.watch(f"gradients: {one.label}", count) as report:
            found[one.label] = gradients(one.model, one.batches(count, _BATCH), one.loss, report=report)
    yield gradients_section(found)


def _sensitivity(subjects: Sequence[Subject], settings: Settings) -> Iterator[Section]:
    for one in subjects:
        count = min(_CALIBRATION, len(one.data))
        method = settings.method if is_float(one.model) else None
        with settings.watch(f"moments: {one.label}", count) as report:
            swaps = LayerSwaps(one.model, one.batches(count), method=method, report=report)
        figure, _ = one.score(one.model)

        def score(model: Any, one: Subject = one) -> float:
            return one.score(model)[1]

        with settings.watch(f"sensitivity: {one.label}", _groups(swaps, settings.by)) as report:
            found = sensitivity(
                one.model, swaps, score, higher=is_higher_better(figure), by=settings.by, report=report
            )
        keep = both = None
        if settings.budget_bytes is not None or settings.budget_ops is not None:
            keep = keep_list(found, bytes=settings.budget_bytes, ops=settings.budget_ops)
            both = _measured(swaps, keep.patterns, found.base, lambda one=one: score(one.model))
        yield sensitivity_section(one.label, found, figure, keep, both, _name("sensitivity", one, subjects))


def _measured(
    swaps: LayerSwaps, kept: Sequence[str], base: float, score: Callable[[], float]
) -> tuple[float, float] | None:
    """The figure of the network all of whose layers are binary, and with those that are kept float."""
    if not kept:
        return None
    if swaps.to_float:
        with swaps.swapped(kept):
            return base, score()
    names = [swap.name for swap in swaps.swaps]
    with swaps.swapped(names):
        binary = score()
    with swaps.swapped([name for name in names if name not in set(kept)]):
        return binary, score()


def _groups(swaps: LayerSwaps, by: By) -> int:
    return len({swap.name if by == "layer" else block_of(swap.name) for swap in swaps.swaps})


def _name(stem: str, one: Subject, subjects: Sequence[Subject]) -> str:
    """The name of a section's files: with the network's label, if there are several."""
    if len(subjects) == 1:
        return stem
    slugs = [re.sub(r"[^A-Za-z0-9.]+", "-", subject.label).strip("-") for subject in subjects]
    place = next(i for i, subject in enumerate(subjects) if subject is one)
    unique = slugs.count(slugs[place]) == 1 and bool(slugs[place])
    return f"{stem}-{slugs[place]}" if unique else f"{stem}-{place + 1}"


_ANALYSES: dict[str, Callable[[Sequence[Subject], Settings], Iterator[Section]]] = {
    "entropy": _entropy,
    "parameters": _parameters,
    "maps": _maps,
    "weights": _weights,
    "bypass": _bypass,
    "gradients": _gradients,
    "sensitivity": _sensitivity,
}
