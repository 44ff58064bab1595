"""The dense networks as binary ones: their plans, programs, packed forms and exports."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import binarize
from binarize import networks
from binarize.graph import plan
from binarize.runtime.verify import verify

SIZE = (64, 64)
SPECS = (
    "fcn8s:test_resnet",
    "dpt:test_vit?width=16",
    "deeplabv3plus:test_resnet?width=16",
    "segformer:test_convnext?width=16",
    "segformer:pvt_v2_b0?width=16",
    "fcn32s:test_resnet",
    "upernet:test_convnext?width=16&head=quarter",
)
DEEPLAB = "deeplabv3plus:test_resnet?width=16", "encoder.conv1.0", {"classifier"}
SEGFORMER = "segformer:test_convnext?width=16", "encoder.stem_0", {"classifier"}
METHODS = [name for name in binarize.methods.names() if name != "bidense"]
TRIALS = [(spec, "bidense") for spec in SPECS]  # and each other method with one of the first four
TRIALS += [(SPECS[index % 4], method) for index, method in enumerate(METHODS)]


def create(spec: str, task: str) -> Any:
    return networks.create(f"{spec}{'&' if '?' in spec else '?'}{task}")


@pytest.mark.parametrize(
    ("spec", "stem", "last"),
    [
        ("fcn8s:test_resnet", "encoder.conv1.0", {"head.classifier", "scores.0", "scores.1"}),
        pytest.param(*DEEPLAB, marks=pytest.mark.slow),
        pytest.param(*SEGFORMER, marks=pytest.mark.slow),
        ("dpt:test_vit?width=16", "encoder.model.patch_embed.proj", {"head.classifier"}),
    ],
)
def test_stem_and_scores_stay_float_and_all_else_is_binary(spec: str, stem: str, last: set[str]) -> None:
    made = plan(create(spec, "num_classes=3"), "bidense", example_inputs=torch.zeros(2, 3, *SIZE))
    assert {row.name for row in made.rows if not row.converted} == {stem, *last}
    decoder = [row for row in made.rows if not row.name.startswith("encoder") and row.converted]
    assert decoder
    assert [row.name for row in decoder if row.bypass == "none"] == []  # each carries its signal


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "method"), TRIALS)
def test_each_method_trains_and_its_packed_network_is_one_program(spec: str, method: str) -> None:
    task = "task=depth&max_depth=3" if method in ("bnn", "bidense") else "num_classes=3"
    options: dict[str, Any] = {"granularity": "layer"} if method == "bidense" else {}
    x = torch.randn(2, 3, *SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", binarize.errors.BinarizeWarning)
        net = binarize.apply(create(spec, task), method, example_inputs=x, **options)
    y = net.train()(x)
    (y.square().mean() if "depth" in task else y.logsumexp(1).mean()).backward()
    assert [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None] == []
    binarize.set_progress(net, 1.0)  # weights that become binary during training are so now
    packed = binarize.deploy(net.eval())
    found = verify(net, packed, [x[:1]])
    assert [layer.name for layer in found.layers if not layer.agrees] == []
    assert found.difference < 0.05 or found.remark  # values of an untrained network lie on thresholds
    assert not found.no_program
