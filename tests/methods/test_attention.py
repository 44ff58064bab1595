"""Networks with binary attention: trained, counted, saved, packed, exported."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import binarize
from binarize import networks
from binarize.files import create_timm
from binarize.graph import plan
from binarize.layers import BinaryAttention
from binarize.runtime.verify import verify


def vit() -> nn.Module:
    return create_timm("vit_tiny_patch16_224", num_classes=5, img_size=32, depth=2)


def swin() -> nn.Module:
    sizes: dict[str, Any] = {"img_size": 32, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}
    return create_timm("swin_tiny_patch4_window7_224", num_classes=5, window_size=4, **sizes)


NETWORKS: dict[str, tuple[Any, int, int]] = {
    "vit": (vit, 32, 2),
    "swin": (swin, 32, 4),
    "dpt": (lambda: networks.create("dpt:test_vit?width=16&num_classes=3"), 64, 6),
    "segformer": (lambda: networks.create("segformer:pvt_v2_b0?width=16&num_classes=3"), 64, 8),
}


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name][0]()


def trained(name: str, method: str, **options: Any) -> tuple[nn.Module, torch.Tensor]:
    size = NETWORKS[name][1]
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    model = binarize.apply(make(name), method, example_inputs=x, attention="binary", **options).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(3):
        y = model(x)
        loss = y.square().mean() + (y - 1).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(torch.isfinite(torch.tensor(losses)))
    assert len(set(losses)) == 3
    return model.eval(), x


def attentions(model: nn.Module) -> list[BinaryAttention]:
    return [m for m in model.modules() if isinstance(m, BinaryAttention)]


def check(name: str, method: str, folder: Path, **options: Any) -> None:
    model, x = trained(name, method, **options)
    assert len(attentions(model)) == NETWORKS[name][2]
    for found in attentions(model):
        for parameter in found.parameters():
            assert parameter.grad is not None
        assert all(q.started for q in (found.scores.left, found.scores.right))
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(copy.deepcopy(model)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
        path = binarize.save(model, folder / "m.safetensors")
        assert torch.equal(binarize.load(path, make(name)).eval()(x), expected)
    packed = binarize.deploy(model)
    assert not packed.deploy_report.refused
    rows = packed.deploy_report.attentions
    assert len(rows) == NETWORKS[name][2]
    assert all("computed in float" in row.reason for row in rows)
    assert "computed in float" in str(packed.deploy_report).replace("\n", " ")
    found = verify(model, packed, [x])
    assert all(error.agrees for error in found.layers), str(found)
    assert found.steps, found.no_program
    path = binarize.save(packed, folder / "p.safetensors", packed=True)
    again = binarize.load(path, make(name))
    with torch.no_grad():
        assert torch.equal(again(x), binarize.deploy(model)(x))


@pytest.mark.parametrize("method", ["bit", "bidense"])
def test_vit(method: str, tmp_path: Path) -> None:
    check("vit", method, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["swin", "dpt", "segformer"])
@pytest.mark.parametrize("method", ["bit", "bidense"])
def test_other_networks(method: str, network: str, tmp_path: Path) -> None:
    check(network, method, tmp_path, **({"granularity": "layer"} if method == "bidense" else {}))


def test_a_dense_network_trains() -> None:
    model, _ = trained("dpt", "bit")
    assert len(attentions(model)) == NETWORKS["dpt"][2]


def test_products_are_binary_work_and_quantizers_are_float_parameters() -> None:
    counts = {}
    for choice in ("float", "binary"):
        model = binarize.apply(vit(), "bit", example_inputs=torch.zeros(1, 3, 32, 32), attention=choice)
        counts[choice] = binarize.summary(model, 32)
    before, after = counts["float"], counts["binary"]
    heads, length, width = 3, 5, 64
    products = 2 * 2 * heads * length * length * width  # two of them in each of two blocks
    assert after.binary_macs == before.binary_macs + products
    assert after.float_macs == before.float_macs - products
    numbers = 2 * (3 * heads * width + 1 + 4)  # shifts of channels, one of the rows, four scales
    assert after.float_params == before.float_params + numbers
    assert after.binary_params == before.binary_params
    assert not after.uncounted
    rows = [row for row in after.layers if row.kind == "BinaryAttention"]
    assert [row.name for row in rows] == [f"blocks.{i}.attn.binary_attention" for i in (0, 1)]
    assert [row.binary_macs for row in rows] == [products // 2] * 2
    deployed = binarize.summary(binarize.deploy(model), 32)
    assert deployed.binary_macs == after.binary_macs


def test_programs_do_not_take_binary_attention_for_float_attention() -> None:
    model, x = trained("vit", "bit")
    packed = binarize.deploy(model)
    with torch.no_grad():
        expected = packed._call_impl(x)  # its modules
        for _ in range(3):
            y = packed(x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    (program,) = packed.binarize_programs.programs()
    names = {str(node.target) for node in program.graph.graph.nodes if node.op == "call_function"}
    assert not any("attention" in name for name in names)
    assert any("softmax" in name for name in names)


@pytest.mark.slow
def test_it_is_exported_to_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from binarize.runtime.onnx import to_onnx

    model, x = trained("vit", "bit")
    packed = binarize.deploy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session = onnxruntime.InferenceSession(to_onnx(packed, (32, 32)))
    (y,) = session.run(None, {"image": x.numpy()})
    with torch.no_grad():
        expected = packed(x)
    assert (torch.from_numpy(y) - expected).abs().median() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize(
    ("name", "options", "heads"),
    [
        ("deit_tiny_patch16_224", {"img_size": 32, "depth": 1}, 1),
        ("eva02_tiny_patch14_224", {"img_size": 28, "depth": 1}, 1),  # rotary positions
        ("xcit_nano_12_p16_224", {"depth": 1}, 1),  # between channels
        ("coat_tiny", {}, 0),  # softmax over keys, without scores
    ],
)
def test_timm_models(name: str, options: dict[str, Any], heads: int) -> None:
    size = options.get("img_size", 224)
    model = timm.create_model(name, pretrained=False, num_classes=3, **options)
    made = plan(model, "bit", example_inputs=torch.zeros(1, 3, size, size), attention="binary")
    assert made.attentions
    converted = [row for row in made.attentions if row.converted]
    assert bool(converted) == bool(heads), str(made)
    assert all(row.reason for row in made.attentions if not row.converted)
