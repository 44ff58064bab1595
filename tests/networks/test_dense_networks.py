"""FCN, DeepLabV3+, SegFormer, DPT and UPerNet's quarter head: their arithmetic, counts, sizes and errors."""

from __future__ import annotations

import copy
import functools
import json
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import binarize
from binarize import networks
from binarize.errors import ConfigError
from binarize.networks.deeplab import ASPP
from binarize.networks.dpt import Fusion, Reassemble, ResidualUnit

FRESH = (1 + 1e-5) ** 0.5  # what a new batch norm divides by in evaluation mode

SPECS = (
    "fcn8s:test_convnext",
    "deeplabv3plus:test_resnet?width=16",
    "segformer:test_convnext?width=16",
    "dpt:test_vit?width=16",  # multiples of 16 only
    "upernet:test_resnet?width=16&head=quarter",
)


@functools.cache
def built(spec: str) -> Any:
    """With three classes, in evaluation mode; not to be changed."""
    return networks.create(f"{spec}{'&' if '?' in spec else '?'}num_classes=3").eval()


def on_meta(spec: str) -> Any:
    with torch.device("meta"):
        return networks.create(spec)


def up(x: Tensor, like: Tensor, *, align: bool = True) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=align)


def conv_bn_relu(x: Tensor, block: Any, **options: Any) -> Tensor:
    return F.relu(F.conv2d(x, block.conv.weight, **options) / FRESH)


def counts(spec: str, size: tuple[int, int] = (480, 480)) -> tuple[int, int]:
    """Parameters and MACs, as `binarize.summary` counts them."""
    found = binarize.summary(on_meta(spec), (3, *size))
    assert not found.uncounted
    return found.float_params, found.float_macs


# ResNet-18 has 11,689,512 parameters and 1,814,073,344 MACs at 224x224, 513,000 and 512,000 in its classifier
RESNET18 = 11_689_512 - 513_000, (1_814_073_344 - 512_000) * 480**2 // 224**2


def test_counts_of_fcn_on_resnet18() -> None:
    head = 9 * 512 * 128 + 128 * 21
    parameters, macs = RESNET18[0] + head + 2 * 128 + 21, RESNET18[1] + 15 * 15 * head
    assert counts("fcn32s:resnet18?num_classes=21") == (parameters, macs)


@pytest.mark.slow
def test_counts_of_fcn8s_on_resnet18() -> None:
    parameters, macs = counts("fcn32s:resnet18?num_classes=21")
    finer = (256 + 1) * 21 + (128 + 1) * 21
    expected = parameters + finer, macs + 30 * 30 * 256 * 21 + 60 * 60 * 128 * 21
    assert counts("fcn8s:resnet18?num_classes=21") == expected


@pytest.mark.slow
def test_counts_of_deeplab_on_resnet18() -> None:
    stage4 = 9 * 256 * 512 + 3 * 9 * 512 * 512 + 256 * 512  # at stride 16 instead of 32: four times as often
    aspp = 512 * 256 + 3 * 9 * 512 * 256 + 5 * 256 * 256
    mean = 512 * 256
    low, decoder = 64 * 48, 9 * (256 + 48) * 256 + 9 * 256 * 256 + 256 * 21
    parameters = RESNET18[0] + aspp + mean + low + decoder + 2 * (6 * 256 + 48 + 2 * 256) + 21
    macs = RESNET18[1] + 3 * 15 * 15 * stage4 + 30 * 30 * aspp + mean + 120 * 120 * (low + decoder)
    assert counts("deeplabv3plus:resnet18?num_classes=21") == (parameters, macs)


@pytest.mark.slow
def test_counts_of_segformer_on_pvt_v2_b0() -> None:
    macs = 0
    stages = zip(
        (32, 64, 160, 256), (3, 32, 64, 160), (120, 60, 30, 15), (8, 8, 4, 4), (8, 4, 2, 1), strict=True
    )
    for index, (c, before, side, mlp, reduction) in enumerate(stages):
        tokens = side * side
        keys = (side // reduction) ** 2
        macs += (49 if index == 0 else 9) * before * c * tokens  # overlapping patches
        attention = 2 * tokens * c * c + 2 * keys * c * c + 2 * tokens * keys * c  # q, proj; k, v; products
        attention += keys * reduction**2 * c * c if reduction > 1 else 0
        macs += 2 * (attention + 2 * tokens * c * mlp * c + 9 * tokens * mlp * c)
        macs += tokens * c * 256  # the decoder's lateral
    macs += 120 * 120 * (4 * 256 * 256 + 256 * 21)
    laterals = sum(c * 256 + 256 for c in (32, 64, 160, 256))
    pvt = 3_666_760 - 257_000  # PVTv2-B0 without its classifier
    parameters = pvt + laterals + 4 * 256 * 256 + 2 * 256 + 256 * 21 + 21
    assert counts("segformer:pvt_v2_b0?num_classes=21") == (parameters, macs)


@pytest.mark.slow
def test_counts_of_dpt_on_vit_tiny() -> None:
    d, wide, side = 192, 64, 14
    tokens = side * side + 1  # the class token goes through the blocks
    macs = 3 * 16 * 16 * d * side * side + 12 * (12 * tokens * d * d + 2 * tokens**2 * d)
    for c, scale in zip((24, 48, 96, 192), (4, 2, 1, 0.5), strict=True):
        at = round(side * scale) ** 2
        macs += side * side * d * c + 9 * at * c * wide
        macs += {4: at * c * c, 2: at * c * c, 1: 0, 0.5: 9 * at * c * c}[scale]
    unit, project = 2 * 9 * wide * wide, wide * wide
    sides = (56, 28, 14, 7)
    macs += sum(s * s * (unit + project) for s in sides) + sum(s * s * unit for s in sides[:3])
    macs += (2 * 56) ** 2 * (9 * wide * wide + wide * 21)
    found = counts("dpt:vit_tiny_patch16_224?num_classes=21&width=64", (224, 224))
    assert found[1] == macs


@pytest.mark.slow
def test_counts_of_upernets_two_heads() -> None:
    head = 9 * 128 * 128 + 128 * 151
    full = counts("upernet:convnext_tiny")
    assert counts("upernet:convnext_tiny?head=quarter") == (full[0], full[1] - (480**2 - 120**2) * head)


def test_fcn8s_is_a_sum_of_scores() -> None:
    net = built("fcn8s:test_convnext")
    x = torch.randn(1, 3, 64, 96)
    f8, f16, f32 = net.encoder(x)[1:]
    head = net.head
    y = F.conv2d(conv_bn_relu(f32, head, padding=1), head.classifier.weight, head.classifier.bias)
    assert head.conv.out_channels == f32.shape[1] // 4
    for f, score in ((f16, net.scores[0]), (f8, net.scores[1])):
        y = up(y, f) + F.conv2d(f, score.weight, score.bias)
    torch.testing.assert_close(net(x), up(y, x))


def test_fcn32s_of_depth_is_a_sigmoid_of_resized_scores() -> None:
    net: Any = networks.create("fcn32s:test_resnet?task=depth&max_depth=80").eval()
    x = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(net(x), 80 * torch.sigmoid(up(net.head(net.encoder(x)[-1]), x)))


def test_aspp_formula() -> None:
    aspp = ASPP(6, 4, (2, 3)).eval()
    x = torch.randn(2, 6, 9, 7)
    parts = [conv_bn_relu(x, aspp.point)]
    for rate, branch in zip((2, 3), aspp.dilated, strict=True):
        parts.append(conv_bn_relu(x, branch, padding=rate, dilation=rate))
    mean = conv_bn_relu(x.mean((2, 3), keepdim=True), aspp.mean)
    parts.append(mean.expand(2, 4, 9, 7))
    torch.testing.assert_close(aspp(x), conv_bn_relu(torch.cat(parts, 1), aspp.project))


def test_deeplab_formula() -> None:
    net = built("deeplabv3plus:test_resnet?width=16")
    x = torch.randn(1, 3, 64, 96)
    maps = net.encoder(x)
    assert maps[-1].shape[2:] == (4, 6)  # stride 16
    assert [b.conv.dilation[0] for b in net.aspp.dilated] == [6, 12, 18]
    low = conv_bn_relu(maps[1], net.low)  # stride 4
    y = torch.cat([up(net.aspp(maps[-1]), low), low], 1)
    for block in net.decoder:
        y = conv_bn_relu(y, block, padding=1)
    y = F.conv2d(y, net.classifier.weight, net.classifier.bias)
    torch.testing.assert_close(net(x), up(y, x))


def test_deeplabs_rates_reach_as_far_at_every_stride() -> None:
    net = on_meta("deeplabv3plus:test_resnet?output_stride=8")
    assert net.encoder_info.strides[-1] == 8
    assert [b.conv.dilation[0] for b in net.aspp.dilated] == [12, 24, 36]


def test_an_encoder_that_cannot_be_dilated_keeps_its_stride() -> None:
    net = on_meta("deeplabv3plus:vgg11")
    assert net.encoder_info.strides[-1] == 32
    assert [b.conv.dilation[0] for b in net.aspp.dilated] == [3, 6, 9]


def test_segformer_formula() -> None:
    net = built("segformer:test_convnext?width=16")
    x = torch.randn(1, 3, 64, 96)
    maps = net.encoder(x)
    linear = [
        F.linear(f.permute(0, 2, 3, 1), layer.weight[:, :, 0, 0], layer.bias).permute(0, 3, 1, 2)
        for f, layer in zip(maps, net.laterals, strict=True)
    ]
    y = torch.cat([*(up(f, maps[0], align=False) for f in reversed(linear[1:])), linear[0]], 1)
    y = F.conv2d(conv_bn_relu(y, net.fusion), net.classifier.weight, net.classifier.bias)
    torch.testing.assert_close(net(x), up(y, x, align=False))


def test_dpt_reassembles_and_fuses() -> None:
    for scale, side in ((4, 20), (2, 10), (1, 5), (0.5, 3)):
        assert Reassemble(6, 4, 8, scale)(torch.randn(1, 6, 5, 5)).shape == (1, 8, side, side)
    unit = ResidualUnit(4, norms=False)
    x = torch.randn(1, 4, 6, 6)
    y = F.conv2d(F.relu(x), unit.conv1.weight, unit.conv1.bias, padding=1)
    y = F.conv2d(F.relu(y), unit.conv2.weight, unit.conv2.bias, padding=1)
    torch.testing.assert_close(unit(x), x + y)
    fusion = Fusion(4, norms=False)
    like = torch.zeros(1, 4, 12, 12)
    behind = F.conv2d(up(fusion.unit(x), like), fusion.project.weight, fusion.project.bias)
    torch.testing.assert_close(fusion(x), behind)  # the paper's order
    torch.testing.assert_close(fusion(x, like), behind)


@pytest.mark.slow
def test_blocks_of_the_papers_dpt() -> None:
    assert on_meta("dpt:vit_tiny_patch16_224").encoder_info.options["out_indices"] == (2, 5, 8, 11)


def test_dpt_takes_the_last_block_of_each_quarter() -> None:
    net = built("dpt:test_vit?width=16")
    assert net.encoder_info.options["out_indices"] == (0, 2, 3, 5)  # of 6
    assert [stage.resample.__class__.__name__ for stage in net.reassemble] == [
        *("ConvTranspose2d", "ConvTranspose2d", "Identity", "Conv2d"),
    ]  # fmt: skip
    assert [stage.project.out_channels for stage in net.reassemble] == [8, 16, 32, 64]


def test_dpt_formula() -> None:
    net = built("dpt:test_vit?width=16")
    x = torch.randn(1, 3, 48, 80)  # 3x5 tokens
    m4, m8, m16, m32 = (stage(f) for stage, f in zip(net.reassemble, net.encoder(x), strict=True))
    y = net.fusions[3](m32, m16)
    y = net.fusions[2](net.skips[2](m16) + y, m8)
    y = net.fusions[1](net.skips[1](m8) + y, m4)
    y = net.fusions[0](net.skips[0](m4) + y)
    assert y.shape == (1, 16, 24, 40)
    torch.testing.assert_close(net(x), up(net.head(y), x))


def test_upernets_quarter_head_works_on_the_finest_map() -> None:
    full = built("upernet:test_resnet?width=16")
    quarter = built("upernet:test_resnet?width=16&head=quarter")
    full.load_state_dict(quarter.state_dict())
    x = torch.randn(1, 3, 64, 96)
    seen: list[Tensor] = []
    handle = full.out.register_forward_hook(lambda module, args, out: seen.append(out))
    torch.testing.assert_close(full(x), full.head(up(seen[0], x)))
    handle.remove()
    torch.testing.assert_close(quarter(x), up(full.head(seen[0]), x))


def test_a_upernet_pickled_before_it_had_two_heads_keeps_its_own() -> None:
    net = copy.deepcopy(built("upernet:test_resnet?width=16"))
    del net.__dict__["quarter"]
    x = torch.randn(1, 3, 64, 64)
    again = pickle.loads(pickle.dumps(net))
    torch.testing.assert_close(again(x), net.head(up(_out(net, x), x)))


def _out(net: Any, x: Tensor) -> Tensor:
    features = net.encoder(x)[1:]
    features[-1] = net.psp(features[-1])
    return net.out(net.fpn(features))


@pytest.mark.parametrize("spec", SPECS)
def test_inputs_of_any_size_and_gradients(spec: str) -> None:
    net = copy.deepcopy(built(spec)).train()
    y = net(torch.randn(2, 3, 70, 45))
    assert y.shape == (2, 3, 70, 45)
    y.square().mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []


def test_depth_lies_in_its_range() -> None:
    net: Any = networks.create("dpt:test_vit?channels=8,8,16,16&width=16&task=depth&max_depth=3").eval()
    assert [stage.project.out_channels for stage in net.reassemble] == [8, 8, 16, 16]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())  # as the paper's network for depth
    with torch.no_grad():
        y = net(torch.randn(1, 3, 33, 70))
    assert y.shape == (1, 1, 33, 70)
    assert y.min() > 0
    assert y.max() < 3


@pytest.mark.parametrize("spec", SPECS)
def test_spec_rebuilds_the_network(spec: str) -> None:
    net = built(spec)
    kept = json.loads(json.dumps(net.binarize_spec))
    name, _, query = spec.partition("?")
    assert (kept["source"], kept["name"]) == ("networks", name.partition(":")[0])
    options = dict(part.split("=") for part in query.split("&") if part)
    expected = {k: int(v) if v.isdigit() else v for k, v in options.items()}
    task = {"encoder": name.partition(":")[2], "task": "segmentation", "num_classes": 3}
    assert kept["kwargs"] == task | expected
    again = networks.build(kept["name"], **kept["kwargs"]).eval()
    again.load_state_dict(net.state_dict())
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(again(x), net(x))


@pytest.mark.parametrize("spec", SPECS)
def test_forward_can_be_traced_module_by_module(spec: str) -> None:
    class OwnLevel(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

    net = built(spec)
    traced = torch.fx.GraphModule(net, OwnLevel().trace(net))
    x = torch.randn(1, 3, 50, 66)
    with torch.no_grad():
        torch.testing.assert_close(traced(x), net(x))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fcn32s:test_vit", "fcn32s: encoder 'test_vit' .* 16, 16, 16; it needs one at 32.*'dpt:test_vit'"),
        ("fcn8s:test_vit", "needs maps at 8, 16 and 32, as 'resnet18'"),
        ("deeplabv3plus:test_vit", "needs a fine and a coarse one"),
        ("segformer:test_vit", "needs several strides, as 'pvt_v2_b0'"),
        ("segformer:mit_b2", "timm has no encoder 'mit_b2'; 'pvt_v2_b2' has the form of MiT"),
        ("segformer:mit_b9", "timm has no encoder 'mit_b9'; 'pvt_v2_b0' to 'pvt_v2_b5' have the form of MiT"),
        ("dpt:test_resnet", "plain vision transformer.*'vit_small_patch16_224'.*'upernet:test_resnet'"),
        ("dpt:tset_vit", "unknown encoder 'tset_vit': did you mean 'test_vit'"),
        ("dpt:test_vit?channels=8,16", "expected four positive integers"),
        ("fcn32s:resnet1888", "unknown encoder 'resnet1888': did you mean 'resnet18"),
        ("fcn32:resnet18", "unknown network 'fcn32': did you mean 'fcn32s'"),
        ("deeplabv3plus:vgg11?output_stride=16", "cannot be built with output_stride=16"),
        ("deeplabv3plus:resnet18?output_stride=4", "expected 8, 16 or 32"),
        ("upernet:test_resnet?head=quater", "unknown head of upernet 'quater': did you mean 'quarter'"),
        ("fcn32s:resnet18?task=deph", "unknown task of fcn32s 'deph': did you mean 'depth'"),
        ("segformer:test_resnet?width=0", "segformer: width=0; expected an integer of at least 1"),
        ("dpt:test_vit?num_classes=0", "dpt: num_classes=0; expected an integer"),
        ("dpt:test_vit?task=depth&max_depth=-1", "dpt: max_depth=-1; expected a positive"),
        ("dpt:test_vit?output_stride=8", "unknown option of network 'dpt' 'output_stride'"),
    ],
)
def test_errors_say_what_to_do(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        networks.create(spec)


@pytest.mark.slow
def test_one_size_encoders_are_refused_and_used_as_under_upernet() -> None:
    net = on_meta("segformer:hiera_tiny_224?num_classes=3").eval()
    assert net.encoder_info.fixed_size == (224, 224)
    assert net(torch.empty(1, 3, 100, 140, device="meta")).shape == (1, 3, 100, 140)
