"""Numbers that follow the progress of training: set by one call, kept in buffers, restored bit for bit."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import binarize
from binarize.errors import ConfigError
from binarize.layers import BinaryConv2d, BinaryLinear
from binarize.methods.rbnn import Rotations
from binarize.runtime.verify import verify


def conv(method: str, **options: Any) -> BinaryConv2d:
    torch.manual_seed(0)
    return BinaryConv2d(4, 6, 3, padding=1, method=method, **options)


SCHEDULES = {
    "irnet": ("t", {0.0: 0.1, 0.25: 10**-0.5, 0.5: 1.0, 1.0: 10.0}),
    "rbnn": ("t", {0.0: 0.01, 1 / 3: 0.1, 1.0: 10.0}),
    "recu": ("tau", {0.0: 0.85, 0.5: 0.85 + 0.14 * (math.e**0.5 - 1) / (math.e - 1), 1.0: 0.99}),
    "reste": ("o", {0.0: 1.0, 0.5: 1 + 2 * (1 - 0.5**0.5), 1.0: 3.0}),
    "fda": ("n", {0.0: 9, 0.5: 13, 0.999: 17, 1.0: 18}),
    "bnext": ("temperature", {0.0: 1.0, 1 / 512: 0.9, 0.25: 0.9**128, 1.0: 0.9**512}),
}


@pytest.mark.parametrize("method", SCHEDULES)
def test_numbers_follow_their_schedule(method: str) -> None:
    name, wanted = SCHEDULES[method]
    net = nn.Sequential(conv(method), nn.ReLU(), conv(method))
    held = [b for n, b in net.named_buffers() if n.rpartition(".")[2] == name]
    assert len(held) == (
        2 if method in ("recu", "bnext") else 4
    )  # of the weights alone, or of activations too
    for progress, value in wanted.items():
        binarize.set_progress(net, progress)
        assert [float(b) for b in held] == pytest.approx([value] * len(held), rel=1e-6)
    assert all(any(b is other for other in net.buffers()) for b in held)  # set in place


@pytest.mark.parametrize("progress", [-0.1, 1.1, math.nan, math.inf, "half", True, None])
def test_a_progress_that_is_none_is_refused(progress: Any) -> None:
    with pytest.raises(ConfigError, match="expected a number from 0"):
        binarize.set_progress(conv("irnet"), progress)


def test_networks_without_such_parts_and_wrapped_ones() -> None:
    binarize.set_progress(nn.Linear(2, 2), 0.5)
    binarize.set_progress(conv("bidense"), 0.5)
    wrapped = nn.DataParallel(conv("irnet"))
    binarize.set_progress(wrapped, 1)
    assert float(wrapped.module.quantizer.t) == 10.0


@pytest.mark.parametrize("method", SCHEDULES)
def test_copies_and_files_have_the_numbers(method: str) -> None:
    layer = conv(method)
    binarize.set_progress(layer, 0.3)
    twin = copy.deepcopy(layer)
    saved = io.BytesIO()
    torch.save(layer.state_dict(), saved)
    binarize.set_progress(layer, 0.9)
    saved.seek(0)
    fresh = conv(method)
    fresh.load_state_dict(torch.load(saved))
    for a, b in zip(twin.state_dict().values(), fresh.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    name = SCHEDULES[method][0]
    assert not torch.equal(layer.weight_state.get_buffer(name), fresh.weight_state.get_buffer(name))


def test_the_surrogate_is_that_of_the_progress() -> None:
    layer = conv("irnet", norm=False)
    x = torch.full((1, 4, 5, 5), 0.5)
    sizes = []
    for progress in (0.0, 0.5, 1.0):
        binarize.set_progress(layer, progress)
        given = x.clone().requires_grad_()
        layer(given).sum().backward()
        assert given.grad is not None
        sizes.append(float(given.grad.abs().max()))
    slopes = [max(1 / t, 1) * t * (1 - math.tanh(t / 2) ** 2) for t in (0.1, 1.0, 10.0)]
    assert [s / sizes[0] for s in sizes] == pytest.approx([s / slopes[0] for s in slopes], rel=1e-3)


def distance(layer: BinaryConv2d) -> float:
    """How far the rotated filters are from their signs, in directions."""
    state: Any = layer.weight_state
    v = layer.weight.detach().flatten(1)
    v = (v - v.mean(1, True)) / v.std(1, keepdim=True)
    turned = state.R1.T @ v.view(6, *[len(m) for m in (state.R1, state.R2)]) @ state.R2
    return -float(turned.abs().sum())


def test_rotations_turn_filters_towards_their_signs() -> None:
    layer = conv("rbnn")
    state = layer.weight_state
    assert isinstance(state, Rotations)
    start = distance(layer)
    binarize.set_progress(layer, 0.0)
    assert distance(layer) < start
    for matrix in (state.R1, state.R2):
        assert torch.allclose(matrix @ matrix.T, torch.eye(len(matrix)), atol=1e-5)
    assert tuple(len(m) for m in (state.R1, state.R2)) == (6, 6)


def test_rotations_follow_the_weights_so_many_times() -> None:
    layer, seen = conv("rbnn", updates=4), []
    for step in range(41):
        binarize.set_progress(layer, step / 40)
        seen.append(layer.weight_state.R1.clone())
        with torch.no_grad():
            layer.weight.add_(torch.randn_like(layer.weight), alpha=0.1)
    changed = [i for i in range(1, 41) if not torch.equal(seen[i], seen[i - 1])]
    assert changed == [10, 20, 30]
    fresh = conv("rbnn", updates=4)
    fresh.load_state_dict(layer.state_dict())
    binarize.set_progress(fresh, 1.0)  # it was done for this part of the training
    assert torch.equal(fresh.weight_state.R1, layer.weight_state.R1)


def test_scales_start_from_the_weights() -> None:
    for method in ("recu", "rbnn"):
        layer = nn.Conv2d(4, 6, 3)
        built = binarize.binary_layer(layer, method)
        expected = layer.weight.detach().abs().mean((1, 2, 3))
        assert torch.equal(built.weight_state.alpha.flatten(), expected)
        sizes = built.binary_weight().abs().flatten(1)
        assert torch.allclose(sizes, expected[:, None].expand_as(sizes))


@pytest.mark.parametrize("unsigned", [False, True])
def test_elastic_scales_start_from_the_first_batch(unsigned: bool) -> None:
    layer = binarize.binary_layer(nn.Linear(4, 3), "bit", nonnegative_input=unsigned)
    x = torch.randn(2, 50, 4)
    x = x.relu() if unsigned else x
    layer.eval()(x)
    assert layer.quantizer.alpha.item() == 1.0
    layer.train()(x)
    wanted = (4 if unsigned else 2) * float(x.abs().mean())
    assert layer.quantizer.alpha.item() == pytest.approx(wanted)
    layer(10 * x)
    assert layer.quantizer.alpha.item() == pytest.approx(wanted)
    fresh = binarize.binary_layer(nn.Linear(4, 3), "bit", nonnegative_input=unsigned)
    fresh.load_state_dict(layer.state_dict())
    fresh.train()(10 * x)
    assert torch.equal(fresh.quantizer.alpha, layer.quantizer.alpha)
    values = fresh.quantizer(x).unique().tolist()
    assert values == pytest.approx([0.0 if unsigned else -wanted, wanted])


def test_weights_of_bnext_become_signs() -> None:
    layer = conv("bnext")
    assert len(layer.binary_weight()[0].unique()) > 2
    net = nn.Sequential(layer).eval()
    report = binarize.deploy(net).deploy_report
    assert "not binary yet (temperature 1)" in report.refused["0"]
    with pytest.raises(
        ConfigError, match=r"0 is not packed: its weights are not binary yet \(temperature 1\)"
    ):
        verify(net, binarize.deploy(net), [torch.randn(1, 4, 5, 5)])
    binarize.set_progress(net, 0.31)
    assert layer.binary_weight().abs().eq(1).all()
    assert not binarize.deploy(net).deploy_report.refused


def test_parameters_of_weights_do_not_decay() -> None:
    from binarize.training.build import quantizer_parameters

    layer = BinaryLinear(4, 4, method="rbnn")
    free = {id(p) for p in quantizer_parameters(layer)}
    assert {id(layer.weight_state.alpha), id(layer.weight_state.angle)} <= free
    assert id(layer.weight) not in free


def test_float_weights_of_the_first_stage_give_gradients_to_all() -> None:
    from binarize.training.stages import float_weights

    layer = conv("rbnn")
    with float_weights(layer):
        y: Tensor = layer(torch.randn(2, 4, 5, 5))
        y.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
