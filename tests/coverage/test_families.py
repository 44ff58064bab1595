"""All families of timm: the smallest model of each, with bidense, and as encoder or with another method."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from families import FAMILIES, SMALLEST, smallest
from pass_through import PassThrough
from torch import nn

import binarize
from binarize.coverage import Subject, pool, subjects
from binarize.graph import execute

# All families with all of them, and all as encoders, take hours: `binarize coverage --smallest`. These take
# turns on every third family whose smallest model has fewer parameters than `LARGE`.
LARGE = 40_000_000
OTHERS = [
    (use, method)
    for other in ("adabin", "bnn", "reactnet", "bisrnet")
    for use, method in (("upernet", "bidense"), ("model", other))
]
FEW = ["convnext_atto", "resnet10t", "vit_tiny_patch16_224"]


def test_the_list_of_the_smallest_models_is_one_of_families() -> None:
    for family, name in SMALLEST.items():
        assert name not in timm.list_models() or Subject(name=name).family == family


@pytest.mark.slow
def test_every_family_passes(tmp_path: Path) -> None:
    """With bidense, and every third small one as `OTHERS` says; two processes beside each other.

    BINARIZE_COVERAGE names a file to keep the results in; what it holds is not checked again.
    """
    chosen = [smallest(family) for family in FAMILIES]
    few = [subject for subject in chosen if subject.measure()[0] < LARGE][::3]

    def jobs() -> Iterator[pool.Job]:
        yield from pool.jobs_for(chosen, ["bidense"])
        for subject, (use, method) in zip(few, itertools.cycle(OTHERS), strict=False):
            yield from pool.jobs_for([Subject(name=subject.name, use=use)], [method])

    memory = int(0.8 * pool.available_memory())
    kept = os.environ.get("BINARIZE_COVERAGE")
    found = pool.run(
        jobs(), processes=2, memory=memory, records=Path(kept) if kept else tmp_path / "records.jsonl"
    )
    failures = [
        f"{r.name} ({r.use}, {r.method}): {r.failed}: {r.reason}" for r in found if r.status == "fail"
    ]
    assert failures == []
    models = [r for r in found if (r.use, r.method) == ("model", "bidense")]
    assert {r.family for r in models} == set(FAMILIES)
    assert {r.family for r in found if r not in models} == {subject.family for subject in few}
    assert len(few) > 25
    converted = sum(r.convs_converted for r in models)
    missed = sum(len(r.convs_missed) for r in models)
    assert converted > 3000
    assert missed <= 0.001 * (converted + missed)


@pytest.mark.slow
@pytest.mark.usefixtures("pass_through")
@pytest.mark.parametrize("family", FAMILIES)
def test_rewrites_lose_nothing_in_any_family(family: str) -> None:
    check_pass_through(smallest(family))


@pytest.mark.usefixtures("pass_through")
@pytest.mark.parametrize("name", FEW)
def test_rewrites_lose_nothing(name: str) -> None:
    check_pass_through(Subject(name=name))


def check_pass_through(subject: Subject) -> None:
    """Converted by a method whose layers are the float ones, a model is the float model."""
    net = subject.build().eval()
    _disturb(net)
    size = subjects.input_sizes(net, 2)[0]
    made = binarize.plan(net, PassThrough())
    model = execute(made, net)
    assert len(made.converted) > 0.5 * sum(row.kept_by != "policy" for row in made.rows)
    images = torch.randn(2, *size)
    with torch.no_grad():
        pairs = zip(subjects.tensors(net(images)), subjects.tensors(model(images)), strict=True)
        for expected, got in pairs:
            assert torch.isfinite(expected).all()
            assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def _disturb(net: nn.Module) -> None:
    """Norms of an untrained network do nothing: give them gains, shifts and statistics to lose."""
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.dtype.is_floating_point and tensor.dim() == 1:
                tensor.add_(0.2 * torch.rand_like(tensor))
