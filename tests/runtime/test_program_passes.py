"""Passes of programs: each keeps what a graph computes, does its work, and says where it could not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from program_nets import Net, front, fused, pair, plain, program_of, programs, same, third, through_passes
from torch import Tensor, nn
from torch.nn import functional as F

from binarize.native.library import available
from binarize.native.structs import STEPS
from binarize.runtime import ops
from binarize.runtime.layer_data import text_of_spec
from binarize.runtime.program.graph import ProgramGraph
from binarize.runtime.program.lowering import TorchStep
from binarize.runtime.program.memory import ALIGNMENT, SMALL, Buffer, Host, plan_places
from binarize.runtime.program.passes import PASSES

pytestmark = pytest.mark.skipif(not available(), reason="the native kernels are not built")


def gated(net: Any, x: Tensor) -> Tensor:
    y = front(net, x)
    gate = torch.sigmoid(net.up(F.silu(net.down(y.mean((2, 3), keepdim=True)))))
    return net.head(net.c(y * gate))


def summed(net: Any, x: Tensor) -> Tensor:
    y = front(net, x)
    return net.head(net.c(y) + y.flip(3))  # no bypass around a binary layer: the method keeps the sum


def joined(net: Any, x: Tensor) -> Tensor:
    y = front(net, x)
    z = net.c(y)
    first = torch.cat([y, z], 1)
    again = net.d(F.relu(first))
    return net.wide(torch.cat([y, z, again], 1))


def resized(net: Any, x: Tensor) -> Tensor:
    y = F.interpolate(front(net, x), size=x.shape[2:], mode="bilinear", align_corners=True)
    return net.head(net.c(y))


def elementwise(net: Any, x: Tensor) -> Tensor:
    y = front(net, x)
    return net.head(net.c(F.hardswish(y * 2 + 1) - torch.tanh(y) / (1 + y.square())))


def pooled(net: Any, x: Tensor) -> Tensor:
    return net.head(net.c(F.max_pool2d(front(net, x), 2)))


class Wider(Net):
    """With two more binary layers and small float ones."""

    def __init__(self, forward: Any) -> None:
        super().__init__(forward)
        self.c, self.d = nn.Conv2d(70, 70, 3, padding=1), nn.Conv2d(140, 20, 1)
        self.down, self.up = nn.Conv2d(70, 6, 1), nn.Conv2d(6, 70, 1)
        self.wide = nn.Conv2d(160, 5, 1)


NETS = {
    "classifier": plain,
    "squeeze_excite": gated,
    "residual": summed,
    "resize": resized,
    "pointwise": elementwise,
    "channel_sums": pooled,
    "activation": plain,
    "concatenation": joined,
}


@pytest.mark.parametrize("fusion", list(NETS))
@pytest.mark.parametrize("method", ["bidense", pytest.param("reactnet", marks=pytest.mark.slow)])
def test_each_pass_keeps_what_the_graph_computes(fusion: str, method: str) -> None:
    model, packed = pair(Wider(NETS[fusion]), method)
    x = torch.rand(2, 3, 48, 40)
    for name, off in through_passes(packed, x):
        assert off < 1e-5, name
    with torch.no_grad():
        assert same(third(packed, x), model(x))
    if fusion == "channel_sums" and method == "reactnet":
        return  # its thresholds need no means
    if fusion != "concatenation":
        assert fusion in fused(packed)


class Tokens(nn.Module):
    """The layers of a transformer's block without its attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 4, stride=4)
        self.norm, self.act = nn.LayerNorm(24), nn.GELU()
        self.mix, self.up, self.down = nn.Linear(24, 24), nn.Linear(24, 80), nn.Linear(80, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        t = self.stem(x).flatten(2).transpose(1, 2)
        t = self.mix(self.norm(t)) + t.roll(1, 1)
        y = self.down(self.act(self.up(self.norm(t))))
        return self.head((y.roll(1, 1) + t).mean(1))


def test_a_layer_norm_takes_in_what_stands_behind_it() -> None:
    model, packed = pair(Tokens(), example_inputs=torch.rand(2, 3, 32, 32))
    x = torch.rand(2, 3, 24, 36)
    for name, off in through_passes(packed, x):
        assert off < 1e-5, name
    with torch.no_grad():
        assert same(third(packed, x), model(x))
    (program,) = programs(packed)
    layers = program.graph.calls(ops.layer)
    normed = program.graph.calls(ops.normed)
    assert len(layers) == 3
    assert len(normed) >= 4
    assert any(node.args[1] is not None for node in normed)  # a bypass
    assert any(node.args[5] for node in normed)  # an activation
    assert any(node.kwargs.get("residual") is not None for node in normed)
    kinds = [getattr(step, "kind", None) for step in program._ready[0]._held.steps]
    assert kinds.count(STEPS["layer_norm"]) == len(normed)
    assert not program.graph.calls(torch.ops.aten.layer_norm.default)


class Patches(nn.Module):
    """Patches of a size that does not divide the image, and means in the layouts of transformers."""

    def __init__(self, mean: Any) -> None:
        super().__init__()
        self.stem, self.mix, self.mean = nn.Conv2d(3, 24, (4, 5), stride=(4, 5)), nn.Linear(24, 24), mean
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        t = self.mix(self.stem(x).permute(0, 2, 3, 1))
        return self.head(self.mean(t).reshape(len(x), -1))


MEANS = {
    "last": lambda t: t.mean((1, 2)),
    "last, kept": lambda t: t.mean((2, 1), keepdim=True),
    "first": lambda t: t.permute(0, 3, 1, 2).mean((2, 3)),
    "tokens": lambda t: t.flatten(1, 2).mean(1),
}


@pytest.mark.parametrize(
    ("mean", "layout"),
    [*((mean, torch.contiguous_format) for mean in MEANS), ("last", torch.channels_last)],
)
def test_patches_are_products_and_means_are_steps(mean: str, layout: torch.memory_format) -> None:
    x = torch.rand(2, 3, 27, 36)
    model, packed = pair(Patches(MEANS[mean]), example_inputs=x)
    packed.stem.to(memory_format=layout)
    for name, off in through_passes(packed, x):
        assert off < 1e-5, name
    with torch.no_grad():
        assert same(third(packed, x), model(x))
        packed.stem.weight.data.mul_(2)  # torch counts no change: weights are read where they lie
        model.stem.weight.data.mul_(2)
        assert same(packed(x), model(x))
    (program,) = programs(packed)
    assert not program.graph.calls(torch.ops.aten.conv2d.default, torch.ops.aten.mean.dim)
    assert len(program.graph.calls(ops.mean)) == 1
    assert "patches" in fused(packed)


def test_a_pass_that_is_broken_is_found() -> None:
    _, packed = pair(Wider(summed))

    def residual(program: ProgramGraph) -> None:
        for node in program.calls(torch.ops.aten.add.Tensor):
            layer = node.args[0].args[0] if node.args[0].target is not torch.ops.aten.add.Tensor else None
            if layer is not None and layer.target is ops.layer:
                program.replace(node, node.args[0])  # the other term is lost

    broken = [residual if one.__name__ == "residual" else one for one in PASSES]
    off = dict(through_passes(packed, torch.rand(1, 3, 32, 32), broken))
    assert off["residual"] > 1e-3


def test_concatenations_are_written_in_place() -> None:
    _, packed = pair(Wider(joined))
    third(packed, torch.rand(1, 3, 48, 40))
    (program,) = programs(packed)
    steps = program._ready[0]._held.steps
    assert STEPS["copy"] not in [getattr(step, "kind", None) for step in steps]
    by_torch = {step.what for step in steps if isinstance(step, TorchStep)}
    assert by_torch <= {"aten.conv2d.default", "binarize.linear.default"}  # the stem and the head


def test_reasons_say_why_a_fusion_was_missed() -> None:
    _, packed = pair(Wider(lambda net, x: [net.head(y := front(net, x)), y]))
    third(packed, torch.rand(1, 3, 48, 40))
    (program,) = programs(packed)
    missed = {(c.fusion, c.reason) for c in program.graph.chances if c.reason}
    assert ("classifier", "the layer's result is read by others, too") in missed


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 30), st.integers(0, 8)), min_size=1, max_size=40)
)
@settings(max_examples=200, deadline=None)
def test_buffers_that_live_at_the_same_time_do_not_overlap(drawn: list[tuple[int, int, int]]) -> None:
    buffers = [Buffer(size, first, first + length) for size, first, length in drawn]
    places, total = plan_places(buffers)
    offsets = [place.offset for place in places]
    least = max(
        sum(b.size for b in buffers if b.first <= step <= b.last) for step in {b.first for b in buffers}
    )
    assert least <= total <= sum(b.size + ALIGNMENT for b in buffers)
    for i, (a, at) in enumerate(zip(buffers, offsets, strict=True)):
        assert at % ALIGNMENT == 0
        assert at + a.size <= total
        for b, other in zip(buffers[i + 1 :], offsets[i + 1 :], strict=True):
            together = a.size and b.size and a.first <= b.last and b.first <= a.last
            assert not together or at + a.size <= other or other + b.size <= at


@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 30), st.integers(0, 8)), min_size=1, max_size=40),
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 30)), max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_buffers_lie_in_results_that_are_written_later(
    drawn: list[tuple[int, int, int]], results: list[tuple[int, int]]
) -> None:
    unit = SMALL // 10
    buffers = [Buffer(size * unit, first, first + length) for size, first, length in drawn]
    hosts = [Host(size * unit, first) for size, first in results]
    places, total = plan_places(buffers, hosts)
    for i, (a, at) in enumerate(zip(buffers, places, strict=True)):
        if at.host is not None:
            assert a.size >= SMALL
            assert a.last < hosts[at.host].first
            assert at.offset + a.size <= hosts[at.host].size
        else:
            assert at.offset + a.size <= total
        for b, other in zip(buffers[i + 1 :], places[i + 1 :], strict=True):
            together = a.size and b.size and a.first <= b.last and b.first <= a.last
            apart = at.offset + a.size <= other.offset or other.offset + b.size <= at.offset
            assert not together or at.host != other.host or apart


ARGUMENTS: dict[str, Any] = {
    "pointwise": lambda: (
        [torch.randn(2, 5, 4, 3), torch.randn(2, 5, 1, 1)],
        [torch.randn(5), torch.randn(5)],
        '[[["mul", 2, 0, 1, 0.0, 0.0, []], ["piecewise", 2, 2, -1, 0.0, 0.0, [0, 1, -1, -1]]], 2, 1, 0]',
    ),
    "linear": lambda: (torch.randn(2, 6, 1, 1), torch.randn(4, 6, 1, 1), torch.randn(4), "relu", 0.0, 0.0),
    "normed": lambda: (torch.randn(2, 5, 6), torch.randn(2, 5, 3), torch.rand(6), None, [], [None] * 4, 1e-5),
    "mean": lambda: (torch.randn(2, 6, 4, 3), None),
    "piecewise": lambda: (torch.randn(2, 3, 5), torch.randn(5), torch.randn(5), None, torch.randn(5), 2),
}


@pytest.mark.parametrize("name", list(ARGUMENTS))
def test_operators_agree_with_their_fakes(name: str) -> None:
    torch.library.opcheck(getattr(ops, name), ARGUMENTS[name](), test_utils="test_faketensor")


def test_the_layer_operator() -> None:
    _, packed = pair(Net(plain))
    layer = packed.a
    x = torch.randn(2, 40, 8, 8).contiguous(memory_format=torch.channels_last)
    text = text_of_spec(layer.spec)
    given = (x, layer.bits, layer.vectors, text, [], [])
    torch.library.opcheck(ops.layer, given, test_utils="test_faketensor")
    y, sums = ops.layer(*given, with_sums=True)
    assert torch.equal(y, layer(x))
    torch.testing.assert_close(sums, y.sum((2, 3)), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(y, layer.reference(x), rtol=1e-4, atol=1e-4)
    compiled = torch.compile(lambda t: ops.layer(t, *given[1:])[0] * 2, backend="aot_eager")
    torch.testing.assert_close(compiled(x), 2 * y)


@pytest.mark.parametrize("shape", [(4, 24), (2, 5, 24), (2, 3, 5, 24)])
@torch.no_grad()
def test_a_layer_norm_gives_sums_of_each_image(shape: tuple[int, ...]) -> None:
    weight = torch.rand(24)

    class Sums(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return ops.normed(x * 2, None, weight, None, [], [], 1e-5, with_sums=True)

    x = torch.randn(shape)
    program = program_of(Sums(), x)
    y, sums = program([x], 1)
    assert STEPS["layer_norm"] in [getattr(step, "kind", None) for step in program._ready[0]._held.steps]
    torch.testing.assert_close(y, torch.nn.functional.layer_norm(x * 2, (24,), weight), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sums, y.flatten(1, -2).sum(1) if x.dim() > 2 else y, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_chains_of_empty_maps() -> None:
    class Empty(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x[:, :, :0] * 2 + 1).relu()

    x = torch.randn(2, 3, 4, 5)
    assert program_of(Empty(), x)([x], 1).shape == (2, 3, 0, 5)


@pytest.mark.parametrize("shape", [(5, 24), (2, 5, 24), (2, 3, 5, 24)])
def test_the_operator_of_a_linear_layer_adds_maps_of_its_own_shape(shape: tuple[int, ...]) -> None:
    _, packed = pair(Tokens(), example_inputs=torch.rand(2, 3, 32, 32))
    layer = packed.mix
    spec = text_of_spec(dataclasses.replace(layer.spec, norm=None, inner=None, bypass=None))
    x, other = torch.randn(shape), torch.randn(shape)
    alone = ops.layer(x, layer.bits, layer.vectors, spec, [], [])[0]
    both = ops.layer(x, layer.bits, layer.vectors, spec, [], [], residual=other)[0]
    assert torch.equal(both, alone + other)
