"""Round trips: save -> load gives the same model, bit for bit, or a clear error."""

from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import SmallNet
from torch import nn

import binarize
from binarize.errors import BinarizeWarning, ConfigError, FormatError
from binarize.files import FORMAT_VERSION, create_timm, load, read_header, save


def _randomised(model: nn.Module) -> nn.Module:
    """Every parameter and buffer away from its start value."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data.add_(torch.rand_like(tensor), alpha=1e-3)
    return model


def _same_state(a: nn.Module, b: nn.Module) -> None:
    left, right = a.state_dict(), b.state_dict()
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert torch.equal(left[name], right[name]), name
    assert [n for n, _ in a.named_parameters()] == [n for n, _ in b.named_parameters()]
    assert [p.requires_grad for p in a.parameters()] == [p.requires_grad for p in b.parameters()]


def _header(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])


def _with_entry(path: Path, change: Any) -> Path:
    """The file with its header entry changed by `change(fields)`, or replaced by a text."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    if isinstance(change, str):
        header["__metadata__"]["binarize"] = change
    else:
        fields = json.loads(header["__metadata__"]["binarize"])
        change(fields)
        header["__metadata__"]["binarize"] = json.dumps(fields)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    return path


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("test_resnet", "bidense"),
        ("test_convnext", "bidense"),
        ("test_vit", "bidense"),
        ("test_efficientnet", "reactnet"),
        *(pytest.param("test_resnet", m, marks=pytest.mark.slow) for m in ("bisrnet", "adabin", "bnn")),
    ],
)
def test_converted_timm_models(tmp_path: Path, name: str, method: str):
    model = _randomised(binarize.apply(create_timm(name, num_classes=7), method)).eval()
    path = save(model, tmp_path / "m.safetensors")
    rng = torch.get_rng_state()
    loaded = load(path)
    assert torch.equal(rng, torch.get_rng_state())
    _same_state(model, loaded)
    assert not any(module.training for module in loaded.modules())
    assert loaded.binarize_plan == model.binarize_plan
    x = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        y = model(x)
        assert y.isfinite().all()
        assert torch.equal(y, loaded(x))


def test_saving_leaves_the_model_alone(tmp_path: Path):
    model = binarize.apply(create_timm("test_resnet")).train()
    before = {name: (id(p), p.clone()) for name, p in model.named_parameters()}
    save(model, tmp_path / "m.safetensors")
    assert all(module.training for module in model.modules())
    for name, p in model.named_parameters():
        assert id(p) == before[name][0]
        assert torch.equal(p, before[name][1])


def test_the_stored_plan_is_executed_not_a_new_one(tmp_path: Path, monkeypatch):
    policy = binarize.Policy(keep=("layer2*",), first=2)
    model = binarize.apply(create_timm("test_resnet"), "bidense", policy=policy, granularity="layer")
    path = save(model, tmp_path / "m.safetensors")

    import binarize.graph.decide.planner as planner

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("load must not plan")

    monkeypatch.setattr(planner, "plan", refuse)
    loaded = load(path)
    assert loaded.binarize_plan == model.binarize_plan
    assert loaded.binarize_plan.method["options"]["granularity"] == "layer"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(tmp_path: Path, dtype: torch.dtype):
    model = _randomised(binarize.apply(create_timm("test_resnet"))).to(dtype)
    loaded = load(save(model, tmp_path / "m.safetensors"))
    _same_state(model, loaded)
    assert loaded.conv1[0].weight.dtype == dtype


def test_mixed_dtypes_and_frozen_parameters(tmp_path: Path):
    model = binarize.apply(create_timm("test_resnet"))
    model.fc.to(torch.float64)
    loaded = load(save(model, tmp_path / "m.safetensors"))
    assert loaded.fc.weight.dtype == torch.float64
    assert loaded.conv1[0].weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_buffers_that_are_not_stored(tmp_path: Path, dtype: torch.dtype):
    # its attention masks and position indices are computed when it is built and are not in the state dict
    model = create_timm(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=24, depths=[2, 2]
    )
    model = model.to(dtype)
    loaded = load(save(model, tmp_path / "m.safetensors"))
    buffers = dict(loaded.named_buffers())
    hidden = {n: b for n, b in model.named_buffers() if n not in model.state_dict()}
    assert any(b.is_floating_point() for b in hidden.values())
    for name, buffer in hidden.items():
        assert buffers[name].dtype == buffer.dtype
        assert torch.equal(buffers[name], buffer)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("test_resnet", {}),
        ("test_resnet", {"num_classes": 3, "in_chans": 1}),
        ("test_resnet", {"features_only": True, "out_indices": (1, 2)}),
        ("test_resnet", {"drop_rate": 0.25}),
        ("test_convnext", {"drop_path_rate": 0.1, "num_classes": 0}),
        ("test_vit", {"img_size": 96}),
    ],
)
def test_models_of_timm_itself_are_recognised(tmp_path: Path, name: str, kwargs: dict[str, Any]):
    model = timm.create_model(name, **kwargs)
    path = save(model, tmp_path / "m.safetensors")
    assert read_header(path).source["source"] == "timm"
    loaded = load(path)
    _same_state(model, loaded)
    assert repr(loaded) == repr(model.eval())


@pytest.mark.filterwarnings("ignore:save. test_.* of timm:binarize.errors.BinarizeWarning")
@pytest.mark.parametrize(
    "kwargs",
    [{"act_layer": nn.SiLU}, {"global_pool": "max"}, {"output_stride": 16}, {"zero_init_last": False}],
)
def test_a_model_that_timm_would_not_rebuild_is_not_said_to_be_timms(tmp_path: Path, kwargs: dict[str, Any]):
    model = timm.create_model("test_resnet", **kwargs)
    source = read_header(save(model, tmp_path / "m.safetensors")).source
    if source["source"] == "timm":  # what leaves no trace in the model changes nothing that is loaded
        assert repr(load(tmp_path / "m.safetensors")) == repr(model.eval())
    else:
        assert source == {"source": "custom", "class": "timm.models.resnet.ResNet"}


@pytest.mark.filterwarnings("ignore:save. test_.* of timm:binarize.errors.BinarizeWarning")
def test_a_guess_has_to_agree_in_every_plain_attribute(tmp_path: Path):
    model = timm.create_model("test_vit")
    model.global_pool = "avg"  # changes what it computes, and neither its modules nor its tensors
    assert read_header(save(model, tmp_path / "m.safetensors")).source["source"] == "custom"
    model.global_pool = "token"
    model.set_grad_checkpointing()  # changes nothing that it computes
    assert read_header(save(model, tmp_path / "m.safetensors")).source["source"] == "timm"


@pytest.mark.filterwarnings("ignore:save. test_.* of timm:binarize.errors.BinarizeWarning")
def test_a_spec_that_no_longer_holds_is_not_believed(tmp_path: Path):
    model = create_timm("test_resnet")
    model.fc = nn.Sequential(nn.Linear(model.fc.in_features, 8), nn.Linear(8, 3))
    assert read_header(save(model, tmp_path / "m.safetensors")).source["source"] == "custom"


def test_custom_classes(tmp_path: Path):
    model = _randomised(binarize.apply(SmallNet(), example_inputs=torch.zeros(1, 3, 32, 32)))
    path = save(model, tmp_path / "m.safetensors")
    with pytest.raises(ConfigError, match=r"custom class .*SmallNet: give the float model"):
        load(path)
    given = SmallNet()
    before = {name: p.clone() for name, p in given.state_dict().items()}
    loaded = load(path, given)
    _same_state(model, loaded)
    assert given.state_dict().keys() == before.keys()
    assert all(torch.equal(p, before[name]) for name, p in given.state_dict().items())


def test_custom_classes_in_float(tmp_path: Path):
    model = _randomised(SmallNet())
    loaded = load(save(model, tmp_path / "m.safetensors"), SmallNet())
    _same_state(model, loaded)


class OtherNet(SmallNet):
    pass


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (lambda: OtherNet(), "of class .*SmallNet, not of the given .*OtherNet"),
        (lambda: SmallNet(width=8), r"plan cannot be executed on .*SmallNet: .*\(16, 3, 3, 3\)"),
        (lambda: SmallNet(classes=4), r"another shape \(head.weight is 5x32, expected 4x32|\(5, 32\)"),
        (lambda: nn.Linear(3, 3), "holds a model of class conftest.SmallNet, not of the given"),
    ],
)
def test_another_model_than_the_one_saved(tmp_path: Path, given, match: str):
    model = binarize.apply(SmallNet(), example_inputs=torch.zeros(1, 3, 32, 32))
    path = save(model, tmp_path / "m.safetensors")
    with pytest.raises(FormatError, match=match):
        load(path, given())


class Tied(nn.Module):
    def __init__(self, tie: bool = True) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        if tie:
            self.b.weight = self.a.weight


def test_tied_parameters_are_stored_once_and_stay_tied(tmp_path: Path):
    path = save(Tied(), tmp_path / "m.safetensors")
    assert read_header(path).aliases == {"b.weight": "a.weight"}
    assert "b.weight" not in _header(path)
    for given in (Tied(), Tied(tie=False)):
        loaded = load(path, given)
        assert loaded.a.weight is loaded.b.weight
    untied = Tied(tie=False)
    loaded = load(save(untied, tmp_path / "u.safetensors"), Tied())
    assert loaded.a.weight is not loaded.b.weight
    _same_state(untied, loaded)


def test_tensors_that_overlap_are_stored_apart(tmp_path: Path):
    model = nn.Module()
    base = torch.arange(8.0)
    model.a, model.b = nn.Parameter(base[:6]), nn.Parameter(base[2:])
    model.c = nn.Parameter(torch.empty(0))
    model.d = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())
    given = nn.Module()
    given.a, given.b = nn.Parameter(torch.zeros(6)), nn.Parameter(torch.zeros(6))
    given.c, given.d = nn.Parameter(torch.empty(0)), nn.Parameter(torch.zeros(3, 2))
    _same_state(model, load(save(model, tmp_path / "m.safetensors"), given))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: nn.Linear(2, 2, device="meta"), "without data"),
        (lambda: _with_buffer(torch.zeros(2, dtype=torch.complex128)), "complex128"),
        (lambda: _with_buffer(torch.eye(2).to_sparse()), "sparse"),
        (lambda: _with_extra_state(), "'_extra_state': a dict, expected a tensor"),
    ],
)
def test_state_that_no_safetensors_file_holds(tmp_path: Path, make, match: str):
    with pytest.raises(ConfigError, match=match):
        save(make(), tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


def _with_buffer(buffer: torch.Tensor) -> nn.Module:
    model = nn.Module()
    model.register_buffer("extra", buffer)
    return model


def _with_extra_state() -> nn.Module:
    class Extra(nn.Module):
        def get_extra_state(self) -> dict[str, int]:
            return {"step": 3}

    return Extra()


@pytest.fixture(scope="module")
def converted_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("converted") / "m.safetensors"
    return save(binarize.apply(create_timm("test_resnet", num_classes=3)), path).read_bytes()


@pytest.fixture
def converted(tmp_path: Path, converted_bytes: bytes) -> Path:
    path = tmp_path / "m.safetensors"
    path.write_bytes(converted_bytes)
    return path


def test_a_newer_format(converted: Path):
    _with_entry(converted, lambda fields: fields.update(version=FORMAT_VERSION + 1, source="whatever"))
    with pytest.raises(FormatError, match=rf"version {FORMAT_VERSION + 1}; .* up to {FORMAT_VERSION}"):
        load(converted)


def test_a_foreign_file(tmp_path: Path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "f.safetensors")
    with pytest.raises(FormatError, match="was not written by binarize"):
        load(tmp_path / "f.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "f.safetensors", metadata={"binarize": '{"format": "other"}'})
    with pytest.raises(FormatError, match="foreign"):
        load(tmp_path / "f.safetensors")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"format": "binarize-model"}'])
def test_broken_entries(converted: Path, text: str):
    _with_entry(converted, text)
    with pytest.raises(FormatError, match="corrupted"):
        load(converted)


def _drop(name: str):
    return lambda fields: fields.pop(name)


def _set(**changes: Any):
    return lambda fields: fields.update(changes)


@pytest.mark.parametrize(
    "change",
    [
        *(_drop(name) for name in ("format", "version", "source", "plan", "aliases", "transient", "sha256")),
        _set(version="1"),
        _set(version=True),
        _set(version=0),
        _set(source={"source": "elsewhere"}),
        _set(source={"source": "timm", "name": "resnet18"}),
        _set(source={"source": "timm", "name": 3, "kwargs": {}}),
        _set(plan="none"),
        _set(plan=None),
        _set(aliases={"a": 1}),
        _set(sha256="0" * 64),
    ],
)
def test_damaged_headers(converted: Path, change: Any):
    _with_entry(converted, change)
    with pytest.raises(FormatError, match=r"corrupted|foreign"):
        load(converted)


def test_every_flipped_bit_is_found(converted: Path):
    content = converted.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    spots = [*range(8), *range(8, 8 + length, 997), *range(8 + length, len(content), len(content) // 40)]
    for spot in spots:
        damaged = bytearray(content)
        damaged[spot] ^= 1 << (spot % 8)
        converted.write_bytes(damaged)
        with pytest.raises(FormatError):
            load(converted)


def _signed(path: Path, **changes: Any) -> Path:
    """A file whose header says something else, with a checksum that fits: a forger's, not an accident."""
    import dataclasses

    from binarize.files import container
    from binarize.files.header import Header, loads

    content = container.read(path)
    header, _ = loads(content.metadata, "it")
    header = Header(**{**dataclasses.asdict(header), **changes})
    container.write(path, content.tensors, {"binarize": header.dumps(content.tensors)})
    return path


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ({"name": "no_such_model", "kwargs": {}}, "unknown timm model"),
        ({"name": "hf-hub:some/model", "kwargs": {}}, "unknown timm model"),
        ({"name": "test_resnet", "kwargs": {"pretrained": True}}, "cannot be set"),
        ({"name": "test_resnet", "kwargs": {"checkpoint_path": "evil.pth"}}, "cannot be set"),
        ({"name": "test_resnet", "kwargs": {"nonsense": 1}}, "cannot be built"),
        ({"name": "test_resnet", "kwargs": {"num_classes": "many"}}, "cannot be built"),
        ({"name": "test_resnet", "kwargs": {"num_classes": 10**30}}, r"names a model of size 1e\+30"),
        (
            {"name": "test_resnet", "kwargs": {"num_classes": 10**6}},
            r"names a model of 97,\d+,\d+ parameters",
        ),
        ({"name": "test_convnext", "kwargs": {}}, "plan cannot be executed"),
    ],
)
def test_forged_sources(converted: Path, source: dict[str, Any], match: str):
    _signed(converted, source={"source": "timm", **source})
    with pytest.raises(FormatError, match=match):
        load(converted)


def test_forged_plans_and_aliases(converted: Path):
    _signed(converted, aliases={"x": "y"})
    with pytest.raises(FormatError, match="tied"):
        load(converted)
    _signed(converted, aliases={}, transient={"fc.weight": "int64"})
    with pytest.raises(FormatError, match="floating-point"):
        load(converted)
    _signed(converted, transient={}, plan=None)
    with pytest.raises(FormatError, match="tensors match"):
        load(converted)
    _signed(converted, plan={"rows": 3})
    with pytest.raises(FormatError, match="plan"):
        load(converted)


def test_header_without_the_tensors(converted: Path):
    header = read_header(converted)
    assert header.source == {"source": "timm", "name": "test_resnet", "kwargs": {"num_classes": 3}}
    assert header.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert header.plan is not None
    assert header.plan["method"]["name"] == "bidense"


def test_no_pickle_in_the_file(converted: Path):
    entries = _header(converted)
    assert list(entries["__metadata__"]) == ["binarize", "binarize.preprocessing"]
    assert set(json.loads(entries["__metadata__"]["binarize"])) == {
        "format", "version", "source", "plan", "aliases", "transient", "versions", "sha256"
    }  # fmt: skip


def test_networks(tmp_path: Path):
    network = binarize.networks.create("upernet:test_resnet?num_classes=4")
    model = _randomised(binarize.apply(network, example_inputs=torch.zeros(2, 3, 64, 64)))
    path = save(model, tmp_path / "m.safetensors")
    assert read_header(path).source["source"] == "networks"
    _same_state(model, load(path))


def test_loading_is_silent(converted: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(converted)


def test_the_given_model_is_named_where_it_is_the_wrong_one(tmp_path: Path) -> None:
    class Mine(nn.Sequential):
        pass

    layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)]
    net, example = Mine(*layers), torch.zeros(1, 3, 16, 16)
    binary = binarize.apply(net, "bidense", example_inputs=example)
    path = binarize.save(binary, tmp_path / "mine.safetensors")
    with pytest.raises(FormatError, match=r"holds a model of class .*Mine, not of the given .*Conv2d"):
        binarize.load(path, model=nn.Conv2d(3, 8, 3))
    with pytest.raises(ConfigError, match="give the float model that it was made from"):
        binarize.load(path, model=binary)


def test_a_model_that_was_converted_twice_is_refused(tmp_path: Path):
    x = torch.rand(1, 3, 16, 16)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), *(nn.Conv2d(8, 8, 3) for _ in range(4)))
    once = binarize.apply(net, "bnn", policy=binarize.Policy(only=("1",)), example_inputs=x)
    twice = binarize.apply(once, "bnn", example_inputs=x)
    for model, packed in ((twice, False), (twice, True), (binarize.deploy(twice), True)):
        with pytest.raises(ConfigError, match="was converted twice, and a file holds one conversion"):
            save(model, tmp_path / "m.safetensors", packed=packed)
    assert not (tmp_path / "m.safetensors").exists()
    with torch.no_grad():
        assert torch.equal(load(save(once, tmp_path / "m.safetensors"), net)(x), once.eval()(x))


def test_one_module_with_several_names_is_one_conversion(tmp_path: Path):
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.a = nn.Conv2d(8, 8, 3, padding=1)
            self.b = self.a
            self.last = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.b(self.a(self.first(x))))

    x = torch.rand(1, 3, 8, 8)
    model: Any = binarize.apply(Shared(), "bnn", example_inputs=x).eval()
    assert model.a is model.b
    for packed in (False, True):
        loaded: Any = load(save(model, tmp_path / "m.safetensors", packed=packed), Shared())
        assert loaded.a is loaded.b
        with torch.no_grad():
            assert torch.allclose(loaded(x), model(x), atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_arguments_that_a_model_does_not_show(tmp_path: Path, packed: bool) -> None:
    float_model = timm.create_model("test_resnet", num_classes=5, global_pool="max")
    model = binarize.apply(float_model, "bnn", example_inputs=torch.zeros(1, 3, 32, 32))
    with pytest.warns(BinarizeWarning, match=r"test_resnet of timm.*load will need the float model"):
        written = save(model, tmp_path / "m.safetensors", packed=packed)
    assert read_header(written).source["source"] == "custom"
    load(written, timm.create_model("test_resnet", num_classes=5, global_pool="max"))
    kept = binarize.apply(
        create_timm("test_resnet", num_classes=5, global_pool="max"),
        "bnn",
        example_inputs=torch.zeros(1, 3, 32, 32),
    )
    load(save(kept, tmp_path / "k.safetensors", packed=packed))


@pytest.mark.parametrize("ending", [".pth", ".pt", ".ckpt", ".bin"])
def test_an_ending_of_other_files_is_a_warning(tmp_path: Path, ending: str) -> None:
    model = timm.create_model("test_resnet")
    with pytest.warns(BinarizeWarning, match=r"neither torch\.load nor .*Name it 'net\.safetensors'"):
        path = save(model, tmp_path / f"net{ending}")
    _same_state(load(path), model)
