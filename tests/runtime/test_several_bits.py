"""Packed layers whose weights or activations have several bits: sums of binary layers, by both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from comparing import relative_difference
from torch import Tensor, nn
from torch.nn import functional as F

import binarize
from binarize.functional import Rule, levels_of
from binarize.layers import (
    BinaryConv2d,
    BinaryConvTranspose2d,
    BinaryLayer,
    LayerRecipe,
    SignSTE,
    Site,
    StepSTE,
)
from binarize.methods import Method
from binarize.native import library
from binarize.runtime import PackedLayer, Refusal, RuntimeOptions, deploy, lower
from binarize.runtime.verify import verify

needs_kernels = pytest.mark.skipif(not library.available(), reason="the native kernels are not installed")


def learnt(make: Any, *, scale: float = 0.3, **options: Any) -> Any:
    """A layer of lqnet whose numbers are not those of the start."""
    layer: Any = binarize.binary_layer(make(), "lqnet", **options).eval()
    for name, tensor in layer.named_buffers():
        if name.endswith("basis"):
            tensor.add_(torch.randn_like(tensor), alpha=scale)
        elif name.endswith("running_var"):
            tensor.mul_(0.5 + torch.rand_like(tensor))
        elif name.endswith("running_mean"):
            tensor.normal_()
    return layer


def packed_of(layer: nn.Module) -> PackedLayer:
    packed = lower(layer)
    assert isinstance(packed, PackedLayer), packed
    return packed


@torch.no_grad()
def test_the_sums_are_exact() -> None:
    """With levels and scales that are powers of two every step is: all results have the same bits."""
    layer: Any = binarize.binary_layer(
        nn.Conv2d(70, 9, 3, padding=1), "lqnet", norm=False, weight_bits=2, activation_bits=3
    ).eval()
    layer.weight_state.basis[:] = 2.0 ** torch.randint(-3, 3, layer.weight_state.basis.shape)
    layer.quantizer.basis[:] = torch.tensor([0.25, 0.5, 1.0])
    packed = packed_of(layer)
    x = 2 * torch.randn(2, 70, 6, 5)
    expected = F.conv2d(layer.quantizer(x).double(), layer.binary_weight().double(), padding=1)
    assert torch.equal(packed.reference(x).double(), expected)
    assert torch.equal(packed(x).double(), expected)


@torch.no_grad()
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    "basis", [[0.3, 0.8], [0.8, 0.3], [-0.4, 0.9], [0.2, 0.5, 0.9], [0.1, -0.7, 0.3], [0.5, 0.5]]
)
def test_inputs_on_thresholds_fall_to_the_same_side(basis: list[float], signed: bool) -> None:
    layer = learnt(lambda: nn.Conv2d(5, 4, 1), activation_bits=len(basis), nonnegative_input=not signed)
    layer.quantizer.basis[:] = torch.tensor(basis)
    thresholds = levels_of(layer.quantizer.basis, signed=signed).thresholds
    below, above = (torch.nextafter(thresholds, torch.tensor(s * torch.inf)) for s in (-1, 1))
    values = torch.cat([thresholds, below, above, torch.tensor([0.0, -0.0, torch.inf, -torch.inf])])
    x = values[torch.randint(len(values), (4, 5, 8, 8))]
    packed = packed_of(layer)
    for y in (packed(x), packed.reference(x)):
        assert relative_difference(y, layer(x)) < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("kind", ["depthwise", "linear", "transposed", "one image", "conv1d", "same"])
def test_kernels_compute_every_kind(kind: str) -> None:
    makes: dict[str, tuple[Any, tuple[int, ...]]] = {
        "depthwise": (lambda: nn.Conv2d(40, 40, 5, padding=2, groups=40), (3, 40, 7, 6)),
        "linear": (lambda: nn.Linear(40, 12), (3, 5, 40)),
        "transposed": (lambda: nn.ConvTranspose2d(40, 6, 3, 2, 1, 1, groups=2), (2, 40, 4, 5)),
        "one image": (lambda: nn.Conv2d(40, 12, 3, 2, 1, groups=4), (1, 40, 7, 6)),
        "conv1d": (lambda: nn.Conv1d(40, 12, 3), (2, 40, 9)),
        "same": (lambda: nn.Conv2d(40, 12, 4, padding="same"), (2, 40, 6, 6)),
    }
    make, shape = makes[kind]
    layer = learnt(make, weight_bits=3, activation_bits=2)
    packed, x = packed_of(layer), torch.randn(shape)
    assert relative_difference(packed.reference(x), layer(x)) < 1e-5
    assert relative_difference(packed(x), packed.reference(x)) < 1e-6
    if library.available():
        assert packed.why_by_torch() is None
        assert packed.native_layer() is not None


@torch.no_grad()
def test_numbers_that_change_are_noticed() -> None:
    layer = learnt(lambda: nn.Conv2d(8, 4, 3), weight_bits=2, activation_bits=2)
    packed, x = packed_of(layer), torch.randn(2, 8, 5, 5)
    packed(x)
    packed.vector("basis").mul_(2)
    layer.quantizer.basis.mul_(2)
    assert relative_difference(packed(x), layer(x)) < 1e-5


@dataclass(frozen=True)
class Ternary(Rule):
    """Weights of -m, 0 and m, the half sums of two binary ones: 0 for those below half of the mean m."""

    symmetric: ClassVar[bool] = True

    @property
    def planes(self) -> int:
        return 2

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        mean = x.abs().mean(tuple(range(1, x.dim())), keepdim=True)
        return torch.where(x.abs() >= mean / 2, mean * x.sign(), 0), ()

    def signs(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.abs().mean(tuple(range(1, x.dim())), keepdim=True)
        both = torch.stack([x >= mean / 2, x > -mean / 2])
        return both, torch.stack([mean / 2, mean / 2])

    def gradient(
        self, grad: Tensor, x: Tensor, stats: Any, *params: Tensor, y: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        return (grad,)


@dataclass(frozen=True, kw_only=True)
class OfTernary(Method):
    """Weights of three values, activations of another method."""

    name: ClassVar[str] = "ternary-of-this-test"
    paper: ClassVar[str] = "none"
    other: Method | None = None

    @property
    def bits(self) -> tuple[int, int]:
        return 2, 1

    def recipe(self, site: Site) -> LayerRecipe:
        quantizer = SignSTE if self.other is None else self.other.recipe(site).quantizer
        return LayerRecipe(quantizer=quantizer, weight_rule=Ternary())


QUANTIZERS: dict[str, dict[str, Any]] = {
    "sign": {"name": "bnn"},
    "shifted": {"name": "reactnet"},
    "adabin": {"name": "adabin"},
    "redistributed": {"name": "bisrnet"},
    "dab per channel": {"name": "bidense"},
    "dab per layer": {"name": "bidense", "granularity": "layer"},
    "dab per group": {"name": "bidense", "granularity": "group", "groups": 2},
    "levels": {"name": "lqnet", "activation_bits": 2},
}


@torch.no_grad()
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_weights_of_several_planes_with_any_quantizer(quantizer: str) -> None:
    options = dict(QUANTIZERS[quantizer])
    method = OfTernary(other=binarize.methods.create(options.pop("name"), **options))
    for make, shape in (
        (lambda: nn.Conv2d(40, 12, 3, 2, 1), (3, 40, 7, 6)),
        (lambda: nn.Conv2d(40, 40, 3, padding=1, groups=40), (3, 40, 7, 6)),
        (lambda: nn.ConvTranspose2d(40, 6, 2, 2), (2, 40, 4, 5)),
        (lambda: nn.Linear(40, 12), (3, 5, 40)),
    ):
        layer: Any = binarize.binary_layer(make(), method).eval()
        assert layer.binary_filters().flatten(1).unique(dim=1).shape[0] > 0
        packed, x = packed_of(layer), torch.randn(shape)
        packed.options = RuntimeOptions(exact_scales=True)
        assert packed.spec.weight_planes == 2
        assert relative_difference(packed.reference(x), layer(x)) < 1e-5
        assert relative_difference(packed(x), layer(x)) < 1e-5


@torch.no_grad()
def test_weights_of_several_planes_with_both_sets() -> None:
    layer: Any = binarize.binary_layer(nn.Conv2d(8, 6, 3, padding=1), OfTernary()).eval()
    layer.quantizer = StepSTE(((1, 2), (4, 6)))
    packed, x = packed_of(layer), torch.randn(2, 8, 5, 6)
    assert relative_difference(packed(x), layer(x)) < 1e-5


def test_the_contract_takes_weights_of_three_values(monkeypatch: pytest.MonkeyPatch) -> None:
    from binarize.layers.recipe import METHODS
    from binarize.testing import check_method

    monkeypatch.setitem(METHODS._entries, OfTernary.name, OfTernary)
    check_method(OfTernary())


@dataclass(frozen=True)
class Unsaid(Ternary):
    def signs(self, x: Tensor, *params: Tensor) -> Any:
        return None


@dataclass(frozen=True)
class Missaid(Ternary):
    def signs(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        positive, scale = super().signs(x)
        return positive, 2 * scale


@pytest.mark.parametrize(("rule", "why"), [(Unsaid(), "does not say"), (Missaid(), "are not the sum")])
def test_what_is_not_said_rightly_is_not_packed(rule: Rule, why: str) -> None:
    layer: Any = binarize.binary_layer(nn.Conv2d(8, 6, 3), OfTernary())
    layer.weight_rule = rule
    found = lower(layer.eval())
    assert isinstance(found, Refusal)
    assert why in found.reason


class Small(nn.Module):
    """Convolutions of all sorts, a residual sum, and a float head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 16, 5, padding=2, groups=16), nn.BatchNorm2d(16))
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = (x + self.second(self.first(x))).relu()
        return self.head(self.up(x).relu())


@pytest.fixture
def trained() -> nn.Module:
    """A network after a few steps of training."""
    torch.manual_seed(3)
    x = torch.randn(4, 3, 12, 10)
    net = binarize.apply(Small(), "lqnet", weight_bits=2, activation_bits=3, example_inputs=x)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    return net.eval()


@torch.no_grad()
def test_a_network_is_deployed_as_a_program_and_verified(trained: nn.Module) -> None:
    packed = deploy(trained)
    x = torch.randn(2, 3, 12, 10)
    found = verify(trained, packed, [x, x + 1])
    assert found.difference < 1e-4
    assert all(error.agrees for error in found.layers)
    assert len(found.layers) == 3
    if library.available():
        assert not found.no_program
        assert max(step.beyond for step in found.steps) == 0


@torch.no_grad()
def test_a_file_has_all_planes(trained: nn.Module, tmp_path: Path) -> None:
    path = binarize.save(trained, tmp_path / "m.safetensors", packed=True)
    packed = deploy(trained)
    loaded = binarize.load(path, model=Small())
    x = torch.randn(2, 3, 12, 10)
    assert torch.equal(loaded(x), packed(x))
    layer: Any = loaded.get_submodule("first.0")
    assert layer.bits.numel() == 2 * 16 * 16 * 9 // 8
    assert "W2A3" in str(layer)
    again = binarize.load(binarize.save(loaded, tmp_path / "n.safetensors", packed=True), model=Small())
    assert torch.equal(again(x), packed(x))
    half = binarize.load(
        binarize.save(trained, tmp_path / "h.safetensors", packed=True, float_dtype="float16"), model=Small()
    )
    assert relative_difference(half(x), packed(x)) < 0.05


def test_what_is_counted(trained: nn.Module) -> None:
    """Two bits a weight; six products of bits for each product, of the trained as of the packed network."""
    weights = {"first.0": 16 * 16 * 9, "second.0": 16 * 25, "up": 16 * 8 * 4}
    positions = {"first.0": 120, "second.0": 120, "up": 120}
    for net in (trained, deploy(trained)):
        found = binarize.summary(net, (3, 12, 10))
        rows = {layer.name: layer for layer in found.layers}
        for name, count in weights.items():
            row = rows[name]
            assert (row.weight_bits, row.activation_bits) == (2, 3)
            assert row.binary_params == 2 * count
            assert row.binary_macs == 6 * count * positions[name]
        assert rows["stem"].weight_bits == 0
        assert found.binary_params == 2 * sum(weights.values())
        assert "W2A3" in str(found)
    summary = binarize.summary(trained, (3, 12, 10))
    assert summary.float_bytes == 4 * sum(p.numel() for p in trained.parameters())
    stored = sum(t.numel() * t.element_size() for t in deploy(trained).state_dict().values())
    assert summary.packed_bytes == stored


@pytest.mark.slow
def test_exported_to_onnx(trained: nn.Module) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    from binarize.runtime import to_onnx

    packed = deploy(trained)
    session = runtime.InferenceSession(to_onnx(packed, (12, 10)))
    x = torch.randn(3, 3, 12, 10)
    (found,) = session.run(None, {"image": x.numpy()})
    with torch.no_grad():
        assert relative_difference(torch.from_numpy(found), packed(x)) < 1e-4


@torch.no_grad()
def test_a_norm_and_an_activation_behind_the_sum() -> None:
    """Linear layers with a LayerNorm, and layers with the bypass and activation of BiSRNet's units."""
    tokens = learnt(lambda: nn.Linear(24, 24), weight_bits=2, activation_bits=2, bypass="bisrnet")
    conv = learnt(lambda: nn.Conv2d(24, 24, 3, padding=1), weight_bits=2, activation_bits=2, bypass="bisrnet")
    for layer, shape in ((tokens, (2, 5, 24)), (conv, (2, 24, 6, 5))):
        packed = packed_of(layer)
        assert packed.spec.bypass is not None
        x = torch.randn(shape)
        assert relative_difference(packed(x), layer(x)) < 1e-5
    assert conv.inner is not None
    assert tokens.norm is not None


def test_layers_by_their_class() -> None:
    conv: Any = BinaryConv2d(8, 6, 3, method="lqnet", weight_bits=2)
    up: Any = BinaryConvTranspose2d(8, 6, 2, 2, method="lqnet", activation_bits=3)
    assert all(isinstance(layer, BinaryLayer) for layer in (conv, up))
    assert conv.binary_filters().reshape(6, -1).unique(dim=1).shape[1] > 0
    assert len(conv.binary_filters()[0].unique()) == 4
    assert up.quantizer.planes == 3


@needs_kernels
@torch.no_grad()
def test_a_program_counts_what_its_steps_do(trained: nn.Module) -> None:
    packed: Any = deploy(trained)
    x = torch.randn(1, 3, 12, 10)
    for _ in range(2):
        packed(x)
    with packed.binarize_programs.timed() as times:
        packed(x)
    steps = {step.place: step for step in times if step.macs}
    assert {name: step.kind for name, step in steps.items()} == {
        "first.0": "packed 3x3 W2A3",
        "second.0": "packed depthwise 5x5 W2A3",
        "up": "packed 2x2 W2A3",
    }
    assert steps["first.0"].macs == 6 * 16 * 16 * 9 * 120


@pytest.mark.filterwarnings("ignore")  # of tracers that are on their way out
@torch.no_grad()
def test_traced_compiled_and_exported(trained: nn.Module) -> None:
    packed, x = deploy(trained), torch.randn(2, 3, 12, 10)
    expected = packed(x)
    compiled: Any = torch.compile(packed, backend="eager")
    for found in (
        torch.jit.trace(packed, x, check_trace=False)(x),
        torch.vmap(lambda t: packed(t[None])[0])(x),
        compiled(x),
        torch.export.export(packed, (x,)).module()(x),
    ):
        assert relative_difference(found, expected) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert packed(x).dtype == torch.bfloat16
