"""Accuracy, bytes and milliseconds of all forms of networks, each measured from the form itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import binarize
from binarize.bench import Variant, bench
from binarize.bench.rivals import versions
from binarize.data.samples import SampleDataset
from binarize.forms.made import (
    DEFAULT,
    Form,
    check_runners,
    float_forms,
    float_network,
    is_float,
    packed_form,
)
from binarize.forms.sources import Source, calibration_images, grouped, samples_of
from binarize.training.evaluation import evaluate
from binarize.training.figures import figures_in

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How forms are made and timed.

    Attributes:
        runners: of float networks, some of `binarize.forms.made.RUNNERS`.
        images: of the training split, that int8 forms are calibrated on.
        rounds: turns of each form, when they are timed.
        accuracy: evaluate the forms; else only their size and time is measured.
        root: folder of the data set, in place of the recipe's.
    """

    runners: Sequence[str] = DEFAULT
    images: int = 100
    rounds: int = 15
    accuracy: bool = True
    root: Path | None = None


def measure(
    sources: Sequence[Source],
    settings: Settings | None = None,
    *,
    tell: Tell = lambda text: None,
    before_times: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The forms of the networks, evaluated on the test split of their recipes and timed on one of its images.

    A network with float weights is run by other programs, in float32 and quantized to int8; a binary one
    from its packed file by the kernels. Images are prepared as the recipe's evaluation says, one at a time,
    without mirror images and other scales. All forms on one data set are timed in turn, after all
    evaluations.

    Args:
        sources: the networks.
        settings: the default ones if None.
        tell: called with what is done.
        before_times: called when all is ready to be timed.

    Returns:
        Plain values: by data set and split, its rows, with the machine that they were timed on.

    Raises:
        ConfigError: packages that are missing, a network that cannot be exported or packed, or images of
            several sizes.
        DataError: data that is missing or wrong.
    """
    settings = settings or Settings()
    check_runners(settings.runners)
    document: dict[str, Any] = {"data": {}}
    made: dict[str, list[Form]] = {}
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="binarize-forms-")))
        for data, group in grouped(sources).items():
            samples = samples_of(group[0][1], group[0][1].recipe.data.test, settings.root)
            place = _Place(samples=samples, x=samples[0].image[None], folder=folder, ends=ends)
            made[data] = [
                form for name, source in group for form in _forms(name, source, place, settings, tell)
            ]
            rows = [_row(form, samples, settings, tell) for form in made[data]]
            document["data"][data] = {**_about(place, settings), "rows": rows}
        before_times()
        for data, forms in made.items():
            tell(f"{data}: times")
            _time(forms, document["data"][data], settings)
    return document


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where the forms of one data set are made: its images, one of them, files, what is closed at the end."""

    samples: SampleDataset
    x: Tensor
    folder: Path
    ends: ExitStack


def _forms(name: str, source: Source, place: _Place, settings: Settings, tell: Tell) -> Iterator[Form]:
    tell(f"{source.data}: {name}: preparing")
    model = source.load(place.samples)
    if not is_float(source):
        yield packed_form(name, source, model, place.x, place.samples.truth, place.folder)
        return
    images = calibration_images(source, settings.images, settings.root)
    network = float_network(source, model, place.x, images)
    place.ends.callback(network.close)
    yield from float_forms(name, source, network, settings.runners)


def _row(form: Form, samples: SampleDataset, settings: Settings, tell: Tell) -> dict[str, Any]:
    """What is known of a form before it is timed."""
    source = form.source
    row: dict[str, Any] = {
        "network": form.network,
        "place": source.title,
        "form": form.kind,
        "runner": form.runner,
        "bytes": form.bytes,
    }
    if source.figures is not None:
        return row | {"figures": source.figures, "figures_given": True}
    if settings.accuracy:
        tell(f"{source.data}: {form.network}, {form.kind} ({form.runner}): {len(samples)} images")
        found = evaluate(form.model, samples, device=torch.device("cpu"), where=source.data)
        names = dict.fromkeys((*figures_in(found).line, *figures_in(found).columns))
        row["figures"] = {name: found[name] for name in names if found.get(name) is not None}
    return row


def _about(place: _Place, settings: Settings) -> dict[str, Any]:
    return {
        "task": place.samples.truth.task,
        "images": len(place.samples),
        "size": list(place.x.shape[-2:]),
        "calibration_images": settings.images,
    }


def _time(forms: Sequence[Form], found: dict[str, Any], settings: Settings) -> None:
    """Add the times to the rows of one data set, and where and when they were taken."""
    variants = [Variant(form.key, form.model, form.run) for form in forms]
    times = bench(variants, (1, 3, *found["size"]), rounds=settings.rounds)
    timed = datetime.now(UTC).isoformat(timespec="seconds")
    for form, row in zip(forms, found["rows"], strict=True):
        taken = times.times[form.key]
        row |= {"ms": 1e3 * times.median(form.key), "least_ms": 1e3 * min(taken), "passes": len(taken)}
        row["timed"] = timed
    packages = {"binarize": binarize.__version__, **versions(tuple(settings.runners))}
    found |= {"machine": times.machine, "threads": times.threads, "packages": packages}
