"""Layers on pooled vectors stay float at every size of the image, also where the map is 1x1 already."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binarize.graph import plan
from binarize.graph.plan_sentences import Code


def _softmax_weights(x: Tensor, weights: Tensor) -> Tensor:
    n, c = x.shape[:2]
    context = x.reshape(n, 1, c, -1) @ weights.reshape(n, 1, -1).softmax(-1).unsqueeze(-1)
    return context.reshape(n, c, 1, 1)


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "mean of negative dims": lambda x: x.mean(dim=(-2, -1), keepdim=True),
    "two means": lambda x: x.mean(3, keepdim=True).mean(2, keepdim=True),
    "two means in turn": lambda x: x.mean(3).mean(2)[..., None, None],
    "amax": lambda x: x.amax((2, 3), keepdim=True),
    "max of the flat map": lambda x: x.flatten(2).max(-1)[0][..., None, None],
    "adaptive function": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive max": lambda x: F.adaptive_max_pool2d(x, (1, 1)),
    "window of the map's size": lambda x: F.avg_pool2d(x, x.shape[2:]),
    "module": nn.AdaptiveAvgPool2d(1),
    "module max": nn.AdaptiveMaxPool2d((1, 1)),
}


class Gated(nn.Module):
    """Stem of stride 16, a convolution, a gate or a context that is added, a convolution, a classifier."""

    def __init__(self, pool: Callable[[Tensor], Tensor] | None, how: str) -> None:
        super().__init__()
        self.pool, self.how = pool, how
        self.stem = nn.Conv2d(3, 8, 16, 16)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.mask = nn.Conv2d(8, 1, 1)
        self.reduce, self.expand = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.after = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x))
        pooled = _softmax_weights(x, self.mask(x)) if self.pool is None else self.pool(x)
        gate = self.expand(F.relu(self.reduce(pooled)))
        if self.how == "added":
            x = x + gate
        elif self.how == "gate first":
            x = gate.sigmoid() * x
        else:
            x = x * gate.sigmoid()
        return self.head(F.relu(self.after(x)))


def _codes(net: nn.Module, size: int) -> dict[str, Code | None]:
    made = plan(net, "bnn", example_inputs=torch.zeros(1, 3, size, size))
    return {row.name: None if row.converted else row.code for row in made.rows}


@pytest.mark.parametrize("pool", [*POOLS, "global context"])
def test_gates_stay_float_where_the_map_is_one_pixel(pool: str) -> None:
    net = Gated(POOLS.get(pool), "gate last")
    found = _codes(net, 16)
    assert found == _codes(net, 64)
    assert found["reduce"] is found["expand"] is Code.GATE
    assert found["body"] is found["after"] is None


@pytest.mark.parametrize("how", ["added", "gate first"])
def test_what_is_behind_the_gate_is_a_map_again(how: str) -> None:
    net = Gated(POOLS["mean"], how)
    found = _codes(net, 16)
    assert found == _codes(net, 64)
    assert found["reduce"] is (Code.POOLED if how == "added" else Code.GATE)
    assert found["after"] is None


def test_a_map_of_one_pixel_is_not_a_pooled_vector() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1))
    assert _codes(net, 16)["1"] is _codes(net, 16)["2"] is None


def test_a_real_network_at_32_pixels() -> None:
    gates = {n: c for n, c in _codes(timm.create_model("mobilenetv3_small_050"), 32).items() if ".se." in n}
    assert len(gates) == 18
    assert set(gates.values()) == {Code.GATE}
