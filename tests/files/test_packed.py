"""Packed files: what goes in comes out, of the size that one bit per weight allows, and not for training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from comparing import unlike_fresh
from conftest import SmallNet
from torch import nn

import binarize
from binarize.errors import BinarizeError, BinarizeWarning, ConfigError, FormatError
from binarize.files import create_timm, load, load_checkpoint, read_header, save
from binarize.files.build_contexts import WithoutStartValues
from binarize.files.header import PackedHeader
from binarize.graph import execute
from binarize.layers import BinaryConv2d, BinaryLayer
from binarize.runtime import PackedLayer, RuntimeOptions, configure, deploy, report

NETWORKS = [
    ("test_resnet", "bidense", {}),
    ("test_convnext", "bidense", {"form": "table", "granularity": "layer"}),
    ("test_vit", "bidense", {}),
    pytest.param("test_resnet", "adabin", {}, marks=pytest.mark.slow),
    pytest.param("test_resnet", "bisrnet", {"form": "table"}, marks=pytest.mark.slow),
]


def _network(name: str, method: str, options: dict[str, Any]) -> nn.Module:
    model = binarize.apply(create_timm(name, num_classes=7), method, **options)
    return unlike_fresh(model).eval()


def _same_layers(converted: nn.Module, deployed: nn.Module, x: torch.Tensor) -> None:
    """Each packed layer gives what its binary layer gives for the input that it gets there."""
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    packed = dict(deployed.named_modules())

    def compare(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            ours = packed[name]
            pairs.append((output.clone(), ours(*args)))

        return hook

    handles = [
        module.register_forward_hook(compare(name))
        for name, module in converted.named_modules()
        if isinstance(module, BinaryLayer)
    ]
    with torch.no_grad():
        converted(x)
    for handle in handles:
        handle.remove()
    assert len(pairs) >= len(handles) > 0
    for expected, got in pairs:
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("name", "method", "options"), NETWORKS)
def test_networks(tmp_path: Path, name: str, method: str, options: dict[str, Any]):
    model = _network(name, method, options)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    deployed = deploy(model)
    assert not any(isinstance(module, BinaryLayer) for module in deployed.modules())
    assert type(deployed) is type(model)
    x = torch.rand(1, 3, *((160, 160) if name == "test_vit" else (64, 64)))
    _same_layers(model, deploy(model, exact_scales=True), x)
    path = save(model, tmp_path / "m.safetensors", packed=True)
    rng = torch.get_rng_state()
    loaded = load(path)
    assert torch.equal(rng, torch.get_rng_state())
    assert not any(p.requires_grad or p.is_meta for p in loaded.parameters())
    assert not any(module.training for module in loaded.modules())
    with torch.no_grad():
        y = deployed(x)
        assert y.isfinite().all()
        assert torch.equal(loaded(x), y)
    assert loaded.binarize_plan == model.binarize_plan
    assert report(loaded) == report(deployed)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())
    again = save(loaded, tmp_path / "again.safetensors", packed=True, source=read_header(path).source)
    assert again.read_bytes() == path.read_bytes()
    packed = report(deployed).packed
    tensors = sum(value.numel() * value.element_size() for value in deployed.state_dict().values())
    assert path.stat().st_size - tensors < 20_000 + 1_000 * len(packed)
    assert sum(-(-layer.weights // 8) for layer in packed) < path.stat().st_size


@pytest.mark.slow
def test_models_of_timm_are_named_in_their_files(tmp_path: Path):
    # What a deployed network keeps of its programs must not make the network look like another one.
    model = binarize.apply(
        timm.create_model("resnet18", num_classes=3), "bidense", granularity="layer"
    ).eval()
    deployed = deploy(model)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        y = deployed(x)  # by its modules, as a network's first call after `load`
        for _ in range(2):
            deployed(x)
    assert deployed.binarize_programs.programs()
    for given in (model, deployed, deploy(model, threads=2)):
        path = save(given, tmp_path / "m.safetensors", packed=True)
        assert read_header(path).source == {
            "source": "timm",
            "name": "resnet18",
            "kwargs": {"num_classes": 3},
        }
        with torch.no_grad():
            assert torch.equal(load(path)(x), y)


def test_a_packed_file_is_read_without_latent_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save(_network("test_resnet", "bidense", {}), tmp_path / "m.safetensors", packed=True)
    seen: list[torch.device] = []
    original = binarize.graph.execute

    def watch(plan: Any, model: nn.Module, **options: Any) -> nn.Module:
        result = original(plan, model, **options)
        seen.extend(m.weight.device for m in result.modules() if isinstance(m, BinaryLayer))
        return result

    monkeypatch.setattr(binarize.graph, "execute", watch)
    load(path)
    assert seen
    assert {device.type for device in seen} == {"meta"}


def test_buffers_that_no_file_holds(tmp_path: Path):
    # its attention masks are computed when it is built and are not in the state dict
    model = create_timm(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=24, depths=[2, 2]
    )
    x = torch.rand(1, 3, 64, 64)
    deployed = deploy(unlike_fresh(binarize.apply(model, "bidense", example_inputs=x)))
    loaded = load(save(deployed, tmp_path / "m.safetensors", packed=True))
    with torch.no_grad():
        assert torch.equal(loaded(x), deployed(x))


@pytest.mark.parametrize("float_dtype", ["float16", "bfloat16"])
def test_float_dtype(tmp_path: Path, float_dtype: str):
    model = _network("test_resnet", "bidense", {})
    full = save(model, tmp_path / "full.safetensors", packed=True)
    path = save(model, tmp_path / "m.safetensors", packed=True, float_dtype=float_dtype)
    assert path.stat().st_size < 0.9 * full.stat().st_size
    loaded = load(path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    state, reference = loaded.state_dict(), deploy(model).state_dict()
    dtype = getattr(torch, float_dtype)
    for name, value in reference.items():
        rounded = value.to(dtype).float() if value.is_floating_point() else value
        assert torch.equal(state[name], rounded), name
    again = save(loaded, tmp_path / "again.safetensors", packed=True, leftovers=float_dtype)  # its old name
    assert again.read_bytes() == path.read_bytes()


def test_a_network_of_another_type_is_packed_with_a_warning(tmp_path: Path):
    """The file holds float32 alone, and a forward that casts its input would fail."""
    model = _network("test_resnet", "bidense", {}).double()
    with pytest.warns(BinarizeWarning, match="parameters of float64"):
        path = save(model, tmp_path / "m.safetensors", packed=True)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert load(path)(x).dtype == torch.float32


def test_floats_that_do_not_fit(tmp_path: Path):
    model = _network("test_resnet", "bidense", {})
    model.fc.bias.data.fill_(1e6)
    with pytest.raises(ConfigError, match=r"'fc.bias' holds numbers up to 1e\+06.*bfloat16"):
        save(model, tmp_path / "m.safetensors", packed=True, float_dtype="float16")
    with pytest.raises(ConfigError, match="did you mean 'float16'"):
        save(model, tmp_path / "m.safetensors", packed=True, float_dtype="flaot16")
    with pytest.raises(ConfigError, match="packed=True too"):
        save(model, tmp_path / "m.safetensors", float_dtype="float16")
    assert not list(tmp_path.iterdir())


def test_custom_classes(tmp_path: Path, small_net: nn.Module):
    model = unlike_fresh(binarize.apply(small_net, "bidense", policy=binarize.Policy(first=1, last=1)))
    deployed = deploy(model)
    path = save(model, tmp_path / "m.safetensors", packed=True)
    assert read_header(path).source["class"].endswith("SmallNet")
    with pytest.raises(ConfigError, match=r"model=\.\.\."):
        load(path)
    before = {name: (value.data_ptr(), value.clone()) for name, value in small_net.state_dict().items()}
    loaded = load(path, model=small_net)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), deployed(x))
    for name, value in small_net.state_dict().items():
        assert value.data_ptr() == before[name][0]
        assert torch.equal(value, before[name][1])
    with pytest.raises(FormatError):
        load(path, model=SmallNet(24))
    with pytest.raises(ConfigError, match="not one that is binary already"):
        load(path, model=model)


def test_networks_written_by_hand_and_single_layers(tmp_path: Path):
    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3),
            BinaryConv2d(8, 8, 3, method="adabin"),
            BinaryConv2d(8, 4, 1, method="bisrnet"),
        )

    net = unlike_fresh(make())
    x = torch.rand(2, 3, 9, 9)
    loaded = load(save(net, tmp_path / "m.safetensors", packed=True), model=make())
    deployed = deploy(net)
    assert torch.equal(loaded(x), deployed(x))
    assert torch.equal(load(tmp_path / "m.safetensors", model=deploy(make()))(x), loaded(x))
    layer = unlike_fresh(binarize.binary_layer(nn.Linear(8, 8), "bidense")).eval()
    x = torch.rand(2, 8)
    earlier = {"source": "custom", "class": "binarize.runtime.packed.PackedLayer"}
    for source in (None, earlier):
        path = save(layer, tmp_path / "l.safetensors", packed=True, source=source)
        like = binarize.binary_layer(nn.Linear(8, 8), "bidense")
        assert torch.equal(load(path, model=like)(x), deploy(layer)(x))


def test_shared_layers_and_tied_weights(tmp_path: Path):
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3)
            self.a = nn.Conv2d(8, 8, 3, padding=1)
            self.b = self.a
            self.c = nn.Conv2d(8, 8, 3, padding=1)
            self.c.weight = self.a.weight
            self.head = nn.Conv2d(8, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.c(self.b(self.a(self.stem(x)))))

    net = unlike_fresh(binarize.apply(Shared(), "reactnet")).eval()
    deployed: Any = deploy(net)
    assert deployed.a is deployed.b
    assert deployed.a.bits.data_ptr() == deployed.c.bits.data_ptr()
    path = save(net, tmp_path / "m.safetensors", packed=True)
    assert {"b.bits", "c.bits"} <= set(read_header(path).aliases)
    loaded: Any = load(path, model=Shared())
    assert loaded.a is loaded.b
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(x), deployed(x))


def test_a_layer_that_cannot_be_packed_stays_and_says_why(tmp_path: Path):
    model: Any = _network("test_resnet", "bidense", {})
    norm = model.layer1[0].conv1.norm
    norm.running_mean = norm.running_var = None
    deployed = deploy(model)
    reason = report(deployed).refused["layer1.0.conv1"]
    assert "no running statistics" in reason
    table = str(report(deployed))
    assert "1 binary layers stay float" in table
    assert "running statistics" in " ".join(table.split())
    assert not any(p.requires_grad for p in deployed.parameters())
    x = torch.rand(2, 3, 64, 64)
    _same_layers_but(model, deployed, x)
    path = save(model, tmp_path / "m.safetensors", packed=True, float_dtype="float16", source=_SPEC)
    header = read_header(path)
    assert isinstance(header, PackedHeader)
    assert header.kept == {"layer1.0.conv1": reason}


_SPEC = {"source": "timm", "name": "test_resnet", "kwargs": {"num_classes": 7}}


def _same_layers_but(model: Any, deployed: Any, x: torch.Tensor) -> None:
    left, right = model.layer1[0].conv1, deployed.layer1[0].conv1
    assert isinstance(right, BinaryLayer)
    assert right is not left
    assert torch.equal(left.weight, right.weight)
    assert left.weight.data_ptr() != right.weight.data_ptr()


def test_layers_that_stayed_float_are_told_by_their_class_not_its_name():
    class Mine(BinaryConv2d):
        """A binary layer that the runtime does not know."""

    deployed = deploy(nn.Sequential(BinaryConv2d(8, 8, 3, method="bnn"), Mine(8, 8, 3, method="bnn")))
    assert report(deployed).refused.keys() == {"1"}
    assert "Mine" in report(deployed).refused["1"]
    assert "1 binary layers stay float" in str(report(deployed))


def test_kept_layers_come_back(tmp_path: Path):
    class Odd(nn.Tanh):
        """A quantizer that the runtime does not know."""

    net = nn.Sequential(BinaryConv2d(8, 8, 3, method="bnn"), BinaryConv2d(8, 8, 3, method="bnn"))
    net[0].quantizer = Odd()
    other = nn.Sequential(BinaryConv2d(8, 8, 3, method="bnn"), BinaryConv2d(8, 8, 3, method="bnn"))
    other[0].quantizer = Odd()
    unlike_fresh(net).eval()
    path = save(net, tmp_path / "m.safetensors", packed=True, float_dtype="bfloat16")
    loaded = load(path, model=other)
    assert isinstance(loaded[0], BinaryLayer)
    assert torch.equal(loaded[0].weight, net[0].weight)  # latent weights are never rounded
    assert "Odd" in report(loaded).refused["0"]
    plain = nn.Sequential(BinaryConv2d(8, 8, 3, method="bnn"), nn.Conv2d(8, 8, 3))
    with pytest.raises(FormatError, match="the file lists '1' as packed, but the model has a Conv2d there"):
        load(path, model=plain)


def test_what_cannot_be_deployed():
    with pytest.raises(ConfigError, match="no binary layer to deploy: convert it first"):
        deploy(SmallNet())
    model = binarize.apply(SmallNet(), "bnn")
    deployed = deploy(model, threads=2, exact_scales=True)
    layers = [m for m in deployed.modules() if isinstance(m, PackedLayer)]
    assert {m.options for m in layers} == {RuntimeOptions(threads=2, exact_scales=True)}
    assert configure(deployed, threads=3) is deployed
    assert {m.options for m in layers} == {RuntimeOptions(threads=3, exact_scales=False)}
    with pytest.raises(ConfigError, match="configure: threads=0"):
        configure(deployed, threads=0)
    with pytest.raises(ConfigError, match="SmallNet is not deployed"):
        configure(SmallNet())
    with pytest.raises(ConfigError, match="is deployed already"):
        deploy(deployed)
    with pytest.raises(ConfigError, match="threads=0"):
        deploy(model, threads=0)
    with pytest.raises(ConfigError, match="meta device"):
        deploy(model.to("meta"))
    with pytest.raises(ConfigError, match="not deployed"):
        report(SmallNet())


def test_training_from_it_is_refused(tmp_path: Path):
    model = _network("test_resnet", "bidense", {})
    path = save(model, tmp_path / "m.safetensors", packed=True)
    for target in (create_timm("test_resnet", num_classes=7), model):
        with pytest.raises(FormatError, match="packed file: its latent weights are gone"):
            load_checkpoint(target, path)
    deployed = load(path)
    with pytest.raises(ConfigError, match="latent weights are gone"):
        save(deployed, tmp_path / "latent.safetensors")
    with pytest.raises(ConfigError, match="latent weights are gone"):
        binarize.apply(deployed, "bidense")
    deployed.train().requires_grad_(True)
    with pytest.raises(BinarizeError, match="gives no gradient"):
        deployed(torch.rand(1, 3, 64, 64))


def test_saving_refuses_models_without_binary_layers(tmp_path: Path):
    with pytest.raises(ConfigError, match="no binary layer"):
        save(SmallNet(), tmp_path / "m.safetensors", packed=True)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Thousands of small steps: beside other work, waiting for a second thread takes most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_size_of_the_paper_network(tmp_path: Path, one_thread: None):
    with WithoutStartValues():  # which take longer than all the rest
        network = binarize.networks.create("upernet:convnext_tiny?num_classes=151")
    for parameter in network.parameters():
        parameter.data.fill_(0.01)
    model = execute(binarize.plan(network, "bidense", form="table"), network, copy=False)
    deployed = deploy(model)
    spec: Any = network.binarize_spec
    path = save(deployed, tmp_path / "m.safetensors", packed=True, source=spec)
    size = path.stat().st_size
    assert size <= 6_300_000
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert header < 70_000
    loaded = load(path)
    assert len(report(loaded).packed) == 69
    small = save(loaded, path, packed=True, source=spec, float_dtype="float16")
    assert small.stat().st_size < size - 600_000
