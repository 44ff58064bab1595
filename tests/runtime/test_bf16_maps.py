"""Maps that programs store as bfloat16: each operator is its definition, rounded once, on all kernels."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import pytest
import torch
from program_nets import pair, programs, third
from torch import Tensor, nn
from torch.fx.node import map_arg
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

import binarize
from binarize import native, runtime
from binarize.errors import ConfigError
from binarize.native.library import available
from binarize.runtime import ops

pytestmark = pytest.mark.skipif(not available(), reason="the native kernels are not built")

ULP = 2.0**-8
"""Between two neighbours of a bfloat16 number, relative to it: what a tie may differ by."""


class Wide(nn.Module):
    """Layers of all kinds; maps of odd sizes and channels that fill no vectors. What joins them is chosen."""

    def __init__(self, pooled: bool = False) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 70, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(70)
        self.pool = nn.MaxPool2d(3, 2, 1) if pooled else nn.Identity()
        self.narrow = nn.Conv2d(70, 22, 1, bias=False)  # a bypass of means
        self.wider = nn.Conv2d(22, 132, 3, padding=1, bias=False)  # of copies
        self.depthwise = nn.Conv2d(132, 132, 5, padding=2, groups=132, bias=False)
        self.grouped = nn.Conv2d(132, 132, 3, padding=1, groups=3, bias=False)
        self.again = nn.Conv2d(132, 132, 1, bias=False)
        self.halved = nn.Conv2d(132, 132, 3, stride=2, padding=1, bias=False)  # a bypass of half the size
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (22, 132, 132, 132, 132, 132))
        self.head = nn.Conv2d(132, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.norm(self.stem(x))))
        layers = (self.narrow, self.wider, self.depthwise, self.grouped)
        for layer, norm in zip(layers, self.norms[:4], strict=True):
            x = norm(layer(x))
        x = self.norms[4](self.again(x)) + x
        return self.head(self.norms[5](self.halved(x)))


@pytest.fixture
def all_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also maps that caches hold are stored as bfloat16."""
    monkeypatch.setattr(importlib.import_module("binarize.runtime.program.passes.bf16_maps"), "_SMALL", 0)


def stored(net: Any) -> list[str]:
    """Why maps of the one program of a network are not stored as bfloat16; empty texts for those that are."""
    (program,) = programs(net)
    return [chance.reason for chance in program.graph.chances if chance.fusion == "bf16_maps"]


@pytest.mark.parametrize("isa", native.features().isas)
@pytest.mark.parametrize("options", [{}, {"granularity": "channel"}, {"granularity": "group", "groups": 2}])
@pytest.mark.parametrize("pooled", [False, True])
def test_each_operator_is_its_definition_rounded(
    all_maps: None, isa: Any, options: dict[str, Any], pooled: bool
) -> None:
    x = torch.rand(2, 3, 40 if pooled else 22, 38 if pooled else 26)
    _, packed = pair(Wide(pooled), **options)
    runtime.configure(packed, precision="bf16", exact_scales=True)
    try:
        native.set_isa(isa)
        third(packed, x)
        errors = packed.binarize_programs.compared(x)
    finally:
        native.set_isa("auto")
    assert not packed.binarize_programs.reasons()
    torch_computes = options.get("granularity") == "channel" and isa in ("portable", "avx2")
    # fewer than there are layers, where a stem is torch's convolution or a bypass is a map of its own
    assert stored(packed).count("") >= (0 if torch_computes else 2)
    assert all(error.worst <= ULP for error in errors)
    # values on a tie of two bfloat16 numbers, of float sums that differ in the last digit
    assert all(error.beyond < 0.01 for error in errors)


@pytest.mark.parametrize("isa", native.features().isas)
def test_maps_are_half_as_large_and_results_near(all_maps: None, isa: Any) -> None:
    """Means of an untrained network turn few signs."""
    x = torch.rand(1, 3, 64, 60)
    _, packed = pair(Wide())
    try:
        native.set_isa(isa)
        expected = third(packed, x)
        (exact,) = programs(packed)
        runtime.configure(packed, precision="bf16")
        y = third(packed, x)
        (program,) = programs(packed)
        values = dict[str, torch.dtype]()
        for node, value_of in program.walk([x], 1):
            if node.target is ops.layer:
                values[node.name] = value_of(node)[0].dtype
    finally:
        native.set_isa("auto")
    assert torch.bfloat16 in values.values()
    assert program.bytes < 0.8 * exact.bytes
    assert y.dtype == torch.float32
    assert float((y - expected).norm() / expected.norm()) < 0.2


def test_threads_and_batches_give_the_same_bits(all_maps: None) -> None:
    x = torch.rand(3, 3, 26, 30)
    _, packed = pair(Wide())
    made = []
    for threads in (1, 2):
        runtime.configure(packed, precision="bf16", threads=threads)
        made.append(third(packed, x))
    alone = torch.cat([third(packed, one[None]) for one in x])
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], alone)


def test_what_others_read_stays_float32(all_maps: None) -> None:
    class Read(Wide):
        def forward(self, x: Tensor) -> Any:
            x = self.norms[0](self.narrow(F.relu(self.norm(self.stem(x)))))
            y = self.norms[1](self.wider(x))
            return self.head(torch.tanh(y)), x

    net = Read()
    for name in ("depthwise", "grouped", "again", "halved"):
        delattr(net, name)
    _, packed = pair(net)
    runtime.configure(packed, precision="bf16")
    x = torch.rand(1, 3, 20, 20)
    expected = third(binarize.runtime.configure(pair(net)[1]), x)
    y = third(packed, x)
    assert y[1].dtype == torch.float32
    reasons = stored(packed)
    assert reasons.count("other operators than packed layers read it") == 2
    assert len(y) == len(expected)


def test_small_maps_and_float32_are_not_touched() -> None:
    _, packed = pair(Wide())
    x = torch.rand(1, 3, 20, 20)
    third(packed, x)
    assert stored(packed) == []
    runtime.configure(packed, precision="bf16")
    third(packed, x)
    assert set(stored(packed)) <= {
        "the map is small: the caches hold it",
        "other operators than packed layers read it",
    }


def test_the_operators_have_their_fakes(all_maps: None) -> None:
    _, packed = pair(Wide())
    runtime.configure(packed, precision="bf16")
    x = torch.rand(1, 3, 20, 20)
    third(packed, x)
    (program,) = programs(packed)
    seen = 0
    with torch.no_grad():
        for node, value_of in program.walk([x], 1):
            if node.target in (ops.layer, ops.stem):
                given = map_arg((node.args, node.kwargs), value_of)
                args, kwargs = tree_map_only(Tensor, lambda t: t.detach().clone(), given)
                operator: Any = node.target
                torch.library.opcheck(operator, args, kwargs, test_utils="test_faketensor")
                seen += bool(kwargs.get("as_bf16"))
    assert seen >= 5


@pytest.mark.parametrize("isa", native.features().isas)
def test_rounding_at_the_edges(all_maps: None, isa: Any) -> None:
    """Ties go to even and the largest number to infinity, as torch has it; infinities and NaN stay."""

    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a = nn.Conv2d(1, 48, 1, bias=False), nn.Conv2d(48, 48, 1, bias=False)
            self.b, self.head = nn.Conv2d(48, 48, 1, bias=False), nn.Conv2d(48, 2, 1)
            nn.init.ones_(self.stem.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.b(self.a(self.stem(x))))

    words = [0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x7F7FFFFF, 0x7F800000, 0x7FC00001]
    x = torch.randn(1, 1, 9, 22)
    for row, sign in ((1, 0), (4, -(2**31))):
        x[0, 0, row, 1::3] = (torch.tensor(words) + sign).int().view(torch.float32)
    _, packed = pair(Same(), "bireal", example_inputs=torch.rand(1, 1, 9, 22))
    runtime.configure(packed, precision="bf16")
    packed.a.vector("scale").zero_()  # nothing but the bypass is left
    packed.a.vector("shift").zero_()
    try:
        native.set_isa(isa)
        third(packed, x)
        (program,) = programs(packed)
        with torch.no_grad():
            made = [value(n)[0] for n, value in program.walk([x], 1) if n.kwargs.get("as_bf16")]
            expected = packed.a(packed.stem(x)).bfloat16()
    finally:
        native.set_isa("auto")
    assert len(made) == 1
    assert torch.equal(made[0].isnan(), expected.isnan())
    assert torch.equal(made[0].nan_to_num(0.0, 1.0, -1.0), expected.nan_to_num(0.0, 1.0, -1.0))
    assert made[0][0, 0, 1, 1:17:3].tolist() == [1.0, 1.015625, 1.0, 1.0078125, torch.inf, torch.inf]


def test_another_precision_is_refused() -> None:
    model, packed = pair(Wide())
    with pytest.raises(ConfigError, match=r"deploy: .*precision.*'fp16'.*bf16"):
        binarize.deploy(model, precision="fp16")
    with pytest.raises(ConfigError, match=r"configure: .*did you mean 'bf16'"):
        runtime.configure(packed, precision="bf6")
    assert dataclasses.asdict(runtime.RuntimeOptions())["precision"] == "float32"
