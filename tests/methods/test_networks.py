"""Methods on whole networks: convert, train three steps, save, load bit for bit, pack, compare, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import binarize
from binarize.layers import BinaryLayer
from binarize.runtime.verify import verify


class Stage(nn.Module):
    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(x)))


class UNet(nn.Module):
    """Two levels, skips concatenated, transposed convolutions, and functional activations."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = Stage(3, width)
        self.down = Stage(width, 2 * width)
        self.bottom = Stage(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.decode2 = Stage(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.decode1 = Stage(2 * width, width)
        self.head = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.stem(x)
        b = self.down(F.max_pool2d(a, 2))
        c = self.bottom(F.max_pool2d(b, 2))
        b = self.decode2(torch.cat([self.up2(c), b], 1))
        return self.head(self.decode1(torch.cat([self.up1(b), a], 1)))


class ResidualUNet(nn.Module):
    """Strided and depthwise convolutions, sums, bilinear upsampling, hard swish, a gate."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.Hardswish())
        self.down = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.Hardswish()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(2 * width, 2 * width, 5, padding=2, groups=2 * width, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.Hardswish(),
        )
        self.squeeze = nn.Sequential(
            nn.Conv2d(2 * width, 6, 1), nn.ReLU(), nn.Conv2d(6, 2 * width, 1), nn.Sigmoid()
        )
        self.project = nn.Sequential(
            nn.Conv2d(2 * width, 2 * width, 1, bias=False), nn.BatchNorm2d(2 * width)
        )
        self.lateral = nn.Conv2d(2 * width, width, 1)
        self.smooth = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.stem(x)
        b = self.down(a)
        c = self.depthwise(b)
        c = c * self.squeeze(c.mean((2, 3), keepdim=True))
        b = b + self.project(c)
        up = F.interpolate(self.lateral(b), scale_factor=2.0, mode="bilinear")
        return self.head(self.smooth(up + a))


def timm_model(name: str, **options: Any) -> nn.Module:
    return timm.create_model(name, pretrained=False, num_classes=5, **options)


NETWORKS: dict[str, tuple[Any, int]] = {
    "unet": (UNet, 16),
    "residual unet": (ResidualUNet, 16),
    "resnet18": (lambda: timm_model("resnet18"), 32),
    "convnext_atto": (lambda: timm_model("convnext_atto"), 32),
    "mobilenetv3_small_050": (lambda: timm_model("mobilenetv3_small_050"), 64),
    "vit_tiny_patch16_224": (lambda: timm_model("vit_tiny_patch16_224", img_size=32, depth=2), 32),
}


def run(method: str, network: str, folder: Path) -> None:
    torch.manual_seed(0)
    make, size = NETWORKS[network]
    float_net = make()
    x = torch.randn(4, 3, size, size)
    model = binarize.apply(float_net, method, example_inputs=x).train()
    layers = [m for m in model.modules() if isinstance(m, BinaryLayer)]
    assert layers
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for step in range(3):
        binarize.set_progress(model, step / 3)
        y = model(x)
        assert y.shape == float_net(x).shape
        loss = y.square().mean() + (y - 1).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(torch.isfinite(torch.tensor(losses)))
    assert len(set(losses)) == 3  # something is learnt
    binarize.set_progress(model, 1.0)
    model.eval()
    values = [(m.weight_rule.planes, row.unique()) for m in layers for row in m.binary_filters().flatten(1)]
    assert all(len(found) <= 2**planes for planes, found in values)
    with torch.no_grad():
        expected = model(x)
    path = binarize.save(model, folder / "m.safetensors")
    loaded = binarize.load(path, make()).eval()
    with torch.no_grad():
        assert torch.equal(loaded(x), expected)
    packed = binarize.deploy(model)
    assert not packed.deploy_report.refused
    found = verify(model, packed, [x])
    assert all(error.agrees for error in found.layers), str(found)
    path = binarize.save(packed, folder / "p.safetensors", packed=True)
    again = binarize.load(path, make())
    with torch.no_grad():
        assert torch.equal(again(x), binarize.deploy(model)(x))


@pytest.mark.parametrize("method", ["rbnn", "bit", "mbunet"])
def test_a_small_network_from_conversion_to_export(method: str, tmp_path: Path) -> None:
    run(method, "unet", tmp_path)


def test_bit_knows_the_signs_behind_its_own_relu() -> None:
    float_net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 8, 3), nn.GELU(), nn.Conv2d(8, 8, 3)
    )
    float_net.append(nn.Conv2d(8, 2, 1))
    made = binarize.plan(float_net, "bit", example_inputs=torch.randn(1, 3, 12, 12))
    assert [row.activations for row in made.converted] == ["{0, alpha}", "{0, alpha}"]
    functional = UNet()
    made = binarize.plan(functional, "bit", example_inputs=torch.randn(1, 3, 16, 16))
    rows = {row.name: row.activations for row in made.converted}
    assert rows["stem.conv2"] == rows["down.conv1"] == rows["up2"] == "{0, alpha}"
    assert rows["decode2.conv1"] == ""  # of a transposed convolution, too


def test_bit_knows_the_signs_behind_its_own_relu_in_a_fused_norm() -> None:
    def norm() -> nn.Module:
        return timm.layers.BatchNormAct2d(8, act_layer=nn.SiLU)

    layers = [nn.Conv2d(3, 8, 3), norm(), nn.Conv2d(8, 8, 3), norm(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 1)]
    float_net, x = nn.Sequential(*layers), torch.randn(2, 3, 12, 12)
    made = binarize.plan(float_net, "bit", example_inputs=x)
    swaps = {swap.path: swap.to for swap in made.swaps}
    assert swaps == {"1": "inner_act", "3": "unfuse"}  # a norm that stays, and one that is taken over
    assert [row.activations for row in made.converted] == ["{0, alpha}", "{0, alpha}"]
    model: Any = binarize.apply(float_net, "bit", example_inputs=x)
    seen: list[Tensor] = []
    for layer in (model[2], model[4]):
        layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(x)
    assert all(bool((y >= 0).all()) for y in seen)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:save. vit_tiny")  # a small one, which no name of timm gives
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", binarize.methods.names())
def test_networks_from_conversion_to_export(method: str, network: str, tmp_path: Path) -> None:
    run(method, network, tmp_path)
