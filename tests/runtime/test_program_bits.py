"""Planes of bits between packed layers, in place of maps that nobody else reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from program_nets import fused, pair, programs, third, through_passes
from torch import Tensor, nn
from torch.fx.node import map_arg
from torch.utils._pytree import tree_map_only

from binarize import native
from binarize.native.library import available
from binarize.runtime import ops
from binarize.runtime.ops.planes import map_of, plane_of, plane_words
from binarize.runtime.program.passes import PASSES

pytestmark = pytest.mark.skipif(not available(), reason="the native kernels are not built")
METHODS = ("bnn", "reactnet", "adabin", "bisrnet", "xnor")
IMAGE = (2, 3, 20, 18)


class Chain(nn.Module):
    """A stem, four binary layers, of which the third has groups and a stride, and a head."""

    def __init__(self, groups: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 3, stride=2, padding=1)
        widths, self.layers, self.norms = (40, 72, 36, 40, 50), nn.ModuleList(), nn.ModuleList()
        shapes: Sequence[dict[str, Any]] = (
            {"kernel_size": 1},
            {"kernel_size": 3, "padding": 1},
            {"kernel_size": (3, 5), "stride": 2, "padding": (1, 2), "groups": groups},
            {"kernel_size": 3, "dilation": 2, "padding": 2},
        )
        for i, shape in enumerate(shapes):
            self.layers.append(nn.Conv2d(widths[i], widths[i + 1], bias=False, **shape))
            self.norms.append(nn.BatchNorm2d(widths[i + 1]))
        self.head = nn.Conv2d(50, 5, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(layer(x)).relu()
        return self.head(x), x


class Added(Chain):
    """The input of the second layer is added to its result, which only the third layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.layers[1] = nn.Conv2d(72, 72, 3, padding=1, bias=False)
        self.norms[1] = nn.BatchNorm2d(72)
        self.layers[2] = nn.Conv2d(72, 40, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Any:
        x = self.norms[0](self.layers[0](self.stem(x)))
        x = self.norms[1](self.layers[1](x)) + x
        return self.head(self.norms[3](self.layers[3](self.norms[2](self.layers[2](x)))))


class Twice(Chain):
    """The map between the second and the third layer is read twice."""

    def forward(self, x: Tensor) -> Any:
        x = self.norms[0](self.layers[0](self.stem(x)))
        y = self.norms[1](self.layers[1](x))
        return self.head(self.norms[3](self.layers[3](self.norms[2](self.layers[2](y))))), y


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("border", [(0, 0), (1, 2)])
def test_planes_lie_as_those_of_the_kernels(groups: int, border: tuple[int, int]) -> None:
    y, mul, add = torch.randn(2, 120, 4, 3), torch.randn(120), torch.randn(120)
    y[0, :, 0, 0] = torch.tensor([0.0, -0.0, torch.nan, torch.inf]).repeat(30)
    shape = [2, 120, 4, 3, groups, *border]
    for m, a in ((mul, add), (None, add), (mul, None), (None, None)):
        wanted = native.pack(y, mul=m, add=a, groups=groups, border=border).words
        words = plane_of(y, shape, m, a)
        assert torch.equal(words, wanted)
        assert len(words) == plane_words(shape)
        assert torch.equal(plane_of(map_of(words, shape, m), shape, m, a), words)


@pytest.mark.parametrize("method", METHODS)
def test_programs_with_planes_give_what_the_modules_give(method: str) -> None:
    _, packed = pair(Chain(), method, **({"bypass": "none"} if method != "bnn" else {}))
    x = torch.rand(IMAGE)
    with torch.no_grad():
        expected = packed(x)
    made = third(packed, x)
    (program,) = programs(packed)
    assert "bits" in fused(packed)
    assert torch.equal(made[1], expected[1])
    torch.testing.assert_close(made[0], expected[0])
    assert all(step.beyond == 0 for step in packed.binarize_programs.compared(x))
    planes = [n for n in program.graph.calls(ops.layer) if n.kwargs.get("next_plane")]
    assert planes
    assert all(n.meta["val"][0].dtype == torch.int32 for n in planes)


def test_the_pass_keeps_what_the_graph_computes() -> None:
    _, packed = pair(Chain(), "bnn")
    found = dict(through_passes(packed, torch.rand(IMAGE), PASSES))
    assert found["bits"] == 0


def test_maps_with_other_readers_stay() -> None:
    _, packed = pair(Twice(), "bnn")
    third(packed, torch.rand(IMAGE))
    (program,) = programs(packed)
    reasons = [c.reason for c in program.graph.chances if c.fusion == "bits"]
    assert reasons.count("others read the result of the packed layer in front, too") == 1
    assert reasons.count("") == 2


def test_a_map_that_its_layer_adds_stays() -> None:
    _, packed = pair(Added(), "bnn")
    x = torch.rand(IMAGE)
    with torch.no_grad():
        expected = packed(x)
    torch.testing.assert_close(third(packed, x), expected)
    (program,) = programs(packed)
    reasons = [c.reason for c in program.graph.chances if c.fusion == "bits"]
    assert sorted(reasons) == ["", "", "it adds its input to its result"]


@pytest.mark.parametrize("isa", native.features().isas)
@pytest.mark.parametrize("method", ["bnn", "adabin"])
def test_planes_of_each_instruction_set(isa: Any, method: str) -> None:
    """Also of values that are not finite: the bit of a NaN is 0."""
    x = torch.rand(IMAGE)
    x[0, 1, 3, 4], x[1, 0, 5, 5] = torch.nan, torch.inf
    try:
        native.set_isa(isa)
        _, packed = pair(Chain(), method, **({"bypass": "none"} if method != "bnn" else {}))
        with torch.no_grad():
            expected = packed(x)
        made = third(packed, x)
        errors = packed.binarize_programs.compared(x)
    finally:
        native.set_isa("auto")
    assert "bits" in fused(packed)
    torch.testing.assert_close(made, expected, equal_nan=True)
    assert all(step.beyond == 0 for step in errors)


def test_the_layer_operator_on_planes() -> None:
    _, packed = pair(Chain(), "reactnet", bypass="none")
    x = torch.rand(IMAGE)
    third(packed, x)
    (program,) = programs(packed)
    seen = 0
    with torch.no_grad():
        for node, value_of in program.walk([x], 1):
            if node.target is ops.layer:
                given = map_arg((node.args, node.kwargs), value_of)
                args, kwargs = tree_map_only(Tensor, lambda t: t.detach().clone(), given)
                torch.library.opcheck(ops.layer, args, kwargs, test_utils="test_faketensor")
                seen += bool(kwargs.get("plane") or kwargs.get("next_plane"))
    assert seen == 4


def test_changed_thresholds_make_a_new_program() -> None:
    _, packed = pair(Chain(), "reactnet", bypass="none")
    x = torch.rand(IMAGE)
    third(packed, x)
    with torch.no_grad():
        packed.layers[2].vectors.add_(0.3)
        expected = packed(x)
    assert torch.equal(third(packed, x)[1], expected[1])
