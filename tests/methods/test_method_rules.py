"""The rules of single methods against their papers' formulas, written with autograd and stop-gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from binarize.functional import Rule, quantize
from binarize.methods.bit import Elastic
from binarize.methods.bnext import HardSign, TemperedWeights
from binarize.methods.fda import FDASign, FDAWeights
from binarize.methods.groupnet import LayerScaledSign
from binarize.methods.irnet import IRSign, IRWeights
from binarize.methods.mbunet import MaskedSign
from binarize.methods.rbnn import RBNNSign, RBNNWeights
from binarize.methods.recu import ReCUSign, ReCUWeights
from binarize.methods.reste import ReSTESign, ReSTEWeights
from binarize.methods.xnor import XNORSign, XNORWeights

Formula = Callable[..., Tensor]


def ste(value: Tensor, surrogate: Tensor) -> Tensor:
    return value.detach() + surrogate - surrogate.detach()


def step(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def filters(w: Tensor) -> tuple[int, ...]:
    return tuple(range(1, w.dim()))


def standard(w: Tensor, eps: float = 0.0) -> Tensor:
    centred = w - w.mean(filters(w), True)
    n = w[0].numel()
    return centred / (centred.square().sum(filters(w), True) / (n - 1) + eps).sqrt()


def tanh_sign(x: Tensor, t: float) -> Tensor:
    return ste(step(x), max(1 / t, 1.0) * torch.tanh(t * x))


class Inwards(torch.autograd.Function):
    """The identity; beyond 1.5, gradients that would make a value larger still are left out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        ((x,), (grad,)) = ctx.saved_tensors, grads
        grows = torch.sign(x) == -torch.sign(grad)
        return grad.masked_fill((x.abs() > 1.5) & grows, 0)


def irnet_weights(t: float) -> Formula:
    def formula(w: Tensor) -> Tensor:
        v = standard(w)
        scale = 2 ** torch.round(torch.log2(v.abs().mean(filters(w), True)))
        return scale.detach() * tanh_sign(v, t)

    return formula


def recu_sign(over: tuple[int, ...]) -> Formula:
    def formula(x: Tensor) -> Tensor:
        u = (x / (x.var(over, keepdim=True) + 1e-5).sqrt()).clamp(-1, 1)
        return ste(step(x), 2 * u - u * u.abs())

    return formula


def recu_weights(tau: float) -> Formula:
    def formula(w: Tensor, alpha: Tensor) -> Tensor:
        v = standard(w, 1e-5) * 2 * math.sqrt(2)
        bound = float(-v.detach().abs().mean() * math.log(2 - 2 * tau))
        return alpha * ste(step(v), v.clamp(-bound, bound))

    return formula


def power(u: Tensor, o: float) -> Tensor:
    inner = u * 0.1 ** (1 / o) / 0.1
    outer = u.sign() * u.abs().clamp(0.1, 1.5) ** (1 / o)
    return ste(step(u), torch.where(u.abs() <= 0.1, inner, outer))


def quadratic_within(u: Tensor, t: float, k: float) -> Tensor:
    u = u.clamp(-math.sqrt(2) / t, math.sqrt(2) / t)
    return k * (math.sqrt(2) * t * u - u * u.abs() * t * t / 2)


def rbnn_weights(t: float, left: Tensor, right: Tensor) -> Formula:
    def formula(w: Tensor, alpha: Tensor, angle: Tensor) -> Tensor:
        v = standard(w)
        turned = (v.flatten(1) @ torch.kron(left, right)).view_as(v)
        z = v + angle.sin().abs() * (turned - v)
        return alpha * ste(step(z), quadratic_within(z, t, max(1 / t, 1.0)))

    return formula


def fourier(u: Tensor, n: int) -> Tensor:
    inside = u.clamp(-1, 1)
    terms = [torch.sin((2 * i + 1) * 0.1 * inside) / (2 * i + 1) for i in range(n + 1)]
    return 4 / math.pi * torch.stack(terms).sum(0)


def magnitude(w: Tensor) -> Tensor:
    return w.abs().mean(filters(w), True)


def xnor_weights(w: Tensor) -> Tensor:
    v = (w - w.mean(1, True)).clamp(-1, 1)
    return magnitude(v) * ste(step(v), v)


def layer_scaled(w: Tensor) -> Tensor:
    return ste(w.abs().mean() * step(w), w)


def xnor_constant_scale(w: Tensor) -> Tensor:
    v = (w - w.mean(1, True)).clamp(-1, 1)
    return ste(magnitude(v) * step(v), v)


def masked(w: Tensor, threshold: float) -> Tensor:
    limit = threshold * w.detach().abs().sum() / w.numel()
    values = (w > limit).to(w.dtype) - (w < -limit).to(w.dtype)
    return ste(values, w.clamp(-1, 1))


def elastic(x: Tensor, alpha: Tensor, move: Tensor) -> Tensor:
    z, a = x + move, alpha.detach()
    learnt = step(z).detach() * (alpha - a) / math.sqrt(x.numel())
    return ste(a * step(z), torch.maximum(torch.minimum(z, a), -a)) + learnt


def elastic_unsigned(x: Tensor, alpha: Tensor, move: Tensor) -> Tensor:
    z, a = x + move, alpha.detach()
    part = (z / a).detach()
    slope = torch.where(part > 1, 1.0, torch.where(part < 0, 0.0, part.round() - part))
    learnt = slope * (alpha - a) / math.sqrt(x.numel())
    return ste(a * (part > 0.5), torch.minimum(z.clamp(min=0), a)) + learnt


MAP, FILTERS, CHANNELS, PER_FILTER = (3, 5, 4, 6), (6, 4, 3, 3), (1, 5, 1, 1), (6, 1, 1, 1)
LEFT = torch.linalg.qr(torch.randn(6, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0)))[0]
RIGHT = torch.linalg.qr(torch.randn(6, 6, dtype=torch.double, generator=torch.Generator().manual_seed(1)))[0]

Case = tuple[str, Rule, Formula, tuple[int, ...], list[tuple[int, ...]], list[float | Tensor]]
CASES: list[Case] = [
    ("recu", ReCUSign(), recu_sign((1, 2, 3)), MAP, [], []),
    ("recu token", ReCUSign(token=True), recu_sign((2,)), (3, 7, 5), [], []),
    ("xnor", XNORSign(), lambda x: ste(step(x), x.clamp(-1, 1)), MAP, [], []),
    (
        "xnor scaled",
        XNORSign(scaled=True),
        lambda x: ste(x.abs().mean((1, 2, 3), True) * step(x), x.clamp(-1, 1)),
        MAP,
        [],
        [],
    ),
    (
        "xnor scaled token",
        XNORSign(scaled=True, token=True),
        lambda x: ste(x.abs().mean(-1, True) * step(x), x.clamp(-1, 1)),
        (3, 7, 5),
        [],
        [],
    ),
    ("xnor weights", XNORWeights(), xnor_weights, FILTERS, [], []),
    ("xnor constant scale", XNORWeights(scale_gradient=False), xnor_constant_scale, FILTERS, [], []),
    (
        "xnor uncentred",
        XNORWeights(centre=False),
        lambda w: magnitude(w.clamp(-1, 1)) * ste(step(w), w.clamp(-1, 1)),
        FILTERS,
        [],
        [],
    ),
    (
        "xnor depthwise",
        XNORWeights(),
        lambda w: magnitude(w.clamp(-1, 1)) * ste(step(w), w.clamp(-1, 1)),
        (6, 1, 3, 3),
        [],
        [],
    ),
    ("groupnet weights", LayerScaledSign(), layer_scaled, FILTERS, [], []),
    ("bit", Elastic(), elastic, MAP, [(), CHANNELS], []),
    ("bit unsigned", Elastic(unsigned=True), elastic_unsigned, MAP, [(), CHANNELS], []),
    (
        "bnext",
        HardSign(),
        lambda x, move: ste(step(x + move), (x + move).clamp(-1.5, 1.5)),
        MAP,
        [CHANNELS],
        [],
    ),
    *(
        (
            f"bnext weights {t}",
            TemperedWeights(),
            lambda w, t=t: ste(step(w) if t < 1e-7 else (w / t).clamp(-1, 1), Inwards.apply(w)),
            FILTERS,
            [],
            [t],
        )
        for t in (1.0, 0.3, 1e-9)
    ),
    *((f"mbunet {t}", MaskedSign(t), lambda w, t=t: masked(w, t), FILTERS, [], []) for t in (0.0, 0.7, 1.5)),
]
for t in (0.1, 1.0, 7.0):
    CASES += [
        (f"irnet {t}", IRSign(), lambda x, t=t: tanh_sign(x, t), MAP, [], [t]),
        (f"irnet weights {t}", IRWeights(), irnet_weights(t), FILTERS, [], [t]),
        (
            f"rbnn {t}",
            RBNNSign(),
            lambda x, t=t: ste(step(x), quadratic_within(x, max(t, 1.0), 1.0)),
            MAP,
            [],
            [t],
        ),
        (
            f"rbnn weights {t}",
            RBNNWeights(),
            rbnn_weights(t, LEFT, RIGHT),
            FILTERS,
            [PER_FILTER, PER_FILTER],
            [LEFT, RIGHT, t],
        ),
    ]
for tau in (0.85, 0.99):
    CASES.append((f"recu weights {tau}", ReCUWeights(), recu_weights(tau), FILTERS, [PER_FILTER], [tau]))
for o in (1.0, 2.0, 3.0):
    CASES += [
        (f"reste {o}", ReSTESign(), lambda x, o=o: power(x, o), MAP, [], [o]),
        (f"reste weights {o}", ReSTEWeights(), lambda w, o=o: w.abs().mean() * power(w, o), FILTERS, [], [o]),
    ]
for n in (0, 9, 18):
    CASES += [
        (f"fda {n}", FDASign(), lambda x, n=n: ste(step(x), fourier(x, n)), MAP, [], [float(n)]),
        (
            f"fda weights {n}",
            FDAWeights(),
            lambda w, n=n: ste(magnitude(w) * step(w), fourier(w, n)),
            FILTERS,
            [],
            [float(n)],
        ),
    ]


@pytest.mark.parametrize(
    ("rule", "formula", "shape", "learnt", "fixed"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_forward_and_gradients_are_those_of_the_formula(
    rule: Rule,
    formula: Formula,
    shape: tuple[int, ...],
    learnt: list[tuple[int, ...]],
    fixed: list[float | Tensor],
) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(shape, dtype=torch.double, generator=generator).requires_grad_()
    params = [(torch.rand(s, dtype=torch.double, generator=generator) + 0.3).requires_grad_() for s in learnt]
    constants = [torch.as_tensor(value, dtype=torch.double) for value in fixed]
    upstream = torch.randn(shape, dtype=torch.double, generator=generator)
    y = quantize(rule, x, *params, *constants)
    ours = torch.autograd.grad((y * upstream).sum(), [x, *params])
    expected = formula(x, *params)
    theirs = torch.autograd.grad((expected * upstream).sum(), [x, *params])
    assert torch.allclose(y, expected, rtol=1e-12)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert float(a.abs().max()) > 0
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
    y, stats = rule.quantize(x.detach(), *params, *constants)
    assert torch.equal(rule.rebuild(x.detach(), stats, *params, *constants), y)


def test_the_fourier_series_keeps_its_digits_next_to_zero() -> None:
    x = torch.cat([torch.logspace(-12, 0, 200), torch.zeros(1)]).requires_grad_()
    quantize(FDASign(), x, torch.tensor(9.0)).sum().backward()
    u = x.detach().double()
    slope = 0.4 / math.pi * torch.stack([torch.cos((2 * i + 1) * 0.1 * u) for i in range(10)]).sum(0)
    assert x.grad is not None
    assert torch.allclose(x.grad.double(), slope, rtol=1e-5)
