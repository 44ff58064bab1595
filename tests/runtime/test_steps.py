"""Packed layers whose activations are 0 and 1: whole numbers, to the bit as plain torch has them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import binarize
from binarize.errors import FormatError
from binarize.methods import BNN
from binarize.methods.build import build
from binarize.methods.float_layer import site_of
from binarize.native.library import features
from binarize.runtime import PackedLayer, lower, to_onnx
from binarize.runtime.spec import PackedSpec
from binarize.runtime.verify import verify

WHOLE, SOME = ((0, 40),), ((10, 30),)
needs_kernels = pytest.mark.skipif(not features().available, reason="the native kernels are not installed")

LAYERS: dict[str, tuple[Any, tuple[int, ...], Any]] = {
    "conv": (lambda: nn.Conv2d(40, 33, 3, padding=1), (2, 40, 9, 7), None),
    "strided": (lambda: nn.Conv2d(40, 33, 3, 2, padding=2, dilation=2, bias=False), (2, 40, 9, 7), None),
    "grouped": (lambda: nn.Conv2d(40, 20, 3, padding=1, groups=4), (2, 40, 9, 7), None),
    "depthwise": (lambda: nn.Conv2d(40, 40, 5, padding=2, groups=40), (2, 40, 9, 7), None),
    "conv1d": (lambda: nn.Conv1d(40, 33, 3, padding=1), (2, 40, 9), None),
    "transposed": (lambda: nn.ConvTranspose2d(40, 33, 3, 2, 1, 1), (2, 40, 9, 7), None),
    "linear": (lambda: nn.Linear(40, 33), (2, 9, 40), None),
    "pointwise": (lambda: nn.Linear(40, 33), (2, 5, 4, 40), "pointwise"),
    "reflected": (lambda: nn.Conv2d(40, 33, 3, padding=1, padding_mode="reflect"), (2, 40, 9, 7), None),
}


def trained(name: str, ranges: tuple[tuple[int, int], ...]) -> tuple[nn.Module, Tensor]:
    """A layer with norms as training leaves them, and an input with all kinds of zeros."""
    make, shape, kind = LAYERS[name]
    generator = torch.Generator().manual_seed(1)
    layer = make()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=generator)
    site = dataclasses.replace(site_of(layer, kind=kind), nonnegative=ranges)
    built = build(layer, BNN(), site).eval()
    for tensor in (*built.norm.parameters(), *built.norm.buffers()):  # type: ignore[union-attr]
        if tensor.is_floating_point():
            tensor.data.uniform_(0.3, 1.3, generator=generator)
    x = torch.randn(shape, generator=generator)
    dim = -1 if isinstance(layer, nn.Linear) else 1
    for start, stop in ranges:
        part = x.narrow(dim, start, stop - start)
        part.relu_()
        first = x.select(dim, start)
        first[(0,) * (first.dim() - 1)][:5] = torch.tensor([0.0, -0.0, 1e-45, 1e-38, 3e38])[: first.shape[-1]]
    return built, x


@pytest.mark.parametrize("ranges", [WHOLE, SOME], ids=["all", "some"])
@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_packed_sums_are_exact(name: str, ranges: tuple[tuple[int, int], ...]) -> None:
    layer, x = trained(name, ranges)
    packed = lower(layer)
    assert isinstance(packed, PackedLayer), packed
    reference = packed.reference(x)
    assert torch.equal(packed(x), reference)
    if x.dim() == 4:
        assert torch.equal(packed(x.contiguous(memory_format=torch.channels_last)), reference)
    torch.testing.assert_close(reference, layer(x), rtol=1e-5, atol=1e-4)  # the norm is folded
    assert PackedSpec.from_dict(packed.spec.as_dict(), "a test") == packed.spec


@needs_kernels
def test_the_kernels_take_them() -> None:
    for name in LAYERS:
        packed = lower(trained(name, WHOLE)[0])
        assert isinstance(packed, PackedLayer)
        assert (packed.why_by_torch() is None) == (name != "reflected")
    packed = lower(trained("conv", SOME)[0])
    assert isinstance(packed, PackedLayer)
    assert packed.why_by_torch() is None


@needs_kernels
@torch.no_grad()
def test_the_bit_is_that_of_numbers_above_zero() -> None:
    layer = build(nn.Conv2d(1, 1, 1, bias=False), BNN(), dataclasses.replace(
        site_of(nn.Conv2d(1, 1, 1)), nonnegative=((0, 1),)), norm=False)  # fmt: skip
    nn.init.ones_(layer.weight)  # type: ignore[arg-type]
    packed = lower(layer)
    assert isinstance(packed, PackedLayer)
    x = torch.tensor([0.0, -0.0, 1e-45, 1e-38, 1.0, torch.inf, torch.nan]).view(1, 1, 1, 7)
    for y in (packed(x), packed.reference(x), layer(x)):
        assert y.flatten().tolist() == [0, 0, 1, 1, 1, 1, 0]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.up = nn.ConvTranspose2d(12, 12, 2, 2)
        self.one = nn.Sequential(nn.Conv2d(24, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.last = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.last(self.two(self.one(torch.cat([self.up(F.max_pool2d(x, 2)), x], 1))))


@pytest.fixture(scope="module")
def network() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16)
    net = binarize.apply(Net(), "bnn", example_inputs=x[:1]).train()
    for _ in range(3):
        net(x)
    return net.eval(), x


@torch.no_grad()
def test_a_network_with_both_kinds_of_layers(network: Any, tmp_path: Path) -> None:
    net, x = network
    assert [row.activations for row in net.binarize_plan.converted] == [
        "{0, 1}", "{0, 1} on 12 input channels", "{0, 1}"]  # fmt: skip
    packed = binarize.deploy(net)
    assert not packed.deploy_report.refused
    torch.testing.assert_close(packed(x), net(x), rtol=1e-4, atol=1e-4)
    assert max(error.worst for error in verify(net, packed, [x]).layers) < 1e-5
    for model, is_packed in ((net, False), (packed, True)):
        path = binarize.save(net, tmp_path / f"{is_packed}.safetensors", packed=is_packed)
        loaded = binarize.load(path, model=Net())
        torch.testing.assert_close(loaded(x), model(x), rtol=1e-5, atol=1e-5)  # one may run a program
        spec = packed.one[0].spec.quantizer  # type: ignore[union-attr, index]
        assert spec.ranges == ((12, 24),)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the exporter's own packages
def test_onnx(network: Any) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net, x = network
    packed = binarize.deploy(net)
    session = runtime.InferenceSession(to_onnx(packed, (16, 16)))
    (got,) = session.run(None, {"image": x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(got), packed(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "ranges",
    [
        [[1, 1]],
        [[3, 2]],
        [[0, 8]],
        [[0, 9]],
        [[-1, 2]],
        [[0, 2], [2, 4]],
        [[True, 2]],
        [[1]],
        [1, 2],
        "x",
        {},
    ],
)
def test_ranges_in_files_are_checked(ranges: Any) -> None:
    given = {"kind": "linear", "in": 8, "out": 4, "quantizer": {"kind": "step", "ranges": ranges}}
    with pytest.raises(FormatError, match=r"a file: ranges is .* expected rising pairs of channels"):
        PackedSpec.from_dict(given, "a file")
    given["quantizer"] = {"kind": "step", "ranges": [[0, 2], [3, 8]]}
    assert PackedSpec.from_dict(given, "a file").as_dict() == given
