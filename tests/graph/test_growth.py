"""Chains of bypassed layers: what final layers see before training is of the float network's scale."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from dense_nets import DENSE, unit
from torch import Tensor, nn

import binarize
from binarize.graph import Plan, Policy, apply, execute, plan
from binarize.networks.upernet import upernet
from binarize.runtime import configure

HEADS = {"u2net": ("sides.0", "sides.1", "sides.2", "sides.3", "head")}
QUICK = ("u2net", "fpn", "bisenet", "pan")


def images(batch: int = 2, size: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(batch, 3, size, size, generator=generator)
    return noise / 2 + 4 * nn.functional.avg_pool2d(noise, 9, 1, 4)


def net_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return DENSE[name]().train()


def seen_by(model: nn.Module, heads: tuple[str, ...], x: Tensor) -> list[float]:
    """The deviation of the map that each head computes with."""
    found: dict[str, float] = {}

    def note(name: str) -> Any:
        def look(module: nn.Module, args: Any) -> None:
            found.setdefault(name, float(args[0].std()))

        return look

    hooks = [model.get_submodule(name).register_forward_pre_hook(note(name)) for name in heads]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return [found[name] for name in heads]


def norms_of(made: Plan) -> tuple[list[str], list[str]]:
    """(Sums with a norm behind, layers with one in front)."""
    sums = [edit.owner for edit in made.edits if edit.action == "norm"]
    return sums, [swap.path for swap in made.swaps if swap.to == "input_norm"]


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in DENSE]
)
def test_what_heads_see_stays_within_three_times_the_float_networks(name: str) -> None:
    net, x, heads = net_of(name), images(), HEADS.get(name, ("head",))
    expected = seen_by(net, heads, x)
    made = plan(net, "bidense", example_inputs=x[:1], policy=Policy(keep=heads))
    for head, ours, theirs in zip(heads, seen_by(execute(made, net), heads, x), expected, strict=True):
        assert ours < 3 * theirs, f"{head}: {ours:.3g} against {theirs:.3g}"


def test_the_papers_network_has_no_norms_of_this_kind() -> None:
    made = plan(upernet("resnet18", num_classes=5), "bidense", example_inputs=torch.zeros(1, 3, 64, 64))
    assert norms_of(made) == ([], [])


def test_sums_that_the_user_keeps_have_no_norms() -> None:
    made = plan(net_of("fpn"), "bidense", residual="keep", example_inputs=images(1))
    assert norms_of(made) == ([], [])


class TopDown(nn.Module):
    """Three levels added up on the way to the finest, and a long chain in front of the head."""

    def __init__(self, *, looks: bool = False) -> None:
        super().__init__()
        self.stem = unit(3, 8)
        self.down = nn.ModuleList(unit(8, 8, stride=2) for _ in range(2))
        self.laterals = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(3))
        self.chain = nn.Sequential(*(unit(8, 8) for _ in range(12)))
        self.head = nn.Conv2d(8, 2, 1)
        self.looks = looks

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stem(x)
        middle = self.down[0](fine)
        coarse = self.down[1](middle)
        y = nn.functional.interpolate(self.laterals[2](coarse), scale_factor=2.0) + self.laterals[1](middle)
        if self.looks and not bool(torch.isfinite(y.sum())):
            y = torch.zeros_like(y)
        y = nn.functional.interpolate(y, scale_factor=2.0) + self.laterals[0](fine)
        y = y + nn.functional.interpolate(self.down[1](self.down[0](y)), scale_factor=4.0)
        return self.head(self.chain(y))


def top_down(*, looks: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return TopDown(looks=looks)


def test_the_plan_says_where_norms_are_and_is_executed_from_its_json() -> None:
    net, x = top_down(), images()
    made = plan(net, "bidense", example_inputs=x[:1])
    sums, heads = norms_of(made)
    assert sums == [""]
    assert heads == ["head"]
    assert any("BatchNorm behind a sum of more than 2 bypassed signals" in note for note in made.notes)
    assert "BatchNorm in front" in next(row.norm for row in made.rows if row.name == "head")
    read = Plan.from_dict(json.loads(json.dumps(made.as_dict(short=True))))
    torch.manual_seed(1)
    ours = execute(made, net)
    torch.manual_seed(1)
    again = execute(read, net)
    again.load_state_dict(ours.state_dict())
    assert torch.equal(ours(x), again(x))


@pytest.mark.slow
def test_copies_files_and_packed_networks_compute_the_same(tmp_path: Path) -> None:
    net, x = top_down(), images()
    model = apply(net, "bidense", example_inputs=x[:1])
    assert isinstance(model.head.input_norm, nn.BatchNorm2d)
    model.train()(x)  # running statistics
    model.eval()
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(copy.deepcopy(model)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
        binarize.save(model, tmp_path / "net.safetensors")
        assert torch.equal(binarize.load(tmp_path / "net.safetensors", model=net).eval()(x), expected)
        assert torch.allclose(binarize.deploy(model, exact_scales=True)(x), expected, atol=1e-4)
        binarize.save(binarize.deploy(model), tmp_path / "packed.safetensors", packed=True)
        packed = configure(binarize.load(tmp_path / "packed.safetensors", model=net), exact_scales=True)
        assert torch.allclose(packed(x), expected, atol=1e-4)


def test_norms_learn_and_follow_the_modules_mode() -> None:
    model = apply(top_down().eval(), "bidense", example_inputs=images(1))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(norm.training for norm in norms)
    model.train()
    model(images()).square().mean().backward()
    assert model.head.input_norm.weight.grad is not None


def test_a_sum_that_cannot_be_given_a_norm_is_named() -> None:
    made = plan(top_down(looks=True), "bidense", example_inputs=images(1))
    assert norms_of(made)[0] == []
    assert any("TopDown: sums of more than 2" in note and "signals grow there" in note for note in made.notes)


class WrittenOut(nn.Module):
    """Bypassed layers with a function of x between them."""

    def __init__(self, between: Any, layers: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(layers))
        self.head = nn.Conv2d(8, 2, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = self.between(layer(x))
        return self.head(x)


NORMS_WRITTEN_OUT = [
    lambda x: x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6),
    lambda x: torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6) * x,
    lambda x: x / (x.var((2, 3), keepdim=True) + 1e-5).sqrt(),
    lambda x: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5),
]


@pytest.mark.parametrize("norm", NORMS_WRITTEN_OUT, ids=range(len(NORMS_WRITTEN_OUT)))
def test_norms_written_out_hold_the_signal(norm: Any) -> None:
    made = plan(WrittenOut(norm), "bidense", example_inputs=torch.zeros(1, 3, 16, 16))
    assert norms_of(made) == ([], [])  # the head sees what the last norm gives
    grown = plan(WrittenOut(torch.neg, 8), "bidense", example_inputs=torch.zeros(1, 3, 16, 16))
    assert norms_of(grown)[1] == ["head"]


def test_estimates_of_products_of_products_stay_finite() -> None:
    made = plan(WrittenOut(lambda x: x * x, 14), "bidense", example_inputs=torch.zeros(1, 3, 16, 16))
    assert norms_of(made)[1] == ["head"]
