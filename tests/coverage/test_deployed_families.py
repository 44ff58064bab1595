"""Deployed families of timm: layers against the trained ones, the steps of programs against operators."""

from __future__ import annotations

import os

import pytest
import torch
from families import FAMILIES, smallest

import binarize
from binarize.coverage import subjects
from binarize.coverage.trials import MOST_OFF
from binarize.native.library import available
from binarize.runtime.verify import verify

pytestmark = pytest.mark.skipif(not available(), reason="the native kernels are not built")
EVERY = 1 if os.environ.get("BINARIZE_ALL_FAMILIES") else 7
"""All of them take half an hour on one core."""


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES[::EVERY])
def test_a_family_runs_as_a_program(family: str) -> None:
    torch.manual_seed(0)
    net = smallest(family).build().eval()
    x = torch.randn(1, *subjects.input_sizes(net, 1)[0])
    model = binarize.apply(net, "bidense", granularity="layer", example_inputs=x).eval()
    found = verify(model, binarize.deploy(model), [x])
    for layer in found.layers:
        assert layer.agrees, layer
    for step in found.steps:  # one position of a small map may lie on a threshold
        assert step.beyond <= 0.1 or step.worst <= MOST_OFF, step
    assert found.steps or found.no_program
    assert "internal error" not in found.no_program
