"""LQ-Nets: levels, fits and gradients against formulas written here; what a layer fits, and when."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from data_parallel_step import fit_bases
from torch import Tensor, nn

import binarize
from binarize.errors import ConfigError
from binarize.functional import levels_of, quantize
from binarize.functional.levels import fitted, moments_of
from binarize.methods.lqnet import LearntLevels, LQActivations, LQNet, LQWeights
from binarize.testing import check_method

BITS = [(1, 2), (2, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize("bits", BITS)
def test_all_bits_keep_the_contract(bits: tuple[int, int]) -> None:
    method = LQNet.create(weight_bits=bits[0], activation_bits=bits[1])
    assert method.bits == bits
    check_method(method)


def codes_of(count: int, signed: bool) -> Tensor:
    """All codes, (2^K, K)."""
    digits = [[n // 2**k % 2 for k in range(count)] for n in range(2**count)]
    return torch.tensor(digits, dtype=torch.double) * (2 if signed else 1) - (1 if signed else 0)


def nearest(x: Tensor, basis: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """The nearest of all sums to each number of a vector, and its code."""
    codes = codes_of(len(basis), signed)
    sums = codes @ basis
    best = (x[:, None] - sums).abs().argmin(1)
    return sums[best], codes[best]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    "basis", [[0.7], [0.3, 0.8], [0.9, 0.2], [0.4, -0.7], [0.2, 0.5, 0.9], [0.5, 0.9, 0.2]]
)
def test_numbers_become_the_nearest_level(basis: list[float], signed: bool) -> None:
    v, x = torch.tensor(basis, dtype=torch.double), 2 * torch.randn(400, dtype=torch.double)
    levels = levels_of(v, signed=signed)
    expected, codes = nearest(x, v, signed)
    assert torch.allclose(levels.nearest(x), expected)
    assert torch.equal(levels.digits(x).t(), codes)
    on_it = levels.nearest(levels.thresholds)
    assert torch.equal(on_it, levels.values[1:])


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_fit_is_that_of_least_squares(count: int, signed: bool) -> None:
    v = torch.linspace(0.3, 1.1, count).double()
    x = torch.randn(500, dtype=torch.double)
    _, codes = nearest(x, v, signed)
    expected = torch.linalg.lstsq(codes, x[:, None]).solution[:, 0]
    assert torch.allclose(fitted(v, moments_of(x, levels_of(v, signed=signed))), expected, atol=1e-4)


def test_a_fit_leaves_what_the_numbers_do_not_say() -> None:
    """Of one code only, the basis moves as little as it has to; of no numbers at all it stays."""
    v = torch.tensor([0.5, 1.0])
    levels = levels_of(v, signed=False)
    assert torch.allclose(fitted(v, moments_of(torch.full((9,), 3.0), levels)), torch.tensor([1.25, 1.75]))
    assert torch.equal(fitted(v, moments_of(torch.zeros(9), levels)), v)


def test_gradients() -> None:
    v = torch.tensor([0.5, 1.0])
    x = torch.tensor([-3.0, -1.5, -0.2, 0.0, 0.7, 1.5, 1.6], requires_grad=True)
    upstream = torch.arange(1.0, 8.0)
    top = 1.5
    for rule, slope in (
        (LQActivations(signed=False), (x <= top)),
        (LQActivations(signed=True), (x.abs() <= top)),
        (LQWeights(2), torch.ones_like(x)),
    ):
        basis = v.view(2, 1) if isinstance(rule, LQWeights) else v
        (gradient,) = torch.autograd.grad((quantize(rule, x, basis) * upstream).sum(), x)
        assert torch.equal(gradient, upstream * slope)


def layer_of(**options: Any) -> Any:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 4, 3, padding=1)
    return binarize.binary_layer(conv, "lqnet", **options)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_bases_of_weights_follow_in_each_forward_pass_of_training(count: int) -> None:
    """Without a call of `set_progress`; v becomes 0.9 v + 0.1 of the fit, filter by filter."""
    layer = layer_of(weight_bits=count)
    basis = layer.weight_state.basis
    layer.eval()(torch.randn(2, 6, 5, 5))
    before = basis.clone()
    layer.train()
    with torch.no_grad():
        layer.weight.add_(0.1 * torch.randn_like(layer.weight))
    y = layer(torch.randn(2, 6, 5, 5))
    for o in range(4):
        v, x = before[:, o].flatten().double(), layer.weight[o].detach().flatten().double()
        _, codes = nearest(x, v, signed=True)
        fit = torch.linalg.lstsq(codes, x[:, None]).solution[:, 0]
        assert torch.allclose(basis[:, o].flatten().double(), 0.9 * v + 0.1 * fit, atol=1e-5)
    y.sum().backward()  # the pass that follows finds the basis of its forward pass
    layer.eval()(torch.randn(2, 6, 5, 5))
    assert layer.binary_weight().unique(dim=0).numel() > 0
    after = basis.clone()
    layer(torch.randn(2, 6, 5, 5))
    assert torch.equal(basis, after)


def test_bases_of_activations_start_from_the_first_batch_and_follow() -> None:
    quantizer = LearntLevels(2, signed=False)
    x = 5 * torch.randn(300).relu()
    v = 0.6745 * 2 / 3 * torch.tensor([1.0, 2.0]).double() * (2 * x.double().square().mean()).sqrt()
    for _ in range(3):
        quantizer(x)
        _, codes = nearest(x.double(), v, signed=False)
        v = 0.9 * v + 0.1 * torch.linalg.lstsq(codes, x.double()[:, None]).solution[:, 0]
        assert torch.allclose(quantizer.basis.double(), v, atol=1e-4)
    after = quantizer.basis.clone()
    assert set(quantizer.eval()(x).unique().tolist()) <= set(levels_of(after, signed=False).values.tolist())
    assert torch.equal(quantizer.basis, after)


@pytest.mark.slow
def test_two_processes_fit_one_basis(tmp_path: Path) -> None:
    """That of the whole batch."""
    batches = torch.randn(3, 2, 50, 4)
    torch.save(batches, tmp_path / "batches.pt")
    torch.multiprocessing.spawn(fit_bases, (2, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    alone = LearntLevels(2, signed=True)
    for batch in batches:
        alone(batch.flatten(0, 1))
    assert torch.equal(first, second)
    assert torch.allclose(first, alone.basis, rtol=1e-5)


def test_a_batch_of_zeros_or_of_no_size_spoils_nothing() -> None:
    quantizer = LearntLevels(2, signed=True)
    before = quantizer.basis.clone()
    for x in (torch.zeros(4, 3), torch.empty(0, 3)):
        quantizer(x)
    assert torch.equal(quantizer.basis, before)
    assert not quantizer.started
    quantizer(torch.tensor([[1.0, torch.inf], [torch.nan, 2.0]]))
    assert quantizer.basis.isfinite().all()


def test_codes_by_the_sign_of_the_input() -> None:
    signed, unsigned = layer_of(activation_bits=2), layer_of(activation_bits=2, nonnegative_input=True)
    x = torch.linspace(-2, 2, 101)
    assert len(signed.quantizer.eval()(x).unique()) == 4
    assert sorted(unsigned.quantizer.eval()(x.relu()).unique().tolist())[0] == 0
    plan = binarize.plan(
        nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3),
            nn.GELU(),
            nn.Conv2d(8, 8, 3),
            nn.Conv2d(8, 2, 1),
        ),
        "lqnet",
        weight_bits=2,
        activation_bits=3,
        example_inputs=torch.randn(1, 3, 12, 12),
    )
    assert [row.activations for row in plan.converted] == ["0 and 7 learnt levels"] * 2  # GELU became ReLU
    assert "lqnet W2A3" in str(plan)
    assert "lqnet W2A3: 2 of 4 layers" in plan.summary_line()


def test_training_goes_on_bit_for_bit() -> None:
    """A copy by its state dict has the same numbers after three more steps."""
    first = nn.Sequential(layer_of(weight_bits=2, activation_bits=2), nn.ReLU(), nn.Conv2d(4, 2, 1))
    second = copy.deepcopy(first)
    x = torch.randn(5, 2, 6, 5, 5)

    def steps(net: nn.Module, batches: Tensor) -> None:
        optimizer = torch.optim.SGD(net.parameters(), 0.05)
        for batch in batches:
            optimizer.zero_grad()
            net(batch).square().mean().backward()
            optimizer.step()

    steps(first, x[:2])
    second.load_state_dict(first.state_dict())
    steps(first, x[2:])
    steps(second, x[2:])
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_what_is_fitted_becomes_better() -> None:
    """The error of weights and activations falls while a layer sees one input."""
    layer = layer_of(weight_bits=3, activation_bits=3)
    x = 3 * torch.rand(4, 6, 5, 5) ** 2 - 1
    with torch.no_grad():
        layer(x)
        errors = []
        for _ in range(60):
            layer(x)
            q = layer.quantizer
            off = (q.rule.quantize(x, q.basis)[0] - x).square().mean() / x.square().mean()
            own = (layer.binary_weight() - layer.weight).square().mean() / layer.weight.square().mean()
            errors.append((float(off), float(own)))
    assert errors[-1][0] < errors[0][0]
    assert errors[-1][1] <= errors[0][1]
    assert max(errors[-1]) < 0.05  # 8 levels each


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="weight_bits=4, expected one of 1, 2, 3"):
        LQNet.create(weight_bits=4)


def test_networks_may_be_channels_last() -> None:
    net = nn.Sequential(layer_of(weight_bits=2), nn.ConvTranspose2d(4, 4, 2))
    net = net.to(memory_format=torch.channels_last)
    net(torch.randn(2, 6, 5, 5)).sum().backward()
