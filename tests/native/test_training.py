"""The kernels of training against formulas in float64, on every instruction set."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from native.steps import ISAS
from torch import Tensor

from binarize import native
from binarize.errors import NativeError
from binarize.functional import channel_bypass
from binarize.functional.dab import group_bounds
from binarize.native import training as kernels
from binarize.native.training import DabNumbers, Lines

pytestmark = pytest.mark.skipif(not native.available(), reason="the native kernels are not built")
# fewer floats than a vector, more than a run of sums, channels that divide no vector, one position, one
# channel
SHAPES = [(2, 3, 2, 3), (1, 40, 9, 11), (2, 70, 17, 33), (3, 1, 70, 70), (2, 33, 1, 1), (1, 128, 12, 8)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
everywhere = pytest.mark.parametrize(
    ("isa", "shape", "layout"), list(itertools.product(ISAS, SHAPES, LAYOUTS)), ids=str
)


def some(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.2


def maps(shape: tuple[int, ...], layout: torch.memory_format, count: int = 2) -> list[Tensor]:
    return [some(i, *shape).contiguous(memory_format=layout) for i in range(count)]


def described(x: Tensor) -> Any:
    values = kernels.values_of(x)
    assert values is not None
    return values


def close(got: Tensor, wanted: Tensor, of: Tensor | None = None) -> None:
    """Within rounding of what the sum's terms are, or of the values themselves."""
    size = wanted.abs().max() if of is None else of.abs().max()
    assert (got.double() - wanted).abs().max() <= 4e-6 * size.double() + 1e-6


def wide(v: Tensor) -> Tensor:
    return v.double().view(1, -1, 1, 1)


@everywhere
@pytest.mark.parametrize(("groups", "plain"), [(0, False), (1, False), (2, False), (0, True)])
def test_dab(isa: Any, shape: tuple[int, ...], layout: torch.memory_format, groups: int, plain: bool) -> None:
    x, grad = maps(shape, layout)
    c = shape[1]
    bounds = group_bounds(c, groups) if groups else tuple(range(c + 1))
    k, b, a = some(3, c), some(4, c), some(5, len(bounds) - 1)
    numbers = DabNumbers(k, b, None if plain else a, len(bounds) - 1 if groups else 0, plain)
    y, kept = kernels.dab(x, described(x), numbers, isa=isa)

    mean = x.double().mean((2, 3), keepdim=True)
    xs = x.double() - (wide(k) * mean + wide(b))
    deviation = xs.abs().mean((2, 3), keepdim=True)
    for start, end in itertools.pairwise(bounds):
        deviation[:, start:end] = deviation[:, start:end].mean(1, keepdim=True)
    sizes = torch.tensor([end - start for start, end in itertools.pairwise(bounds)])
    per_channel = a.double().repeat_interleave(sizes).view(1, -1, 1, 1)
    scale = deviation if plain else torch.exp(per_channel * (deviation - 1))
    close(y.abs(), scale.expand(shape))
    sure = xs.abs() > 1e-5
    assert torch.equal(y[sure] > 0, xs[sure] > 0)
    for got, wanted in zip(kept, (mean, xs.new_zeros(()), deviation, scale), strict=True):
        if wanted.dim():
            close(got, wanted[..., 0, 0])

    out = torch.empty_like(x)
    found = kernels.dab_backward(grad, x, described(x), numbers, kept, out, isa=isa)
    g = grad.double()
    gx = g * scale * (2 - 2 * xs.abs()).clamp(min=0)
    close(out, gx)
    da = (g * scale * (deviation - 1) * torch.where(xs >= 0, 1.0, -1.0)).sum((0, 2, 3))
    da = torch.stack([da[start:end].sum() for start, end in itertools.pairwise(bounds)])
    many = torch.tensor(float(x.numel())).sqrt()  # roundings of so many terms, a few signs at 0
    if not plain:
        close(found[0][: len(da)], da, many * scale.max())
    close(found[1], -(gx * mean).sum((0, 2, 3)), many * scale.max())
    close(found[2], -gx.sum((0, 2, 3)), many * scale.max())


def test_scales_at_their_limit_give_a_no_gradient() -> None:
    x, grad = (m * 100 for m in maps((1, 2, 4, 4), torch.channels_last))
    numbers = DabNumbers(None, None, torch.tensor([0.01, 5.0]))
    y, kept = kernels.dab(x, described(x), numbers)
    found = kernels.dab_backward(grad, x, described(x), numbers, kept, torch.empty_like(x))
    assert y[:, 1].abs().max() == torch.exp(torch.tensor(22.0))
    assert found[0][0] != 0
    assert found[0][1] == 0


@everywhere
def test_signs(isa: Any, shape: tuple[int, ...], layout: torch.memory_format) -> None:
    x, grad = maps(shape, layout)
    threshold = some(3, shape[1])
    x[:, 0] = threshold[0]  # sign(0) is +1
    magnitude = some(4, *shape[:2]).abs()
    wanted = torch.where(x >= threshold.view(1, -1, 1, 1), 1.0, -1.0)
    assert torch.equal(kernels.signs(x, described(x), threshold, isa=isa), wanted)
    per_image = threshold.expand(shape[:2]).contiguous()
    got = kernels.signs(x, described(x), per_image, magnitude, per_image=True, isa=isa)
    assert torch.equal(got, wanted * magnitude[..., None, None])

    out = torch.empty_like(x)
    sums = kernels.signs_backward(grad, x, described(x), threshold, out, isa=isa)
    gx = grad.double() * (2 - 2 * (x.double() - wide(threshold)).abs()).clamp(min=0)
    close(out, gx)
    close(sums[0], gx.sum((2, 3)), gx.abs().sum((2, 3)) + 1)
    close(sums[1], (grad * wanted).double().sum((2, 3)), grad.abs().sum((2, 3)) + 1)
    again = kernels.signs_backward(grad, x, described(x), threshold, grad, isa=isa)  # in place
    assert torch.equal(grad, out)
    assert torch.equal(again, sums)


@everywhere
@pytest.mark.parametrize("flat", [False, True])
def test_pieces(isa: Any, shape: tuple[int, ...], layout: torch.memory_format, flat: bool) -> None:
    x, grad = maps(shape, layout)
    parts = [some(i, shape[1]) for i in range(3, 7)]
    before, negative, positive, after = (wide(part) for part in parts)
    x[0, :, 0, 0] = -parts[0]  # t = 0
    lines = Lines(*parts, flat)
    t = x.double() + before
    slope = torch.where(t > 0, positive, negative)
    close(kernels.pieces(x, described(x), lines, isa=isa), slope * t + after)
    gx, found = kernels.pieces_backward(grad, x, described(x), lines, isa=isa)
    g = grad.double()
    wanted = g * (torch.where(t == 0, 0.0, slope) if flat else slope)
    close(gx, wanted)
    terms = (wanted, g * t * (t <= 0), g * t * (t > 0), g)
    for got, term in zip(found, terms, strict=True):
        close(got, term.sum((0, 2, 3)), term.abs().sum((0, 2, 3)) + 1)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(40, 160), (160, 40), (3, 7), (7, 3), (5, 1), (64, 96), (9, 10)]
)
def test_bypass(isa: Any, inputs: int, outputs: int) -> None:
    (x,) = maps((2, inputs, 5, 3), torch.channels_last, 1)
    y, grad = maps((2, outputs, 5, 3), torch.channels_last)
    before = x.double().requires_grad_()
    carried = channel_bypass(before, outputs)
    got = y.clone(memory_format=torch.preserve_format)
    kernels.add_bypass(x, got, isa=isa)
    close(got, y.double() + carried.detach())
    out = torch.empty_like(x)
    kernels.bypass_backward(grad, out, isa=isa)
    close(out, torch.autograd.grad(carried, before, grad.double())[0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_do_not_change_bits(layout: torch.memory_format) -> None:
    x, grad = maps((3, 40, 33, 29), layout)
    numbers = DabNumbers(*(some(i, 40) for i in range(3)))
    lines = Lines(*(some(i, 40) for i in range(4)))
    results = []
    for threads in (1, 2, 3):
        y, kept = kernels.dab(x, described(x), numbers, threads=threads)
        out = torch.empty_like(x)
        found = kernels.dab_backward(grad, x, described(x), numbers, kept, out, threads=threads)
        rest = kernels.pieces_backward(grad, x, described(x), lines, threads=threads)
        results.append([y, kept, out, found, *rest])
    for other in results[1:]:
        assert all(torch.equal(p, q) for p, q in zip(results[0], other, strict=True))


def test_a_mean_of_huge_numbers_is_finite() -> None:
    x = torch.full((1, 1, 64, 64), 3e38)
    x[..., 32:] = -3e38
    _, kept = kernels.dab(x, described(x), DabNumbers(torch.ones(1), None, torch.ones(1)))
    assert kept.isfinite().all()
    assert kept[0].item() == 0


@pytest.mark.parametrize("isa", ISAS)
def test_a_nan_stays_one_in_the_gradient(isa: Any) -> None:
    x, grad = maps((1, 3, 5, 7), torch.channels_last)
    x[0, 1, 2, 3], x[0, 2, 0, 0] = torch.nan, torch.inf
    out = torch.empty_like(x)
    kernels.signs_backward(grad, x, described(x), None, out, isa=isa)
    assert torch.equal(out.isnan(), x.isnan())
    assert out[0, 2, 0, 0] == 0


def test_what_does_not_fit() -> None:
    x = torch.rand(2, 8, 4, 4)
    assert kernels.values_of(x[:, :4]) is None
    assert kernels.values_of(x.permute(0, 3, 2, 1)) is None
    assert kernels.values_of(torch.rand(8)) is None
    with pytest.raises(NativeError, match="argument"):
        kernels.dab(x, described(x), DabNumbers(None, None, None))
    with pytest.raises(NativeError, match="more than channels"):
        kernels.add_bypass(x, torch.rand(2, 8, 4, 5))
