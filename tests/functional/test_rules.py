"""Every rule against its definition by autograd and stop-gradients: STE[f; h] = sg(f) + h - sg(h)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from binarize.functional import (
    AdaBinSet,
    AdaBinWeights,
    ApproxSign,
    CentredScaledSign,
    DabRule,
    Geometry,
    RedistributedSign,
    Rule,
    ScaledSign,
    ShiftedSign,
    SteSign,
    binary_dense,
    quantize,
    sign,
)
from binarize.functional.dab import group_bounds

Formula = Callable[..., Tensor]


def step(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def ste(value: Tensor, surrogate: Tensor) -> Tensor:
    return value.detach() + surrogate - surrogate.detach()


def clipped(x: Tensor) -> Tensor:
    return ste(step(x), x.clamp(-1, 1))


def quadratic(x: Tensor) -> Tensor:
    inner = x.clamp(-1, 1)
    return ste(step(x), 2 * inner - inner * inner.abs())


def dab(rule: DabRule) -> Formula:
    def formula(x: Tensor, *params: Tensor) -> Tensor:
        given = dict(zip(rule.names(), params, strict=True))
        spatial = (2, 3) if rule.dim == 1 else (1, 2)
        over = spatial if rule.granularity == "channel" else (1, 2, 3)
        zero = torch.zeros((), dtype=x.dtype)
        beta = given.get("k", zero) * x.mean(spatial, True).detach() + given.get("b", zero)
        xs = x - beta
        deviation = xs.abs().mean(over, True).detach()
        scale = {
            "adaptive": lambda: torch.exp(given["a"] * (deviation - 1)),
            "mad": lambda: deviation,
            "learned": lambda: torch.exp(given["a"]),
            "none": lambda: torch.ones((), dtype=x.dtype),
        }[rule.scale]()
        return scale * quadratic(xs)

    return formula


def dab_of_two_groups(rule: DabRule) -> Formula:
    """Of 70 channels in groups of 32 and 38: two DABs with one scale each, side by side."""
    alone = dab(dataclasses.replace(rule, granularity="layer"))

    def formula(x: Tensor, *params: Tensor) -> Tensor:
        given = dict(zip(rule.names(), params, strict=True))
        parts = []
        for g, channels in enumerate((slice(0, 32), slice(32, 70))):
            cut: list[Any] = [slice(None)] * (4 if rule.dim == 1 else 1)
            cut[1 if rule.dim == 1 else 0] = channels
            own = [
                p.narrow(1 if rule.dim == 1 else 0, g, 1) if name == "a" else p[tuple(cut)]
                for name, p in given.items()
            ]
            parts.append(alone(x[:, channels] if rule.dim == 1 else x[..., channels], *own))
        return torch.cat(parts, rule.dim)

    return formula


def adabin_set(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha * (quadratic((x - beta) / alpha) + beta)


def redistributed(x: Tensor, k: Tensor, b: Tensor, beta: Tensor) -> Tensor:
    z = k * x + b
    return ste(step(z), torch.tanh(beta * z))


def scaled(w: Tensor) -> Tensor:
    scale = w.abs().mean(tuple(range(1, w.dim())), True).detach()
    return ste(scale * step(w), w.clamp(-1, 1))


def centred(w: Tensor) -> Tensor:
    c = w - w.mean(tuple(range(1, w.dim())), True)
    return ste(w.abs().mean(tuple(range(1, w.dim())), True).detach() * step(c), c.clamp(-1, 1))


def adabin_weights(n_factor: int = 1) -> Formula:
    def formula(w: Tensor) -> Tensor:
        dims = tuple(range(1, w.dim()))
        n = w[0].numel() * n_factor
        beta = w.mean(dims, True)
        alpha = ((w - beta).square().sum(dims, True) / n).sqrt()
        u = (w - beta) / alpha
        k, t = 10.0, 0.1
        return alpha * ste(step(u), k * torch.tanh(t * u)) + beta

    return formula


CHANNELS = (1, 5, 1, 1)
LAST = (5,)
CASES: list[tuple[str, Rule, Formula, tuple[int, ...], list[tuple[int, ...]]]] = [
    ("ste", SteSign(), clipped, (3, 5, 4, 6), []),
    ("approx", ApproxSign(), quadratic, (3, 5, 4, 6), []),
    ("shifted", ShiftedSign(), lambda x, b: quadratic(x + b), (3, 5, 4, 6), [CHANNELS]),
    ("shifted last", ShiftedSign(), lambda x, b: quadratic(x + b), (3, 7, 5), [LAST]),
    ("adabin", AdaBinSet(), adabin_set, (3, 5, 4, 6), [(), ()]),
    ("bisr", RedistributedSign(), redistributed, (3, 5, 4, 6), [CHANNELS, CHANNELS, (1,)]),
    ("wscale", ScaledSign(), scaled, (6, 3, 3, 3), []),
    ("centred", CentredScaledSign(), centred, (6, 9), []),
    ("adabin weights", AdaBinWeights(), adabin_weights(), (6, 3, 3, 3), []),
    (
        "adabin authors",
        AdaBinWeights(groups=4, authors_filter_size=True),
        adabin_weights(4),
        (8, 1, 3, 3),
        [],
    ),
]
for threshold in ("adaptive", "b", "mean", "none"):
    for scale_kind in ("adaptive", "mad", "learned", "none"):
        for granularity in ("channel", "layer"):
            for dim in (1, -1):
                rule = DabRule(threshold, scale_kind, granularity, dim)  # type: ignore[arg-type]
                per_channel = CHANNELS if dim == 1 else LAST
                one = (1, 1, 1, 1) if dim == 1 else (1,)
                shapes = [one if n == "a" and granularity == "layer" else per_channel for n in rule.names()]
                shape = (3, 5, 4, 6) if dim == 1 else (3, 4, 6, 5)
                CASES.append(
                    (f"dab {threshold} {scale_kind} {granularity} {dim}", rule, dab(rule), shape, shapes)
                )


for threshold in ("adaptive", "none"):
    for scale_kind in ("adaptive", "mad", "learned", "none"):
        for dim in (1, -1):
            rule = DabRule(threshold, scale_kind, "group", dim, groups=2)  # type: ignore[arg-type]
            shape = (3, 70, 4, 6) if dim == 1 else (3, 4, 6, 70)
            # 70 channels are three words of 32: the first group has one, the second two
            sizes = {"a": (1, 2, 1, 1), "k": (1, 70, 1, 1), "b": (1, 70, 1, 1)}
            shapes = [sizes[name] if dim == 1 else (max(sizes[name]),) for name in rule.names()]
            CASES.append(
                (f"dab {threshold} {scale_kind} group {dim}", rule, dab_of_two_groups(rule), shape, shapes)
            )


@given(channels=st.integers(1, 2000), groups=st.integers(1, 40))
def test_groups_are_whole_words(channels: int, groups: int) -> None:
    bounds = group_bounds(channels, groups)
    assert (bounds[0], bounds[-1]) == (0, channels)
    assert 1 <= len(bounds) - 1 <= groups
    assert all(start % 32 == 0 for start in bounds[:-1])
    words = [-(-(end - start) // 32) for start, end in itertools.pairwise(bounds)]
    assert min(words) >= 1
    assert max(words) - min(words) <= 1
    assert len(words) == min(groups, sum(words))


@pytest.mark.parametrize("scale", ["adaptive", "mad"])
@pytest.mark.parametrize("granularity", ["channel", "group", "layer"])
def test_an_input_without_positions_is_a_map_of_one_position(scale: Any, granularity: Any) -> None:
    rule = DabRule("adaptive", scale, granularity, -1)
    x = torch.randn(4, 6, dtype=torch.double, requires_grad=True)
    params = [
        torch.rand(
            1 if name == "a" and granularity != "channel" else 6, dtype=torch.double, requires_grad=True
        )
        for name in rule.names()
    ]
    upstream = torch.randn(4, 6, dtype=torch.double)
    alone = quantize(rule, x, *params)
    as_map = quantize(rule, x[:, None], *params)[:, 0]
    assert torch.equal(alone, as_map)
    ours = torch.autograd.grad((alone * upstream).sum(), [x, *params])
    for a, b in zip(ours, torch.autograd.grad((as_map * upstream).sum(), [x, *params]), strict=True):
        assert torch.allclose(a, b)


@pytest.mark.parametrize(
    ("rule", "formula", "shape", "shapes"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_forward_and_gradients_are_those_of_the_formula(
    rule: Rule, formula: Formula, shape: tuple[int, ...], shapes: list[tuple[int, ...]]
) -> None:
    x = torch.randn(shape, dtype=torch.double, requires_grad=True)
    params = [(torch.rand(s, dtype=torch.double) + 0.3).requires_grad_() for s in shapes]
    upstream = torch.randn(shape, dtype=torch.double)
    ours = torch.autograd.grad((quantize(rule, x, *params) * upstream).sum(), [x, *params])
    theirs = torch.autograd.grad((formula(x, *params) * upstream).sum(), [x, *params])
    assert torch.allclose(quantize(rule, x, *params), formula(x, *params), rtol=1e-12)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
    y, stats = rule.quantize(x.detach(), *params)
    assert torch.equal(rule.rebuild(x.detach(), stats, *params), y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_sign_has_two_values_only(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).tiny
    x = torch.tensor([0.0, -0.0, tiny, -tiny, 3.0, -3.0], dtype=dtype)
    assert sign(x).tolist() == [1, 1, 1, -1, 1, -1]
    for rule, params in ((SteSign(), ()), (ShiftedSign(), (torch.zeros(1, dtype=dtype),))):
        assert rule.quantize(x, *params)[0].tolist() == [1, 1, 1, -1, 1, -1]
    zero = torch.zeros(1, 1, 2, 3, dtype=dtype) * -1
    y, _ = DabRule("b", "none").quantize(zero, torch.zeros(1, 1, 1, 1, dtype=dtype))
    assert y.min() == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_clip_passes_the_closed_interval(dtype: torch.dtype) -> None:
    above = 1 + 2 * torch.finfo(dtype).eps
    x = torch.tensor([-above, -1.0, 0.5, 1.0, above], dtype=dtype, requires_grad=True)
    quantize(SteSign(), x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_fused_convolution_is_the_composition(groups: int, transposed: bool) -> None:
    geometry = Geometry((2, 1), (1, 0), (1, 2), groups, transposed, (1, 0) if transposed else ())
    x = torch.randn(2, 4, 7, 8, dtype=torch.double, requires_grad=True)
    shape = (4, 6 // groups, 3, 3) if transposed else (6, 4 // groups, 3, 3)
    weight = torch.randn(shape, dtype=torch.double, requires_grad=True)
    bias = torch.randn(6, dtype=torch.double, requires_grad=True)
    beta = torch.randn(1, 4, 1, 1, dtype=torch.double, requires_grad=True)
    leaves = [x, weight, bias, beta]
    latent = geometry.filters_first(weight)
    assert torch.equal(geometry.filters_back(latent), weight)
    fused = binary_dense(
        x, latent, bias, weight_rule=ScaledSign(), input_rule=ShiftedSign(), params=(beta,), geometry=geometry
    )
    binary = geometry.filters_back(scaled(latent))
    if transposed:
        plain = torch.nn.functional.conv_transpose2d(
            quadratic(x + beta), binary, bias, (2, 1), (1, 0), (1, 0), groups, (1, 2)
        )
    else:
        plain = torch.nn.functional.conv2d(quadratic(x + beta), binary, bias, (2, 1), (1, 0), (1, 2), groups)
    assert torch.allclose(fused, plain)
    upstream = torch.randn_like(plain)
    ours = torch.autograd.grad((fused * upstream).sum(), leaves)
    theirs = torch.autograd.grad((plain * upstream).sum(), leaves)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-10)


def test_fused_layer_keeps_neither_quantized_tensor() -> None:
    saved: list[tuple[int, ...]] = []
    x = torch.randn(2, 8, 16, 16, requires_grad=True)
    weight = torch.randn(32, 8, 3, 3, requires_grad=True)

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in (x.data_ptr(), weight.data_ptr()):
            saved.append(tuple(tensor.shape))
        return tensor

    params = tuple(torch.zeros(1, 8, 1, 1, requires_grad=True) for _ in range(3))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        binary_dense(
            x,
            weight,
            None,
            weight_rule=ScaledSign(),
            input_rule=DabRule(),
            params=params,
            geometry=Geometry((1, 1), (1, 1), (1, 1)),
        )
    assert sum(torch.Size(shape).numel() for shape in saved) <= 4 * 2 * 8 + 32 + 3 * 8


def test_autocast_computes_in_the_lower_precision_and_trains() -> None:
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    weight = torch.randn(4, 8, 3, 3, requires_grad=True)
    geometry = Geometry((1, 1), (1, 1), (1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        y = binary_dense(x, weight, None, weight_rule=ScaledSign(), input_rule=SteSign(), geometry=geometry)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", ["adaptive", "mad", "learned"])
@pytest.mark.parametrize("granularity", ["channel", "layer"])
def test_the_dab_is_finite_for_all_finite_inputs(granularity: str, scale: str, dtype: torch.dtype) -> None:
    rule = DabRule("adaptive", scale, granularity)  # type: ignore[arg-type]
    most = 6e4 if dtype == torch.float16 else 3e38
    shape = (1, 2, 1, 1)
    for size, values in [((2, 2, 1, 1), (1e4, most)), ((2, 2, 3, 3), (most, -most))]:
        x = torch.full(size, values[0], dtype=dtype)
        x[:, 1] = values[1]
        for a in (-0.9, -1e-3, 0.0, 1e-3, 0.9):
            if dtype == torch.float16 and scale == "mad":
                continue  # its scale is the largest number there already
            params = [torch.full(shape, value, dtype=dtype) for value in (a, 1e-3, 0.1)]
            given = [p[:, :1] if granularity == "layer" and name == "a" else p
                     for name, p in zip(("a", "k", "b"), params, strict=True)]  # fmt: skip
            given = [p for name, p in zip(("a", "k", "b"), given, strict=True) if name in rule.names()]
            y, stats = rule.quantize(x, *given)
            grads = rule.gradient(torch.full_like(x, 1e-3), x, stats, *given)
            assert all(torch.isfinite(t).all() for t in (y, *grads)), (a, size)


def test_limits_change_nothing_below_them() -> None:
    x = torch.randn(2, 3, 4, 4) * 3
    a, k, b = (torch.full((1, 3, 1, 1), value) for value in (2.0, 0.1, 0.2))
    xs = x - (k * x.mean((2, 3), keepdim=True) + b)
    expected = torch.exp(a * (xs.abs().mean((2, 3), keepdim=True) - 1)) * step(xs)
    assert torch.equal(DabRule().quantize(x, a, k, b)[0], expected)
