"""The paper's UPerNet: its counts, its arithmetic, its encoders."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binarize import networks
from binarize.errors import ConfigError
from binarize.networks.encoders import examine_encoder
from binarize.networks.upernet import FPN, PSP


def on_meta(*args: object, **kwargs: object) -> nn.Module:
    with torch.device("meta"):
        return networks.upernet(*args, **kwargs)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_of_the_paper() -> None:
    net = on_meta("convnext_tiny", num_classes=151)
    assert parameters(net) == 39_850_551
    assert round(parameters(net) / 1e3, 1) == 39_850.6
    # the decoder alone, layer by layer: convolutions, then biases, then batch norms
    f, c = (96, 192, 384, 768), 96
    convs = 4 * 768 * 192 + 9 * (768 + 4 * 192) * 768 + sum(f[1:]) * c + 9 * c * c + 9 * 4 * c * c
    convs += 9 * c * 128 + 9 * 128 * 128 + 128 * 151
    biases = 3 * c + c + 128 + 151  # laterals, smooth, out, classifier
    norms = 2 * (4 * 192 + 768 + c + 128)  # branches, bottleneck, fusion, head
    assert parameters(net) - parameters(net.encoder) == convs + biases + norms


def test_state_dict_of_the_paper() -> None:
    # with BN buffers and the shared convolution three times, "ConvNeXt*" of Table 1 prints 40,020 K
    net = on_meta("convnext_tiny", num_classes=151)
    count = sum(t.numel() for t in net.state_dict().values()) + 2 * parameters(net.fpn.smooth)
    assert round(count / 1e3) == 40_020
    # "ConvNeXt", trained from scratch, has a BN behind every decoder convolution: 40,023 K
    norms = 3 * (4 * 96 + 1) + 3 * (4 * 96 + 1) + (4 * 128 + 1)  # laterals, smooth at three levels, out
    assert round((count + norms) / 1e3) == 40_023


@pytest.mark.parametrize("size", [(64, 64), (97, 75), (33, 130)])
@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_any_input_size(task: str, size: tuple[int, int]) -> None:
    net = networks.upernet("test_convnext", task=task, num_classes=7, max_depth=3.0).eval()
    y = net(torch.randn(2, 3, *size))
    assert y.shape == (2, 7 if task == "segmentation" else 1, *size)
    if task == "depth":
        assert y.min() > 0
        assert y.max() < 3


@pytest.mark.parametrize(
    ("encoder", "widths"),
    [
        ("test_byobnet", (32, 64, 128, 256)),  # five levels, the finest is left out
        ("test_efficientnet", (24, 32, 48, 64)),
        ("test_vit", (64, 64, 64)),  # three levels, all at stride 16; multiples of 16 only
    ],
)
def test_any_encoder(encoder: str, widths: tuple[int, ...]) -> None:
    net = networks.upernet(encoder, num_classes=3)
    assert net.encoder_info.channels == widths
    assert net.psp.bottleneck.conv.out_channels == widths[-1]
    y = net(torch.randn(2, 3, 38, 53))
    assert y.shape == (2, 3, 38, 53)
    y.mean().backward()
    assert net.fpn.smooth.weight.grad is not None


def test_channels_last_maps() -> None:
    net = on_meta("mambaout_femto", num_classes=3).eval()
    assert net.encoder_info.channels_last
    assert net.encoder_info.channels == (48, 96, 192, 288)
    assert net(torch.empty(1, 3, 100, 140, device="meta")).shape == (1, 3, 100, 140)


def test_encoder_that_asks_for_values(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asking(nn.Module):
        """As any encoder of timm, but it reads a number off its input, which the meta device has not."""

        def __init__(self, encoder: nn.Module) -> None:
            super().__init__()
            self.encoder = encoder
            self.feature_info = encoder.feature_info

        def forward(self, x: Tensor) -> list[Tensor]:
            assert x[0, 0, 0, 0].item() == 0
            return self.encoder(x)

    create = timm.create_model
    monkeypatch.setattr("timm.create_model", lambda *args, **kwargs: Asking(create(*args, **kwargs)))
    info = examine_encoder("test_resnet")
    assert (info.fixed_size, info.multiple) == (None, 1)


@pytest.mark.slow
def test_encoder_of_one_size() -> None:
    free = examine_encoder("vit_tiny_patch16_224")
    assert (free.fixed_size, free.multiple, dict(free.options)) == (None, 16, {"dynamic_img_size": True})
    assert examine_encoder("vit_tiny_patch16_224", img_size=(64, 96)).fixed_size == (64, 96)
    net = on_meta("hiera_tiny_224", num_classes=3).eval()
    assert net.encoder_info.fixed_size == (224, 224)
    assert net(torch.empty(1, 3, 100, 140, device="meta")).shape == (1, 3, 100, 140)


def test_padding_is_cropped_again() -> None:
    net = networks.upernet("test_vit", num_classes=3).eval()
    x = torch.randn(1, 3, 40, 64)
    whole = net(F.pad(x, (0, 0, 0, 8)))  # 48x64 needs no padding
    # the head's one 3x3 convolution sees the crop's border instead of what lies behind it
    torch.testing.assert_close(net(x)[..., :39, :], whole[..., :39, :])


def test_fpn_formula() -> None:
    fpn = FPN((8, 12, 20)).eval()
    f = [torch.randn(1, 8, 16, 12), torch.randn(1, 12, 8, 6), torch.randn(1, 20, 4, 3)]

    def up(x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)

    f1 = f[0]
    f2, f3 = (F.conv2d(x, conv.weight, conv.bias) for x, conv in zip(f[1:], fpn.laterals, strict=True))
    p1 = F.conv2d(up(f2, f1) + f1, fpn.smooth.weight, fpn.smooth.bias, padding=1)
    p2 = F.conv2d(up(f3, f2) + f2, fpn.smooth.weight, fpn.smooth.bias, padding=1)
    y = F.conv2d(torch.cat([p1, up(p2, f1), up(f3, f1)], 1), fpn.fusion.conv.weight, padding=1)
    y = F.relu(y / (1 + fpn.fusion.norm.eps) ** 0.5)  # a fresh BN in eval mode
    torch.testing.assert_close(fpn(f), y)


def test_psp_formula() -> None:
    psp = PSP(16, bins=(1, 2)).eval()
    x = torch.randn(1, 16, 6, 8)
    fresh = (1 + 1e-5) ** 0.5
    parts = [x]
    for bins, branch in zip((1, 2), psp.branches, strict=True):
        pooled = torch.stack(
            [
                torch.stack([part.mean((2, 3)) for part in rows.chunk(bins, 3)], -1)
                for rows in x.chunk(bins, 2)
            ],
            -2,
        )
        y = F.relu(torch.einsum("nchw,dc->ndhw", pooled, branch.conv.weight[:, :, 0, 0]) / fresh)
        parts.append(F.interpolate(y, (6, 8), mode="bilinear", align_corners=True))
    y = F.conv2d(torch.cat(parts, 1), psp.bottleneck.conv.weight, padding=1)
    torch.testing.assert_close(psp(x), F.relu(y / fresh))


def test_smooth_is_shared() -> None:
    net = networks.upernet("test_convnext", num_classes=2).eval()
    calls: list[torch.Size] = []
    net.fpn.smooth.register_forward_hook(lambda module, args, out: calls.append(out.shape[2:]))
    net(torch.randn(1, 3, 64, 64))
    assert calls == [(4, 4), (8, 8), (16, 16)]


def test_own_level_trace_of_every_part() -> None:
    class OwnLevel(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

    net = networks.upernet("test_vit", num_classes=2).eval()  # one that pads
    for part in (net, net.psp, net.fpn, net.head, net.psp.branches[0], net.fpn.fusion):
        OwnLevel().trace(part)
    traced = torch.fx.GraphModule(net, OwnLevel().trace(net))
    x = torch.randn(1, 3, 50, 66)
    torch.testing.assert_close(traced(x), net(x))


def test_spec_rebuilds_the_network() -> None:
    net = networks.create("upernet:test_convnext?task=depth&max_depth=80")
    spec = json.loads(json.dumps(net.binarize_spec))
    assert spec == {
        "source": "networks",
        "name": "upernet",
        "kwargs": {"encoder": "test_convnext", "task": "depth", "max_depth": 80},
    }
    again = networks.build(spec["name"], **spec["kwargs"])
    again.load_state_dict(net.state_dict())
    assert again.head.max_depth == 80


def test_copy_and_pickle() -> None:
    net = networks.upernet("test_convnext", num_classes=2).eval()
    x = torch.randn(1, 3, 32, 32)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(twin(x), net(x))


def test_building_leaves_the_random_state_to_the_weights() -> None:
    torch.manual_seed(3)
    first = networks.upernet("test_convnext", num_classes=2)
    torch.manual_seed(3)
    examine_encoder("test_convnext")
    second = networks.upernet("test_convnext", num_classes=2)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("upernet", "NAME:ENCODER"),
        ("upernet:", "NAME:ENCODER"),
        ("upernett:convnext_tiny", "did you mean 'upernet'"),
        ("upernet:convnext_tinny", "did you mean 'convnext_tiny'"),
        ("upernet:convnext_tiny.nope", "nope"),
        ("upernet:test_convnext?task=dept", "did you mean 'depth'"),
        ("upernet:test_convnext?num_class=3", "did you mean 'num_classes'"),
        ("upernet:test_convnext?num_classes=0", "num_classes=0"),
        ("upernet:test_convnext?num_classes=many", "num_classes='many'"),
        ("upernet:test_convnext?task=depth&max_depth=-1", "max_depth=-1"),
        ("upernet:test_convnext?num_classes", "expected NAME=VALUE"),
        ("upernet:test_convnext?num_classes=2&num_classes=3", "given twice"),
        ("upernet:test_convnext?img_size=64", "img_size"),
    ],
)
def test_errors_say_what_to_do(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        networks.create(spec)


def test_names() -> None:
    assert "upernet" in networks.names()


def test_the_shared_convolution_sees_the_coarsest_level_first() -> None:
    """As in the authors' code (3 + 2, 2 + 1, 1 + 0): its norm's statistics depend on the order."""
    torch.manual_seed(0)
    fpn = FPN((4, 6, 8, 10)).train()
    norm = nn.BatchNorm2d(4)
    convolution, fpn.smooth = fpn.smooth, nn.Sequential(fpn.smooth, norm)  # type: ignore[assignment]
    features = [torch.randn(2, c, 32 // 2**i, 24 // 2**i) for i, c in enumerate((4, 6, 8, 10))]
    with torch.no_grad():
        fpn(features)
        levels = [features[0], *(lateral(f) for lateral, f in zip(fpn.laterals, features[1:], strict=True))]
        mean = torch.zeros(4)
        for fine, coarse in ((2, 3), (1, 2), (0, 1)):
            up = F.interpolate(levels[coarse], levels[fine].shape[2:], mode="bilinear", align_corners=True)
            mean = 0.9 * mean + 0.1 * convolution(up + levels[fine]).mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-5, atol=1e-6)
