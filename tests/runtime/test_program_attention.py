"""Attention, constants and moved values in programs: what is rewritten, and why something is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from program_nets import Net, fused, pair, plain, program_of, programs, same, third, through_passes
from torch import Tensor, nn
from torch.nn import functional as F

from binarize.native.library import available
from binarize.native.structs import STEPS
from binarize.runtime.ops import attention
from binarize.runtime.program.executor import Program
from binarize.runtime.program.graph import ProgramGraph
from binarize.runtime.program.lowering import TorchStep
from binarize.runtime.program.passes.attention_dims import common, regrouped

pytestmark = pytest.mark.skipif(not available(), reason="the native kernels are not built")
INF = float("inf")


class Tokens(nn.Module):
    """Queries, keys and values of (N, 12, 24) by one layer, three heads of eight; the forward is chosen."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv = nn.Linear(24, 72)
        self.table = nn.Parameter(torch.randn(23, 3))
        self.register_buffer("index", torch.arange(12)[:, None] - torch.arange(12) + 11)
        self.register_buffer("mask", torch.randn(2, 12, 12).masked_fill(torch.rand(2, 12, 12) > 0.7, -INF))
        self.register_buffer("seen", torch.rand(12, 12) > 0.3)
        self.scale = nn.Parameter(torch.rand(3, 1, 1))
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        q, k, v = self.qkv(x).reshape(len(x), 12, 3, 3, 8).permute(2, 0, 3, 1, 4).unbind(0)
        return self._forward(self, q, k, v)


def merged(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def bias(net: Any) -> Tensor:
    """As tables of relative positions give it."""
    return net.table[net.index.view(-1)].view(12, 12, 3).permute(2, 0, 1).contiguous().unsqueeze(0)


def windows(net: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q * 8**-0.5) @ k.transpose(-2, -1) + bias(net)
    scores = scores.view(-1, 2, 3, 12, 12) + net.mask.unsqueeze(1).unsqueeze(0)
    return merged(scores.view(-1, 3, 12, 12).softmax(-1) @ v)


def per_head(net: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
    return merged((scores * net.scale.clamp(max=0.5).exp() + bias(net)).softmax(-1) @ v)


def batched(net: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.reshape(-1, 12, 8) for t in (q, k, v))
    weights = F.dropout(torch.bmm(q, k.transpose(1, 2)) / 3, 0.5, net.training).softmax(dim=2)
    return merged(torch.bmm(weights, v).view(-1, 3, 12, 8))


def built(net: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A mask that the forward makes, as torchvision's Swin does."""
    mask = q.new_zeros((12, 12))
    mask[:5, :7] = 3
    mask[8:] += 1
    mask = mask.masked_fill(mask > 2, -100.0)
    return merged((q @ k.mT * 0.3 + mask + bias(net)).softmax(-1) @ v)


def sdpa(**options: Any) -> Callable[..., Tensor]:
    return lambda net, q, k, v: merged(F.scaled_dot_product_attention(q, k, v, **options))


TAKEN: dict[str, Callable[..., Any]] = {
    "one call": sdpa(),
    "scaled": sdpa(scale=0.7),
    "causal": sdpa(is_causal=True),
    "masked": lambda net, q, k, v: merged(F.scaled_dot_product_attention(q, k, v, net.mask[:, None])),
    "of true and false": lambda net, q, k, v: merged(F.scaled_dot_product_attention(q, k, v, net.seen)),
    "biased": lambda net, q, k, v: merged(F.scaled_dot_product_attention(q, k, v, bias(net) * 2)),
    "windows": windows,
    "per head": per_head,
    "batched": batched,
    "built": built,
    "mask of the input": lambda net, q, k, v: merged(
        ((q @ k.mT) + q.mean((1, 3))[:, None, None]).softmax(-1) @ v
    ),
    "other keys": lambda net, q, k, v: merged(
        F.scaled_dot_product_attention(q, k[:, :, ::3], v[:, :, ::3].flip(3))
    ),
}
BY_TORCH = {
    "aten.linear.default",
    "aten.flip.default",
    "aten.mean.dim",
    "aten.linalg_vector_norm.default",
    "aten.clamp_min.default",
    "aten.expand_as.default",
}


def close(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max() / b.abs().max()) < 1e-5


def found(graph: ProgramGraph, fusion: str = "attention") -> list[str]:
    """Reasons, empty ones of what was done."""
    return [c.reason for c in graph.chances if c.fusion == fusion]


def kinds(program: Program) -> tuple[list[int], set[str]]:
    """Steps of the library, and what torch computes."""
    steps = program._ready[0]._held.steps
    by_torch = {step.what for step in steps if isinstance(step, TorchStep)}
    return [step.kind for step in steps if not isinstance(step, TorchStep)], by_torch


@pytest.mark.parametrize("kind", TAKEN)
@torch.no_grad()
def test_attention_is_one_step(kind: str) -> None:
    net, x = Tokens(TAKEN[kind]).eval(), torch.randn(4 if kind == "windows" else 2, 12, 24)
    for name, off in through_passes(net, x):
        assert off < 1e-5, name
    program = program_of(net, x)
    graph = program.graph
    assert found(graph) == [""]
    native, by_torch = kinds(program)
    assert native.count(STEPS["attention"]) == 1
    assert by_torch <= BY_TORCH
    expected = net(x)
    assert close(program([x], 1), expected)
    assert torch.equal(program([x], 2), program([x], 1))
    if kind in ("one call", "windows", "biased", "of true and false"):
        assert STEPS["copy"] not in native  # neither in front nor behind


def two(net: Any, q: Tensor, k: Tensor, v: Tensor) -> Any:
    weights = (q @ k.mT).softmax(-1)
    return weights @ v, weights


def scores_too(net: Any, q: Tensor, k: Tensor, v: Tensor) -> Any:
    scores = q @ k.mT
    return scores.softmax(-1) @ v, scores


MISSED: dict[str, tuple[Callable[..., Any], str]] = {
    "weights are returned": (two, "its weights are read by others, too"),
    "scores are returned": (scores_too, "read by others, too"),
    "another dim": (lambda net, q, k, v: (q @ k.mT).softmax(-2) @ v, "over another dim"),
    "a map": (lambda net, q, k, v: (q @ k.mT * net.mask[0]).softmax(-1) @ v, "multiplied with a map"),
    "behind a bias": (
        lambda net, q, k, v: ((q @ k.mT + bias(net)) * 2).softmax(-1) @ v,
        "scaled behind a bias",
    ),
    "tanh": (lambda net, q, k, v: (q @ k.mT).tanh().softmax(-1) @ v, "aten.tanh.default stands between"),
    "no product": (lambda net, q, k, v: k[..., :1].expand(2, 3, 12, 12).softmax(-1) @ v, "stands between"),
    "three biases": (
        lambda net, q, k, v: (q @ k.mT + bias(net) + net.mask[0] + q[..., :1]).softmax(-1) @ v,
        "more than two biases",
    ),
    "one value head": (lambda net, q, k, v: (q @ k.mT).softmax(-1) @ v[:, :1], "other heads"),
    "a mask of the input": (
        lambda net, q, k, v: F.scaled_dot_product_attention(q, k, v, q[..., :1] > 0),
        "computed at each call",
    ),
    "shared keys": (
        lambda net, q, k, v: F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True),
        "heads share keys",
    ),
}


@pytest.mark.parametrize("kind", MISSED)
@torch.no_grad()
def test_reasons_why_attention_stays(kind: str) -> None:
    forward, reason = MISSED[kind]
    net, x = Tokens(forward).eval(), torch.randn(2, 12, 24)
    program = program_of(net, x)
    graph = program.graph
    (given,) = found(graph)
    assert reason in given
    made, expected = program([x], 1), net(x)
    for a, b in zip(*((y if isinstance(y, tuple) else (y,)) for y in (made, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, equal_nan=True)


def timm_vit(fused: bool) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    net = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=3, num_classes=5)
    block: Any = net.blocks[0]
    block.attn.fused_attn = fused
    return net


def timm_swin(**options: Any) -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    options = {"img_size": 28, "window_size": 4, "depths": (2,), "num_heads": (2,)} | options
    return SwinTransformer(patch_size=2, embed_dim=16, num_classes=5, **options)


def torchvision_swin() -> nn.Module:
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer([2, 2], 16, [2], [2], [4, 4], num_classes=5, stochastic_depth_prob=0.0)


def transformers_vit(way: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=3, intermediate_size=30, image_size=28,
        patch_size=7, num_labels=5, attn_implementation=way,
    )  # fmt: skip
    net = transformers.ViTForImageClassification(config)

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).logits

    return Logits()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "timm's ViT, one call": (lambda: timm_vit(fused=True), 32, 1),
    "timm's ViT": (lambda: timm_vit(fused=False), 32, 1),
    "timm's Swin": (timm_swin, 28, 2),
    "torchvision's Swin": (torchvision_swin, 28, 2),
    "transformers' ViT": (lambda: transformers_vit("eager"), 28, 1),
    "transformers' ViT, one call": (lambda: transformers_vit("sdpa"), 28, 1),
}


@pytest.mark.parametrize(
    "name", [n if n == "timm's Swin" else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]
)
@torch.no_grad()
def test_networks_of_libraries(name: str) -> None:
    make, size, count = NETWORKS[name]
    torch.manual_seed(0)
    net, x = make().eval(), torch.randn(2, 3, size, size)
    program = program_of(net, x)
    graph = program.graph
    assert found(graph) == [""] * count
    native, by_torch = kinds(program)
    assert native.count(STEPS["attention"]) == count
    moved = {"matmul", "softmax", "roll", "pad", "index", "scaled_dot_product_attention", "add"}
    assert not {what.split(".")[1] for what in by_torch} & moved
    assert close(program([x], 2), net(x))


@torch.no_grad()
def test_a_deployed_network_attends_in_its_program() -> None:
    model, packed = pair(timm_swin(), example_inputs=torch.rand(2, 3, 28, 28))
    x = torch.rand(2, 3, 28, 28)
    assert same(third(packed, x), model(x))
    assert {"attention", "constants"} <= fused(packed)
    (program,) = programs(packed)
    block = packed.layers[0].blocks[0].attn
    before = packed(x)
    block.relative_position_bias_table.mul_(3)  # what was computed from it is computed again
    after = third(packed, x)
    model.layers[0].blocks[0].attn.relative_position_bias_table.mul_(3)
    assert same(after, model(x))
    assert not torch.equal(after, before)
    assert program not in programs(packed)


class Moves(nn.Module):
    def __init__(self, forward: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(x)


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "rolled": lambda x: torch.roll(x, (-3, 2), (1, 2)),
    "rolled one dim": lambda x: torch.roll(x.permute(0, 3, 1, 2), 5, -1),
    "rolled further": lambda x: torch.roll(x, (11, 0), (1, 3)),
    "padded": lambda x: F.pad(x, (0, 0, 1, 2, 0, 3)),
    "padded with a number": lambda x: F.pad(x.permute(0, 3, 1, 2), (1, 0, 0, 2), value=-1.5),
    "cut": lambda x: F.pad(x, (-1, 2, 0, 0, 3, -2)),
    "cut away": lambda x: F.pad(x, (1, 0, -6, 3), value=2.0),
}


@pytest.mark.parametrize("kind", MOVES)
@torch.no_grad()
def test_values_that_only_move_are_copies(kind: str) -> None:
    net, x = Moves(lambda x: MOVES[kind](x * 2) + 1).eval(), torch.randn(2, 7, 6, 5)
    program = program_of(net, x)
    assert not kinds(program)[1]
    assert torch.equal(program([x], 1), net(x))


@torch.no_grad()
def test_padding_and_rolls_of_nothing_are_dropped() -> None:
    net = Moves(lambda x: torch.roll(F.pad(x * 2, (0, 0, 0, 0)), (0, 0), (1, 2)).relu())
    program = program_of(net, x := torch.randn(2, 7, 6, 5))
    assert len(kinds(program)[0]) == 1
    shifted = Moves(lambda x: F.pad(x * 2, (1, -1)))  # the same shape, other values
    assert torch.equal(program_of(shifted, x)([x], 1), shifted(x))


class Constants(nn.Module):
    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5))
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


def read_between(net: Any, x: Tensor) -> Tensor:
    made = torch.zeros(5)
    y = x + made
    made += 1
    return y * made


def written_later(net: Any, x: Tensor) -> Tensor:
    made = torch.zeros(3, 5)
    made.add_(x)
    return made * 2


CONSTANTS: dict[str, tuple[Callable[..., Any], bool]] = {
    "a table": (lambda net, x: x + (net.weight.exp() * 2).flip(0), True),
    "written": (lambda net, x: x * torch.ones(5).add_(net.weight).mul_(3), True),
    "read between two writes": (read_between, False),
    "written later": (written_later, False),
    "returned": (lambda net, x: (x + 1, torch.arange(5) * 2), False),
    "random": (lambda net, x: x + torch.rand(5) * 0, False),
}


@pytest.mark.parametrize("kind", CONSTANTS)
@torch.no_grad()
def test_constants_are_computed_once(kind: str) -> None:
    forward, folded = CONSTANTS[kind]
    net, x = Constants(forward).eval(), torch.randn(3, 5)
    before = net.weight.clone()
    program = program_of(net, x)
    graph = program.graph
    assert bool(found(graph, "constants")) == folded
    if folded:
        assert not kinds(program)[1]
    for _ in range(2):
        made, expected = program([x], 1), net(x)
        for a, b in zip(*((y if isinstance(y, tuple) else (y,)) for y in (made, expected)), strict=True):
            assert torch.equal(a, b)
            a.zero_()  # a result that the caller changes is not the next one
    assert torch.equal(net.weight, before)


def test_leading_dims_are_regrouped() -> None:
    assert regrouped((8, 3), (2, 4, 3)) == [[2, 4], [3]]
    assert regrouped((1, 8, 1), (1, 2, 4)) is not None
    assert regrouped((8, 3), (3, 8)) is None
    assert regrouped((8,), (2, 4, 3)) is None
    assert common([(8, 3), (2, 4, 3), (24,)]) == (2, 4, 3)
    assert common([(8, 3), (3, 8)]) is None


def test_the_operator_agrees_with_its_fake() -> None:
    q, k, v = (torch.randn(2, 3, n, f) for n, f in ((5, 8), (7, 8), (7, 4)))
    given = (q, k, v, [torch.randn(3, 1, 7), torch.randn(5, 7)], 0.3, True)
    torch.library.opcheck(attention, given, test_utils="test_faketensor")
    expected = F.scaled_dot_product_attention(q, k, v, given[3][0] + given[3][1], scale=0.3)
    torch.testing.assert_close(attention(*given), expected)


@torch.no_grad()
def test_a_plain_attribute_that_changes_makes_a_new_program() -> None:
    net = Net(lambda net, x: plain(net, x) * net.table.exp())
    net.table = torch.rand(5, 1, 1)
    _, packed = pair(net)
    x = torch.rand(1, 3, 32, 32)
    before = third(packed, x)
    assert "constants" in fused(packed)
    packed.table.add_(1)
    torch.testing.assert_close(packed(x), before * torch.e, rtol=1e-4, atol=1e-4)
