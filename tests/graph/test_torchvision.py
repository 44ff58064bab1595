"""torchvision's classification and segmentation models, one small member of each family."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
import torchvision
from comparing import outputs_of, relative_difference, unlike_fresh
from torch import Tensor, nn

import binarize
from binarize.layers import BinaryLayer

pytestmark = pytest.mark.usefixtures("pass_through")

# Name, edge length of the images.
CLASSIFIERS = {
    "alexnet": 64,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "maxvit_t": 224,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "regnet_x_400mf": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "resnet50": 64,
    "resnext50_32x4d": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vgg11": 64,
    "vgg11_bn": 64,
    "vit_b_16": 224,
}
SEGMENTERS = (  # name, and whether it has an auxiliary head
    ("deeplabv3_mobilenet_v3_large", True),
    ("deeplabv3_resnet50", True),
    ("fcn_resnet50", True),
    ("fcn_resnet50", False),
    ("lraspp_mobilenet_v3_large", False),
)
QUICK = {"resnet18"}
EDGE = 64  # of the images for segmenters: their last maps have several positions then


def classifier(name: str) -> nn.Module:
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):  # their auxiliary classifiers take large images only
        options = {"init_weights": False, "aux_logits": False}
    return torchvision.models.get_model(name, weights=None, num_classes=10, **options)


def segmenter(name: str, aux_loss: bool) -> nn.Module:
    options = {} if name.startswith("lraspp") else {"aux_loss": aux_loss}
    return torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=5, **options)


def check_training(model: nn.Module, x: Tensor) -> None:
    """A finite gradient in every latent weight."""
    losses = [(out * torch.randn_like(out)).mean() for out in outputs_of(model.train()(x))]
    torch.stack(losses).sum().backward()
    layers = {name: m for name, m in model.named_modules() if isinstance(m, BinaryLayer)}
    assert layers
    for name, layer in layers.items():
        assert layer.weight.grad is not None, name
        assert torch.isfinite(layer.weight.grad).all(), name


@torch.no_grad()
def check_batch(model: nn.Module, x: Tensor) -> None:
    """An image's output is the same, bit for bit, whatever else is in a batch of that size."""
    model.train()(x)  # statistics of its own
    model.eval()
    first = outputs_of(model(x))
    second = outputs_of(model(torch.cat([x[:1], torch.randn_like(x[1:])])))
    for a, b in zip(first, second, strict=True):
        assert torch.isfinite(a).all()
        assert torch.equal(a[:1], b[:1])


@torch.no_grad()
def check_pass_through(net: nn.Module, x: Tensor) -> None:
    """What a conversion that changes nothing computes is what the float model computes."""
    unlike_fresh(net).eval()
    same = binarize.apply(net, "test_pass_through", example_inputs=x[:1]).eval()
    expected, seen = net(x), same(x)
    assert type(seen) is type(expected)
    for a, b in zip(outputs_of(expected), outputs_of(seen), strict=True):
        assert relative_difference(b, a) < 1e-5


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CLASSIFIERS]
)
def test_classifier(name: str) -> None:
    net = classifier(name)
    edge = CLASSIFIERS[name]
    x = torch.randn(4 if edge > 96 else 8, 3, edge, edge)
    model = binarize.apply(net, "bidense", example_inputs=x[:1])
    assert len(model.binarize_plan.converted) >= 4
    check_training(model, x)
    check_batch(model, x)
    check_pass_through(net, x[:2])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "aux_loss"), SEGMENTERS)
def test_segmenter(name: str, aux_loss: bool) -> None:
    net = segmenter(name, aux_loss)
    x = torch.randn(4, 3, EDGE, EDGE)
    model = binarize.apply(net, "bidense", example_inputs=x[:1])
    output = model.eval()(x[:1])
    assert type(output) is OrderedDict
    assert list(output) == (["out", "aux"] if aux_loss else ["out"])
    assert all(value.shape == (1, 5, EDGE, EDGE) for value in output.values())
    check_training(model, x)
    check_batch(model, x)
    check_pass_through(net, x[:2])
    assert model(torch.randn(1, 3, 90, 70))["out"].shape == (1, 5, 90, 70)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bnn", "reactnet", "adabin", "bisrnet"])
@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large"])
def test_segmenter_by_other_methods(name: str, method: str) -> None:
    net = segmenter(name, True)
    x = torch.randn(4, 3, EDGE, EDGE)
    model = binarize.apply(net, method, example_inputs=x[:1])
    check_training(model, x)
    check_batch(model, x)
    assert list(model(x)) == ["out", "aux"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_stay_float(name: str) -> None:
    net = torchvision.models.get_model(name, weights=None, init_weights=False, num_classes=10)
    model = binarize.apply(net, example_inputs=torch.zeros(1, 3, 299, 299)).train()
    unused = {row.name for row in model.binarize_plan.rows if row.kept_by == "unused"}
    assert unused
    assert all(path.lower().startswith("aux") for path in unused)  # they run in training only
    output = model(torch.randn(2, 3, 299, 299))
    assert type(output).__name__.endswith("Outputs")
    check_training(model, torch.randn(2, 3, 299, 299))
