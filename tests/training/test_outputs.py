"""Which tensor is taken of a network's output."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from binarize.errors import ConfigError
from binarize.training.outputs import selected

Y = torch.zeros(2, 3, 4, 5)


class Pair(NamedTuple):
    score: Tensor
    rest: Any = None


@dataclass
class Held:
    logits: Tensor
    loss: Any = None


@pytest.mark.parametrize(("output", "chosen"), [
    (Y, None),
    (Y, 0),  # a tensor is not indexed
    (Y, "logits"),
    ((None, Y), 1),
    ([None, Y], -1),
    ({"out": Y}, "out"),
    ({3: Y}, 3),
    (OrderedDict(out=Y, aux=None), "out"),
    (Pair(Y), "score"),
    (Pair(Y), 0),
    (Held(Y), "logits"),
    (SimpleNamespace(logits=Y), "logits"),
])  # fmt: skip
def test_what_is_taken(output: Any, chosen: str | int | None) -> None:
    assert selected(output, chosen) is Y


def test_a_map_without_channels_gets_one() -> None:
    assert selected((torch.zeros(2, 4, 5),), 0).shape == (2, 1, 4, 5)


@pytest.mark.parametrize(("output", "chosen", "message"), [
    ((None, Y), None, r"a tuple \(0: NoneType, 1: tensor \(2, 3, 4, 5\)\); .* network.output: 1 \(in Python"),
    ((None, Y), 0, "in which network.output: 0 is nothing; .* network.output: 1"),
    ((Y, Y), 2, "in which network.output: 2 is nothing"),
    (([Y], Y), 0, "in which network.output: 0 is a list"),
    ({"out": Y, "aux": Y}, None, "a dict .out: tensor .* network.output: out"),
    ({"out": Y}, "logits", "network.output: logits is nothing; .* for instance network.output: out"),
    (Pair(Y), None, "a Pair .score: tensor .*, rest: NoneType.; .*network.output: score"),
    (Held(Y), None, "a Held .* network.output: logits"),
    (SimpleNamespace(a=Y, _b=Y), None, r"a SimpleNamespace \(a: tensor \(2, 3, 4, 5\)\);"),
    ("text", None, "the network gives a str; expected one tensor .*: let its forward return that"),
    ("text", 0, "network.output: 0 is a str"),
    (None, 1, "gives a NoneType, in which network.output: 1 is nothing"),
    ([[Y]], None, r"a list \(0: list\); expected one tensor .*: let its forward"),
])  # fmt: skip
def test_what_cannot_be_taken(output: Any, chosen: str | int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        selected(output, chosen)
