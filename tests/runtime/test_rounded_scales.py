"""Rounded scales per channel: the default, the error that is stated for them, and where they are not used."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from program_nets import Net, pair, plain
from torch import Tensor, nn

import binarize
from binarize import native
from binarize.cli import run
from binarize.native.library import available
from binarize.runtime import (
    PackedLayer,
    PackedSpec,
    QuantizerSpec,
    RuntimeOptions,
    configure,
    deployed_layers,
)
from binarize.runtime.kernel_support import LARGEST_ERROR, rounding_error
from binarize.runtime.verify import CLOSE, LayerError, Verification, verify

pytestmark = pytest.mark.skipif(not available(), reason="the native kernels are not built")

DAB = QuantizerSpec(kind="dab", threshold="adaptive", scale="adaptive", granularity="channel")


@pytest.fixture(autouse=True)
def _tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels take scales per channel, as with AVX-512; those of other processors give the same sums.

    AMX, which has no tables, is in `tests/native/test_amx.py`.
    """
    monkeypatch.setattr("binarize.runtime.kernel_support.resolve", lambda: "avx512")
    if native.features().isa == "amx":
        native.set_isa("avx512")
    yield
    native.set_isa("auto")


def _layer(channels: int, groups: int = 1) -> PackedLayer:
    torch.manual_seed(0)
    sizes = {"kernel": (1, 1), "stride": (1, 1), "dilation": (1, 1), "padding": ((0, 0), (0, 0))}
    spec = PackedSpec(
        kind="conv", in_channels=channels, out_channels=16, groups=groups, quantizer=DAB, **sizes
    )
    layer = PackedLayer(spec)
    layer.bits.random_(256)
    layer.vectors.normal_()
    layer.vector("scale").fill_(1.0)
    layer.vector("shift").zero_()
    return layer


def _exact(layer: PackedLayer) -> PackedLayer:
    other = copy.deepcopy(layer)
    other.options = RuntimeOptions(exact_scales=True)
    return other


def _alike(channels: int) -> Tensor:
    return torch.rand(channels) + 0.5


def _spread(channels: int) -> Tensor:
    return (4 * torch.randn(channels)).exp()


def _worst(channels: int) -> Tensor:
    """The scales of one table have the whole sum; all other entries lie half a step beside the next one."""
    piece = 4 if native.features().isa == "avx2" else 5
    scales = torch.zeros(channels)
    scales[::piece] = 0.5 * piece / 1365
    scales[:piece] = 1.0
    return scales


@pytest.mark.parametrize("channels", [40, 512])
@pytest.mark.parametrize("scales", [_alike, _spread, _worst])
def test_the_error_is_at_most_what_is_stated(channels: int, scales: Any) -> None:
    torch.manual_seed(0)
    plane = native.pack(torch.randn(1, channels, 12, 12))
    weights, alpha = native.pack_scaled(torch.randn(32, channels, 1, 1)), scales(channels)[None]
    exact = native.conv_scaled(plane, weights, alpha, exact=True)
    off = native.conv_scaled(plane, weights, alpha) - exact
    error = float(off.square().mean().sqrt() / exact.square().mean().sqrt())
    stated = rounding_error(_layer(channels).spec)
    assert 0 < error < 1.05 * stated
    if scales is _worst:
        assert error > 0.9 * stated  # no smaller number could be stated


def test_layers_round_by_default_and_not_where_nothing_can_be_stated() -> None:
    x = torch.randn(2, 64, 5, 5)
    layer = _layer(64)
    near, wanted = layer(x), _exact(layer)(x)
    assert 0 < (near - wanted).square().mean().sqrt() <= layer.tolerance() * wanted.square().mean().sqrt()
    assert _exact(layer).tolerance() == 0
    torch.testing.assert_close(wanted, layer.reference(x), rtol=1e-4, atol=1e-4)
    wide = _layer(4700)
    x = torch.randn(1, 4700, 2, 2)
    assert rounding_error(wide.spec) > LARGEST_ERROR
    assert wide(x).equal(_exact(wide)(x))


def test_layers_with_groups_round_too() -> None:
    x, layer = torch.randn(2, 64, 5, 5), _layer(64, groups=2)
    assert layer.tolerance() == rounding_error(layer.spec)
    assert not layer(x).equal(_exact(layer)(x))
    torch.testing.assert_close(_exact(layer)(x), layer.reference(x), rtol=1e-4, atol=1e-4)


def test_other_images_of_a_batch_do_not_change_rounding() -> None:
    layer, x = _layer(64), torch.randn(3, 64, 5, 5)
    x[1] *= 20
    assert torch.equal(layer(x)[::2], torch.cat([layer(x[:1]), layer(x[2:])]))


@pytest.fixture(scope="module")
def networks() -> tuple[nn.Module, list[Tensor]]:
    model = pair(Net(plain), granularity="channel", example_inputs=torch.rand(1, 3, 32, 32))[0]
    return model, [torch.rand(1, 3, 32, 32)]


def test_verify_allows_what_is_stated_and_no_more(networks: tuple[nn.Module, list[Tensor]]) -> None:
    model, x = networks
    packed = binarize.deploy(model)
    found = verify(model, packed, x)
    layers = deployed_layers(packed)
    assert {e.name: e.allowed for e in found.layers} == {
        name: CLOSE + layer.tolerance() for name, layer in layers.items()
    }
    assert all(e.agrees for e in found.layers)
    assert any(e.worst > 10 * CLOSE for e in found.layers)
    assert f"scales are rounded in {len(layers)} of {len(layers)} layers" in str(found)
    assert max(map(len, str(found).splitlines())) <= 80
    exact = verify(model, configure(packed, exact_scales=True), x)
    assert all(e.allowed == CLOSE and e.worst < CLOSE for e in exact.layers)
    assert "rounded" not in str(exact)
    configure(packed)
    name, layer = next(iter(layers.items()))
    layer.vectors.mul_(1.05)
    wrong = verify(model, packed, x)
    assert {e.name for e in wrong.layers if not e.agrees} == {name}


def test_networks_that_differ_by_rounding() -> None:
    near = LayerError("a", median=1e-3, inputs=1, allowed=4e-3)
    assert "exact scales" in Verification((near,), None, 0.3, 1).remark
    assert not Verification((near,), None, 1e-3, 1).remark
    assert not Verification((LayerError("a", median=1e-3, inputs=1),), None, 0.3, 1).remark


def test_networks_that_were_pickled_keep_what_they_were(networks: tuple[nn.Module, list[Tensor]]) -> None:
    model, (x,) = networks
    packed = binarize.deploy(model, exact_scales=True)
    for again in (pickle.loads(pickle.dumps(packed)), copy.deepcopy(packed)):
        assert all(layer.options.exact_scales for layer in deployed_layers(again).values())
        with torch.no_grad():
            assert torch.equal(again(x), packed(x))


def test_commands_say_what_granularity_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = "It stands inside the sum, so packed kernels are slower"
    size = ["--input-size", "32"]
    for options, expected in (([], True), (["--set", "granularity=layer"], False)):
        assert run(["convert", "test_resnet", "--out", "m.safetensors", "--force", *size, *options]) == 0
        out = capsys.readouterr().out
        assert (said in " ".join(out.split())) is expected
        assert max(len(line) for line in out.splitlines() if "safetensors" not in line) <= 80
        assert run(["deploy", "m.safetensors", "--force"]) == 0
        assert (said in " ".join(capsys.readouterr().out.split())) is expected
