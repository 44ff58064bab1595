"""Layers and stems as steps of programs, against the single calls: the same bits."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from native.steps import blank, last, layer_of, layer_step, map_of, must, run, sliced, whole
from torch import Tensor
from torch.nn import functional as F

from binarize import native
from binarize.native import structs
from binarize.native.epilogue import Tail
from binarize.native.library import load
from binarize.native.prepared import PreparedConv, PreparedPack
from binarize.native.types import Dab

pytestmark = pytest.mark.skipif(not native.available(), reason="the native kernels are not built")
KINDS = ("conv", "pointwise", "strided", "grouped", "depthwise", "scaled")


@pytest.fixture(params=native.features().isas if native.available() else ())
def isa(request: pytest.FixtureRequest) -> Iterator[Any]:
    native.set_isa(request.param)
    yield request.param
    native.set_isa("auto")


class Layer:
    """A layer as two single calls, and as the structure of a step."""

    def __init__(self, pack: PreparedPack, conv: PreparedConv, x: Tensor) -> None:
        self.pack, self.conv, self.shape = pack, conv, conv.shape
        self.struct = layer_of(pack, conv, x)

    def __call__(self, x: Tensor, sums_of_x: Tensor | None = None, sums: Tensor | None = None) -> Tensor:
        words, alpha = self.pack(x, sums_of_x)
        return self.conv(words, alpha=alpha, sums=sums)


def prepared(
    kind: str, images: int, channels: int, outputs: int, size: tuple[int, int]
) -> tuple[Layer, Tensor]:
    """A layer and a map for it."""
    random = torch.Generator().manual_seed(channels)
    k, stride = 1 if kind == "pointwise" else 3, 2 if kind == "strided" else 1
    groups = 2 if kind == "grouped" else 1
    outputs = channels if kind == "depthwise" else outputs * groups
    channels *= 1 if kind == "depthwise" else groups
    x = last(torch.randn(images, channels, *size, generator=random))
    inside = 1 if kind == "depthwise" else channels // groups
    weight = torch.randn(outputs, inside, k, k, generator=random)
    geometry: dict[str, Any] = {"padding": k // 2, "stride": stride}
    if kind in ("depthwise", "scaled"):
        weights = (native.pack_depthwise if kind == "depthwise" else native.pack_scaled)(weight, **geometry)
    else:
        weights = native.pack_weights(weight, groups=groups, **geometry)
    arrays = torch.randn(3, outputs, generator=random)
    first = native.Activation(kind="piecewise", negative=arrays[2])
    epilogue = native.Epilogue(mul=arrays[0], add=arrays[1], first=first)
    vectors = torch.randn(3, channels, generator=random)
    dab = Dab(k=vectors[0], b=vectors[1], a=vectors[2]) if kind == "scaled" else None
    pack = PreparedPack(
        x.shape, groups=groups, border=(k // 2, k // 2), add=None if dab else vectors[0], dab=dab
    )
    out = [(s - 1) // stride + 1 for s in size]
    conv = PreparedConv(weights, pack.plane, epilogue, out, exact=True)
    return Layer(pack, conv, x), x


SHAPES = [(1, 40, 24, (7, 9)), (2, 64, 100, (6, 5)), (2, 33, 17, (3, 50))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_layer_is_the_single_call(isa: Any, kind: str, shape: Any) -> None:
    layer, x = prepared(kind, *shape)
    wanted_sums = torch.empty(layer.shape[:2])
    wanted = layer(x, sums=wanted_sums)
    scratch = torch.empty(load().bz_layer_scratch(ctypes.addressof(layer.struct)) // 4)  # type: ignore[union-attr]
    for memory in (None, scratch):
        for threads in (1, 2):
            out, sums = blank(*layer.shape, sliced=True), torch.empty(layer.shape[:2])
            step = layer_step(layer.struct, x, out, sums=sums)
            step.scratch = None if memory is None else memory.data_ptr()
            must("layer", step, isa, threads)
            assert torch.equal(out, wanted)
            torch.testing.assert_close(sums, wanted_sums, rtol=1e-5, atol=1e-3)  # of other runs
            assert whole(out).isnan().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_residual_is_a_slice(isa: Any, kind: str, shape: Any) -> None:
    layer, x = prepared(kind, *shape)
    wanted = layer(x)
    other, out = sliced(torch.randn(layer.shape)), blank(*layer.shape)
    step = layer_step(layer.struct, x, out)
    step.residual = map_of(other)
    must("layer", step, isa)
    assert torch.equal(out, wanted + other)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "depthwise"])
def test_a_tail(isa: Any, kind: str) -> None:
    layer, x = prepared(kind, *SHAPES[1])
    y = layer(x)
    weight, bias = torch.randn(21, y.shape[1]), torch.randn(21)
    tail = Tail(weight=weight, bias=bias).packed(y.shape[1])
    z = blank(y.shape[0], 21, *y.shape[2:], sliced=True)
    step = layer_step(layer.struct, x, None)
    step.tail = tail.struct(z)
    must("layer", step, isa)
    torch.testing.assert_close(z, F.conv2d(y, weight[:, :, None, None], bias), rtol=1e-4, atol=1e-3)
    assert whole(z).isnan().all()


@pytest.mark.parametrize("kind", ["conv", "depthwise", "scaled"])
@pytest.mark.parametrize("aligned", [False, True])
def test_an_input_of_another_size(isa: Any, kind: str, aligned: bool) -> None:
    layer, x = prepared(kind, *SHAPES[0])
    small = last(x[:, :, :4, :3])
    native_resize = structs.Resize(4, 3, int(aligned))
    # what the step must see: bz_pack of the resized map, made by the resize step
    large = blank(*x.shape)
    mode = structs.RESIZE_MODES["bilinear_aligned" if aligned else "bilinear"]
    n, c, h, w = x.shape
    must("resize", structs.ResizeStep(n, c, 4, 3, h, w, mode, 0, 0, map_of(small), map_of(large)), isa)
    sums = large.double().sum((2, 3)).float()
    wanted = layer(large, sums)
    out = blank(*layer.shape)
    step = layer_step(layer.struct, small, out)
    layer.struct.x = map_of(small)
    step.resize, step.sums_of_x = native_resize, sums.data_ptr()
    must("layer", step, isa)
    assert torch.equal(out, wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("groups", [1, 2])
def test_bits_of_the_result(isa: Any, kind: str, shape: Any, groups: int) -> None:
    layer, x = prepared(kind, *shape)
    wanted = layer(x)
    n, c, h, w = wanted.shape
    groups = groups if c % groups == 0 else 1
    arrays = torch.randn(2, c)
    for mul, add, border in ((arrays[0], arrays[1], 1), (None, arrays[1], 0), (None, None, 2)):
        plane = native.pack(wanted, mul=mul, add=add, groups=groups, border=border, isa=isa)
        words, out, sums = torch.full_like(plane.words, -1), blank(n, c, h, w), torch.empty(n, c)
        bits = structs.Bits(words.data_ptr(), structs.PlaneShape(n, h, w, c, groups, border, border))
        bits.mul = None if mul is None else mul.data_ptr()
        bits.add = None if add is None else add.data_ptr()
        for to, threads in ((out, 1), (None, 2)):
            words.fill_(-1)
            step = layer_step(layer.struct, x, to, sums=sums)
            step.bits = ctypes.pointer(bits)
            must("layer", step, isa, threads)
            assert torch.equal(words, plane.words)
            torch.testing.assert_close(sums, wanted.sum((2, 3)), rtol=1e-4, atol=1e-2)
        assert torch.equal(out, wanted)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "scaled"])
def test_bits_of_the_input(isa: Any, kind: str) -> None:
    layer, x = prepared(kind, *SHAPES[1])
    wanted, out = layer(x), blank(*layer.shape)
    pack = layer.pack
    words, _ = pack(x)
    step = layer_step(layer.struct, x, out)
    step.x, step.plane = None, words.data_ptr()
    must("layer", step, isa)
    assert torch.equal(out, wanted)


def test_scales_that_are_not_finite_stop_the_program(isa: Any) -> None:
    layer, x = prepared("scaled", *SHAPES[0])
    out, second = blank(*layer.shape), blank(*layer.shape)
    x[0, 0, 0, 0] = float("nan")
    first = layer_step(layer.struct, x, out)
    assert run(("layer", first), ("layer", layer_step(layer.struct, x, second)), isa=isa) == (
        structs.NOT_FINITE,
        0,
    )
    assert out.isnan().all()


def test_a_stem(isa: Any) -> None:
    x, weight = torch.randn(2, 3, 12, 14), torch.randn(20, 3, 3, 3)
    wanted = native.conv_stem(x, weight, padding=1, isa=isa)
    out = blank(2, 20, 12, 14)
    plane = structs.PlaneShape(2, 12, 14, 3, 1, 1, 1)
    shape = structs.ConvShape(plane, 20, 3, 3, 1, 1, 1, 1, 1, 1, 12, 14)
    epilogue = structs.Epilogue(out=map_of(out))
    step = structs.StemStep(
        ctypes.pointer(shape), structs.Map(x.data_ptr(), *x.stride()[:1], *x.stride()[2:], x.stride(1))
    )
    step.weights, step.epilogue = weight.data_ptr(), ctypes.pointer(epilogue)
    must("stem", step, isa)
    assert torch.equal(out, wanted)


def test_layers_that_do_not_fit() -> None:
    layer, x = prepared("conv", *SHAPES[0])
    n, c, h, w = layer.shape
    out = blank(n, c, h, w)

    def status(change: Any) -> int:
        step = layer_step(layer.struct, x, out)
        change(step)
        return run(("layer", step))[0]

    words = torch.zeros(100_000, dtype=torch.int32)

    def bits(**changes: int) -> structs.Bits:
        made = structs.Bits(words.data_ptr(), structs.PlaneShape(n, h, w, c, 1, 1, 1))
        for name, value in changes.items():
            setattr(made.shape if hasattr(made.shape, name) else made, name, value)
        return made

    held: list[Any] = []

    def with_bits(made: structs.Bits) -> Any:
        held.append(made)
        return lambda step: setattr(step, "bits", ctypes.pointer(made))

    assert status(lambda step: None) == 0
    assert status(with_bits(bits())) == 0
    for changes in (
        {"height": h + 1},
        {"channels": c - 1},
        {"images": n + 1},
        {"plane": 0},
        {"border_h": -1},
        {"groups": 5},
    ):
        assert status(with_bits(bits(**changes))) == 1, changes
    assert status(lambda step: setattr(step, "out", None)) == 1
    assert status(lambda step: setattr(step, "x", None)) == 1
    assert status(lambda step: setattr(step, "layer", None)) == 1
    assert status(lambda step: setattr(step.residual, "data", out.data_ptr())) == 1  # channel 0
    assert status(lambda step: setattr(step.resize, "height", 3)) == 1  # without a width
