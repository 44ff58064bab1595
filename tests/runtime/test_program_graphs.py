"""Programs of small graphs give what their modules give, whatever dims, views and arguments they have."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from program_nets import program_of, programs, same, third
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

import binarize
from binarize.native.library import available
from binarize.runtime import ops
from binarize.runtime.ops.common import channel_sums
from binarize.runtime.program.capture import NoProgramError
from binarize.runtime.program.graph import ProgramGraph

pytestmark = pytest.mark.skipif(not available(), reason="the native kernels are not built")
Forward = Callable[..., Any]


class Held(nn.Module):
    """A forward with some tensors of its own."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3))
        self.vector = nn.Parameter(torch.randn(8))
        self.register_buffer("mean", torch.randn(8))
        self.register_buffer("variance", torch.rand(8) + 0.5)
        self._forward = forward

    def forward(self, *args: Any) -> Any:
        return self._forward(self, *args)


def made(forward: Forward, *args: Tensor) -> tuple[list[Tensor], list[Tensor], ProgramGraph]:
    """What the program gives, what the modules give, and the graph behind all passes."""
    net = Held(forward).eval()
    with torch.no_grad():
        program = program_of(net, *args)
        return tree_leaves(program(list(args), 1)), tree_leaves(net(*args)), program.graph


def agree(forward: Forward, *args: Tensor) -> ProgramGraph:
    """The graph of a program whose results are those of the modules."""
    results, wanted, graph = made(forward, *args)
    for y, expected in zip(results, wanted, strict=True):
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    return graph


def missed(graph: ProgramGraph, fusion: str) -> list[str]:
    """Why a pass did not fuse."""
    return [c.reason for c in graph.chances if c.fusion == fusion and c.reason]


def taken(graph: ProgramGraph) -> list[str]:
    """What was fused."""
    return [c.fusion for c in graph.chances if not c.reason]


def image(*shape: int) -> Tensor:
    torch.manual_seed(3)
    return torch.randn(*(shape or (2, 8, 6, 6)))


SUMMED: dict[str, tuple[Forward, tuple[int, ...], bool]] = {
    "crop": (lambda n, x: _gated(x[:, :, 1:-1, 1:-2].relu() * 2), (2, 8, 7, 7), True),
    "channels-last crop": (
        lambda n, x: _gated(x.permute(0, 3, 1, 2)[:, :, 1:-1].relu() * 2),
        (2, 7, 6, 8),
        True,
    ),
    "permuted": (lambda n, x: _gated((x.relu() * 2).permute(0, 3, 1, 2)), (2, 6, 6, 6), True),
    "images moved": (lambda n, x: _gated((x.relu() * 2).transpose(0, 1)), (6, 6, 6, 6), False),
    "layer norm": (lambda n, x: _gated(F.layer_norm(x, (6,))), (2, 6, 6, 6), False),
    "layer norm of tokens": (
        lambda n, x: _gated(F.layer_norm(x, (6,)).transpose(1, 2).unflatten(2, (2, 3))),
        (2, 6, 6),
        True,
    ),
    "channels split": (lambda n, x: _gated((x.relu() * 2).view(2, 4, 12, 6)), (2, 8, 6, 6), False),
    "channels merged": (lambda n, x: _gated(F.layer_norm(x, (4,)).reshape(2, 4, 4, 1)), (2, 4, 1, 4), False),
    "twice": (
        lambda n, x: (lambda y: (_gated(y), _gated(y.transpose(1, 3))))(x.relu() * 2),
        (2, 6, 6, 6),
        True,
    ),
    "batch norm": (
        lambda n, x: _gated((F.batch_norm(x, n.mean, n.variance) * 2).transpose(1, 2)),
        (2, 8, 8, 8),
        False,
    ),
}


def _gated(y: Tensor) -> Tensor:
    return y * torch.sigmoid(y.mean((2, 3), keepdim=True))


@pytest.mark.parametrize("name", SUMMED)
def test_means_take_sums_of_their_own_dim(name: str) -> None:
    forward, shape, fuses = SUMMED[name]
    assert ("channel_sums" in taken(agree(forward, image(*shape)))) == fuses


class _Turned(nn.Module):
    """Layers over channels, columns and rows, all of the same size."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        layer: Any = nn.Linear if kind == "rows" else (lambda a, b: nn.Conv2d(a, b, 3, padding=1))
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.a, self.b, self.c = layer(16, 16), layer(16, 16), layer(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        if self.kind == "rows":  # over columns, rows and channels in turn
            y = self.a(F.relu(y) + torch.arange(16.0)[:, None, None] / 8)
            return self.c(self.b(y.transpose(2, 3)).permute(0, 3, 2, 1)) * 2
        return self.c(self.b(self.a(y).transpose(1, 2)).transpose(1, 3)) * 2


@pytest.mark.parametrize("kind", ["rows", "maps"])
def test_layers_take_sums_of_their_own_dim(kind: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16)
    net = binarize.apply(_Turned(kind), "bidense", granularity="layer", example_inputs=x).eval()
    for name, parameter in net.named_parameters():
        if "quantizer" in name:
            nn.init.normal_(parameter, std=0.7)
    packed: Any = binarize.deploy(net)
    result = third(packed, x)
    assert programs(packed), packed.binarize_programs.reasons()
    with torch.no_grad():
        assert same(result, packed._call_impl(x))


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (2, 3), (0, 3)])
def test_sums_of_nothing(shape: tuple[int, ...]) -> None:
    x = torch.ones(shape)
    expected = x.sum((2, 3)) if len(shape) == 4 else x
    assert torch.equal(channel_sums(x), expected)


def _written(view: Callable[[Tensor], Tensor]) -> Forward:
    """A map is written to by another name, and then read by its own."""

    def forward(net: Any, x: Tensor) -> Tensor:
        y = x * 2
        view(y).mul_(3.0)
        return y + 1

    return forward


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "swapaxes": lambda y: y.swapaxes(2, 3),
    "diagonal": lambda y: y.diagonal(dim1=2, dim2=3),
    "unfold": lambda y: y.unfold(3, 2, 2),
    "view_as": lambda y: y.view_as(y),
    "expand_as": lambda y: y.expand_as(y),
    "ravel": lambda y: y.ravel(),
    "split": lambda y: y.split([2, 6], 1)[1],
    "hsplit": lambda y: y.hsplit(2)[0],
    "dtype": lambda y: y.view(torch.int32).view(torch.float32),
    "as_strided": lambda y: y.as_strided((2, 3), (1, 2)),
    "pixels": lambda y: y.select(2, 1).unsqueeze(0),
}


@pytest.mark.parametrize("name", VIEWS)
def test_writes_by_another_name_are_seen_or_refused(name: str) -> None:
    with pytest.raises(NoProgramError, match="read later"):
        agree(_written(VIEWS[name]), image())


def _chained(net: Any, x: Tensor) -> Tensor:
    y = (x * 2).relu_().mul_(0.5).clamp_(-1, 0.25)
    return y.unsqueeze_(0) + 1


def _copied(net: Any, x: Tensor) -> Tensor:
    y = x * 2
    z = y.transpose(2, 3).reshape(2, -1)  # a copy of these strides
    return z.add_(1) @ y.reshape(2, -1).t()


def _constant_written(net: Any, x: Tensor) -> Tensor:
    z = torch.zeros(8)
    y = x[0, :, 0, 0] + z
    torch.add(net.vector, 1.0, out=z)  # of constants alone
    return y + z


def _parts(net: Any, x: Tensor) -> Tensor:
    a, b = (x + 1).chunk(2, 1)
    return a.mul_(2) + b


@pytest.mark.parametrize("forward", [_chained, _copied])
def test_writes_that_nobody_else_sees(forward: Forward) -> None:
    agree(forward, image())


@pytest.mark.parametrize(
    ("forward", "match"),
    [
        (lambda n, x: x.swapaxes(0, 1).add_(1.0), "an input or a parameter"),
        (lambda n, x: n.vector.detach().ravel().add_(1.0) + x[0, :, 0, 0], "an input or a parameter"),
        (lambda n, x: torch.add(x, 1.0, out=torch.empty_like(x)) * 2, "something else"),
        (lambda n, x: torch.zeros(2, 8, 6, 6).add_(x.double()) * 2, "no form"),
        (_parts, "read later"),
        (_constant_written, "something else"),
    ],
)
def test_writes_that_have_no_program(forward: Forward, match: str) -> None:
    with pytest.raises(NoProgramError, match=match):
        agree(forward, image())


def _norm(n: Any, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    return F.batch_norm(x, n.mean, n.variance, weight, bias)


def _of_stem(n: Any, x: Tensor, weight: Tensor | None) -> Tensor:
    return F.max_pool2d(F.relu(_norm(n, F.conv2d(x[:, :3], n.weight), weight)), 2)


COMPUTED: dict[str, tuple[str, Forward]] = {
    "batch norm, input": ("pointwise", lambda n, x, w: _norm(n, x, w) * 2),
    "batch norm, bias": ("pointwise", lambda n, x, w: _norm(n, x, n.vector, w * 2) * 2),
    "batch norm, means": (
        "pointwise",
        lambda n, x, w: F.batch_norm(x, x.mean((0, 2, 3)), n.variance, n.vector) * 2,
    ),
    "batch norm, training": ("pointwise", lambda n, x, w: F.batch_norm(x, None, None, w, training=True) * 2),
    "layer norm, input": ("norms", lambda n, x, w: F.layer_norm(x, (8,), w, n.vector)),
    "layer norm, computed": ("norms", lambda n, x, w: F.layer_norm(x, (8,), None, w.exp())),
    "stem, norm": ("stem", lambda n, x, w: _of_stem(n, x, w)),
    "stem, bias": ("stem", lambda n, x, w: F.conv2d(x[:, :3], n.weight, w).relu()),
    "prelu": ("activation", lambda n, x, w: F.prelu(x * 2, w.sigmoid())),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_vectors_that_are_computed_or_inputs(name: str) -> None:
    fusion, forward = COMPUTED[name]
    graph = agree(forward, image(2, 8, 8, 8), image(8) * 3)
    assert any("computed" in reason or "means" in reason for reason in missed(graph, fusion))


def _maxout(vector: Tensor, x: Tensor) -> Tensor:
    return vector * F.relu(x) - (vector + 1) * F.relu(-x)


RANKS: dict[str, tuple[Forward, tuple[int, ...]]] = {
    "conv of one row": (lambda n, x: F.conv2d(x, n.weight[:, :, :1, :1]) * 2, (3, 1, 9)),
    "conv of one column": (lambda n, x: F.conv2d(x, n.weight[:, :, :1, :1]).sigmoid(), (3, 9, 1)),
    "stem": (lambda n, x: F.max_pool2d(F.conv2d(x, n.weight).relu(), 2), (3, 12, 12)),
    "mean": (lambda n, x: _gated(x[None])[0] + x.mean((1, 2), keepdim=True), (8, 6, 6)),
    "mean of all": (lambda n, x: x * x.mean(dim=None, keepdim=True), (2, 8, 6, 6)),
    "mean of none": (lambda n, x: x * x.mean((), keepdim=True), (2, 8, 6, 6)),
    "pool": (lambda n, x: F.adaptive_avg_pool2d(x.relu() * 2, 1), (8, 6, 6)),
    "layer norm": (lambda n, x: F.layer_norm(x * 2, (8,), n.vector), (8,)),
    "batch norm": (lambda n, x: _norm(n, x, n.vector).relu(), (5, 8)),
    "batch norm of signals": (lambda n, x: _norm(n, x, n.vector).relu(), (2, 8, 7)),
    "linear": (lambda n, x: F.linear(x, n.weight[:, 0, 0]).relu(), (3,)),
    "maxout of a vector": (lambda n, x: _maxout(n.vector, x), (8,)),
    "maxout of rows": (lambda n, x: _maxout(n.vector, x), (4, 8)),
    "maxout of one channel": (lambda n, x: _maxout(n.vector[:, None, None], x[:, :1]), (2, 8, 6, 6)),
    "prelu of rows": (lambda n, x: F.prelu(x * 2, n.vector), (4, 8)),
    "empty": (lambda n, x: _gated(x.relu() * 2), (0, 8, 6, 6)),
    "no positions": (lambda n, x: x.relu().mean((2, 3), keepdim=True).nan_to_num(3.0), (2, 8, 0, 6)),
    "number": (lambda n, x: x.sum() * 2 + 1, (2, 8)),
}


@pytest.mark.parametrize("name", RANKS)
def test_ranks_and_empty_maps(name: str) -> None:
    forward, shape = RANKS[name]
    agree(forward, image(*shape))


def test_a_number_per_head_that_is_made_behind_the_product() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        scores = x @ x.transpose(-2, -1)
        scale = x.mean((-2, -1), keepdim=True).sigmoid()
        return (scores * scale).softmax(-1) @ x

    assert "attention" in taken(agree(forward, image(2, 4, 5, 8)))


ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "div": lambda x: x / 3.0,
    "div by 4": lambda x: x / -4,
    "div by 0": lambda x: x / 0,
    "div by little": lambda x: x / 2.0**-140,
    "div by Scalar": lambda x: torch.ops.aten.div.Scalar(x, 7.0),
    "div rounded": lambda x: torch.div(x, 0.7, rounding_mode="floor"),
    "sub.Scalar": lambda x: torch.ops.aten.sub.Scalar(x, 7.0),
    "alpha": lambda x: torch.add(x, 2.0, alpha=3) - torch.sub(x, x.neg(), alpha=2),
    "elu": lambda x: F.elu(x, 0.7),
    "selu": lambda x: F.selu(x),
    "celu": lambda x: F.celu(x, 0.7),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_operators(name: str) -> None:
    x = image() * 3
    x[0, 0, 0] = torch.tensor([0.0, -0.0, 1e30, -1e30, 1e-30, -100.0])
    graph = agree(lambda net, x: ELEMENTWISE[name](x).relu() * 2, x)
    targets = {n.target for n in graph.graph.nodes if n.op == "call_function"}
    alone = targets == {ops.pointwise, operator.getitem}
    assert alone == (name not in ("div rounded", "alpha", "selu", "celu"))


def test_quotients_are_those_of_torch() -> None:
    for by in (3.0, -0.25, 1e-3):
        results, wanted, _ = made(lambda net, x, by=by: x.neg() / by, image())
        assert torch.equal(results[0], wanted[0])


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear"])
@pytest.mark.parametrize("to", [{"size": (11, 5)}, {"scale_factor": 1.75}])
def test_resizes_are_those_of_torch(mode: str, to: dict[str, Any]) -> None:
    x = torch.randn(2, 8, 6, 7).contiguous(memory_format=torch.channels_last)
    agree(lambda net, x: F.interpolate(x.relu(), mode=mode, **to), x)
