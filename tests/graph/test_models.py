"""Twenty timm families by bidense and another method each: finite gradients in every latent weight."""

from __future__ import annotations

import itertools

import pytest
import timm
import torch

import binarize
from binarize.layers import BinaryLayer

MODELS = [
    "resnet18",
    "resnet50",
    "convnext_tiny",
    "convnextv2_atto",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "regnety_002",
    "densenet121",
    "hrnet_w18_small",
    "res2net50d",
    "nfnet_l0",
    "resnetv2_50",
    "ghostnet_100",
    "repvgg_a0",
    "fastvit_t8",
    "edgenext_xx_small",
    "swin_tiny_patch4_window7_224",
    "vit_tiny_patch16_224",
    "mobilevit_xxs",
    "coatnet_nano_rw_224",
]


OTHERS = [name for name in binarize.methods.names() if name != "bidense"]
CASES = [*((name, "bidense") for name in MODELS), *zip(MODELS, itertools.cycle(OTHERS), strict=False)]
CASES.append(("efficientnet_b0", "bit"))  # its ReLUs stand in norms, in place of SiLU


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), CASES)
def test_model_trains(name: str, method: str) -> None:
    net = timm.create_model(name)
    fixed = net.pretrained_cfg.get("fixed_input_size") or "vit" in name or "coat" in name
    size = net.pretrained_cfg["input_size"] if fixed else (3, 96, 96)
    model = binarize.apply(net, method, example_inputs=torch.zeros(1, *size)).train()
    output = model(torch.randn(3, *size))
    output.square().mean().backward()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, BinaryLayer)}
    assert len(layers) >= 0.5 * len([r for r in model.binarize_plan.rows if "gate" not in r.reason])
    for layer, module in layers.items():
        assert module.weight.grad is not None, layer
        assert torch.isfinite(module.weight.grad).all(), layer
