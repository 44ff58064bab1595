"""Files that are cut, damaged or made to harm: always a clear error, never a crash or a giant allocation."""

from __future__ import annotations

import json
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import unlike_fresh
from conftest import SmallNet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import binarize
from binarize.errors import ConfigError, FormatError
from binarize.files import create_timm, load, load_checkpoint, read_header, save
from binarize.files.checksum import checksum

_MOST = 400_000_000  # bytes that may come to the largest memory of the process; the files have 100 kB
FORMATS = ["latent", "packed"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One file of each format, of the same network; `planes` is a packed one with numbers of 2 bits."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    model = unlike_fresh(binarize.apply(SmallNet(8), "bidense"))
    planes = unlike_fresh(binarize.apply(SmallNet(8), "lqnet", weight_bits=2, activation_bits=2))
    return {
        name: save(
            planes if name == "planes" else model, folder / f"{name}.safetensors", packed=name != "latent"
        ).read_bytes()
        for name in (*FORMATS, "planes")
    }


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("target") / "m.safetensors"


@pytest.fixture(autouse=True)
def _bounded() -> Any:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < _MOST


def _load(target: Path, data: bytes) -> nn.Module | None:
    """The model, or None after a FormatError; any other error passes."""
    target.write_bytes(data)
    try:
        read_header(target)
    except FormatError:
        with pytest.raises(FormatError):
            load(target, model=SmallNet(8))
        return None
    try:
        return load(target, model=SmallNet(8))
    except FormatError:
        return None


def _same(model: nn.Module, reference: nn.Module) -> bool:
    left, right = model.state_dict(), reference.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


_FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)


@pytest.mark.parametrize("kind", FORMATS)
@_FUZZ
@given(share=st.floats(0, 1, exclude_max=True))
def test_cut(files: dict[str, bytes], target: Path, kind: str, share: float):
    data = files[kind]
    assert _load(target, data[: int(share * len(data))]) is None


@pytest.mark.parametrize("kind", FORMATS)
def test_longer(files: dict[str, bytes], target: Path, kind: str):
    assert _load(target, files[kind] + b"\0") is None


@pytest.mark.parametrize("kind", FORMATS)
@_FUZZ
@given(data=st.data())
def test_flipped_bits(files: dict[str, bytes], target: Path, kind: str, data: st.DataObject):
    whole = files[kind]
    header = 8 + int.from_bytes(whole[:8], "little")
    inside = data.draw(st.booleans(), label="in the header")
    places = st.integers(0, 8 * header - 1) if inside else st.integers(8 * header, 8 * len(whole) - 1)
    damaged = bytearray(whole)
    for place in data.draw(st.sets(places, min_size=1, max_size=3), label="bits"):
        damaged[place // 8] ^= 1 << place % 8
    model = _load(target, bytes(damaged))
    if model is not None:  # the header's own spaces, order of keys...: what the checksum need not cover
        assert inside
        target.write_bytes(whole)
        assert _same(model, load(target, model=SmallNet(8)))


_VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**30]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "conv", "\ud800", "x" * 1000, "float16", "../../etc/passwd"]),
    st.sampled_from([[], {}, [[]], [-1, -1], [2**40, 2**40], [[1e9, 1e9]], {"kind": "dab"}, {"": None}]),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += _places(item, (*path, key))
    return found


def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _joined(header: Any, rest: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + rest


def _resealed(data: bytes, change: Callable[[dict[str, Any]], None], target: Path) -> bytes:
    """The file with another entry and the right checksum for it: what somebody who means harm would write."""
    header, rest = _parts(data)
    entry = json.loads(header["__metadata__"]["binarize"])
    target.write_bytes(data)
    from binarize.files.container import read

    change(entry)
    signed = {name: value for name, value in entry.items() if name != "sha256"}
    entry["sha256"] = checksum(signed, read(target).tensors)
    header["__metadata__"]["binarize"] = json.dumps(entry)
    return _joined(header, rest)


@pytest.mark.parametrize("kind", [*FORMATS, "planes"])
@settings(_FUZZ, max_examples=120)
@given(data=st.data())
def test_forged_entries(files: dict[str, bytes], target: Path, kind: str, data: st.DataObject):
    def change(entry: dict[str, Any]) -> None:
        part = data.draw(st.sampled_from(sorted(entry.keys() - {"sha256"})), label="part")
        if kind != "latent" and data.draw(st.booleans(), label="a layer"):
            part = "layers"
        *above, last = (part, *data.draw(st.sampled_from([(), *_places(entry[part])]), label="place"))
        holder = entry
        for key in above:
            holder = holder[key]
        if data.draw(st.booleans(), label="remove") and isinstance(holder, dict):
            del holder[last]
        else:
            holder[last] = data.draw(_VALUES, label="value")

    try:
        model = _load(target, _resealed(files[kind], change, target))
    except ConfigError:  # the forged entry asks for another model
        return
    if model is not None and kind != "latent":
        with torch.no_grad():
            model(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("weight_planes",), 0, "weight_planes is 0, expected a whole number from 1 to 8"),
        (("weight_planes",), 2**30, "from 1 to 8"),
        (("weight_planes",), True, "weight_planes is True"),
        (("weight_planes",), 3, "'layers.0.conv1.bits' is of shape"),
        (("offset",), True, "offset is True, expected none for weights of several planes"),
        (("quantizer", "bits"), 1, "bits is 1, expected a whole number from 2 to 4"),
        (("quantizer", "bits"), 30, "from 2 to 4"),
        (("quantizer", "bits"), 3, "'layers.0.conv1.vectors' is of shape"),
        (("quantizer", "signed"), 1, "signed is 1, expected true or false"),
        (("quantizer", "signed"), None, "is {"),
        (("quantizer", "ranges"), [], "quantizer.ranges"),
    ],
)
def test_forged_planes(
    files: dict[str, bytes], target: Path, place: tuple[str, ...], value: Any, message: str
) -> None:
    names: list[str] = []

    def change(entry: dict[str, Any]) -> None:
        name, layer = next(iter(entry["layers"].items()))
        names.append(name)
        for key in place[:-1]:
            layer = layer[key]
        if value is None:
            layer[place[-1]] = not layer.get(place[-1], False)
        else:
            layer[place[-1]] = value

    target.write_bytes(_resealed(files["planes"], change, target))
    with pytest.raises(FormatError) as error:
        load(target, model=SmallNet(8))
    assert message.replace("layers.0.conv1", names[0]) in str(error.value)


def _tensor(shape: Any, offsets: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


_HEADERS: dict[str, Any] = {
    "no JSON": b"{" * 100,
    "a list": [],
    "deep": b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "huge shape": {"a": _tensor([2**40, 2**40], [0, 16])},
    "huge shape that overflows to the right size": {"a": _tensor([2**62, 2**62, 4], [0, 16])},
    "negative size": {"a": _tensor([-4], [0, 16])},
    "negative offset": {"a": _tensor([4], [-16, 0])},
    "offsets backwards": {"a": _tensor([4], [16, 0])},
    "beyond the end": {"a": _tensor([2**30], [0, 2**32])},
    "overlapping": {"a": _tensor([4], [0, 16]), "b": _tensor([4], [0, 16])},
    "overlapping in part": {"a": _tensor([3], [0, 12]), "b": _tensor([2], [8, 16])},
    "a hole": {"a": _tensor([1], [0, 4]), "b": _tensor([2], [8, 16])},
    "not all": {"a": _tensor([1], [0, 4])},
    "unknown type": {"a": _tensor([4], [0, 16], "F31")},
    "sizes that are not numbers": {"a": _tensor(["4"], [0, 16])},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 16]}},
    "numbers with fractions": {"a": _tensor([4.5], [0, 16])},
    "empty and huge": {"a": _tensor([0, 2**62], [0, 0]), "b": _tensor([4], [0, 16])},
    "four bits": {"a": _tensor([32], [0, 16], "F4")},
}


@pytest.mark.parametrize("name", _HEADERS)
def test_hostile_headers(files: dict[str, bytes], target: Path, name: str):
    header = _HEADERS[name]
    assert _load(target, _joined(header, bytes(16))) is None
    if isinstance(header, dict):  # with a good entry too
        for kind in FORMATS:
            entry = _parts(files[kind])[0]["__metadata__"]
            assert _load(target, _joined({"__metadata__": entry, **header}, bytes(16))) is None
    with pytest.raises(FormatError):
        load_checkpoint(SmallNet(8), target)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**40, 2**63 - 1, 2**63, 2**64 - 1])
def test_hostile_lengths(files: dict[str, bytes], target: Path, length: int):
    for data in files.values():
        assert _load(target, struct.pack("<Q", length) + data[8:]) is None
    assert _load(target, struct.pack("<Q", length)) is None


@pytest.mark.parametrize(
    "entry",
    ["", "[]", "{" * 100_000, "[" * 100_000, '{"format":' * 5000, "NaN", '{"version":1e999}', "1" * 10_000],
)
def test_hostile_entries(files: dict[str, bytes], target: Path, entry: str):
    for data in files.values():
        header, rest = _parts(data)
        header["__metadata__"]["binarize"] = entry
        assert _load(target, _joined(header, rest)) is None


def _deep() -> Any:
    value: Any = None
    for _ in range(900):
        value = [value]
    return value


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e["layers"]["conv1"].update({"in": 2**31 - 1}),
        lambda e: e["layers"]["conv1"].update({"in": 2**20, "out": 2**20, "kernel": [2**20, 2**20]}),
        lambda e: e["layers"]["conv1"].update({"padding": [[10**9, 10**9]] * 2}),
        lambda e: e["layers"]["conv1"].update({"groups": 7}),
        lambda e: e["layers"]["conv1"].update({"stride": [0, 0]}),
        lambda e: e["layers"].update({"stem": e["layers"]["conv1"]}),
        lambda e: e["layers"].pop("conv1"),
        lambda e: e["layers"].update({f"layer{i}": e["layers"]["conv1"] for i in range(20_000)}),
        lambda e: e["kept"].update({"conv1": "because"}),
        lambda e: e["aliases"].update({"conv1.bits": "conv2.bits"}),
        lambda e: e["aliases"].update({"conv9.bits": "conv2.bits"}),
        lambda e: e.update({"leftovers": "float64"}),
        lambda e: e.update({"plan": _deep()}),
        lambda e: e.update({"plan": {"rows": _deep()}}),
        lambda e: e["plan"].update({"inputs": [[1, 3, "8", 8]]}),
        lambda e: e["plan"].update({"inputs": [[1, 3, -8, 8]]}),
        lambda e: e["plan"].update({"inputs": [8]}),
    ],
    ids=range(17),
)
def test_forged_layers(files: dict[str, bytes], target: Path, change: Callable[[dict[str, Any]], None]):
    target.write_bytes(_resealed(files["packed"], change, target))
    with pytest.raises(FormatError):
        load(target, model=SmallNet(8))


def test_huge_example(files: dict[str, bytes], target: Path):
    forged = _resealed(
        files["packed"], lambda e: e["plan"].update({"inputs": [[1, 3, 2**20, 2**20]]}), target
    )
    target.write_bytes(forged)
    assert isinstance(load(target, model=SmallNet(8)), SmallNet)


@pytest.mark.parametrize("packed", [False, True])
def test_models_that_a_header_may_not_ask_for(tmp_path: Path, packed: bool):
    model = binarize.apply(create_timm("test_resnet"), "bidense")
    data = save(model, tmp_path / "m.safetensors", packed=packed).read_bytes()
    target = tmp_path / "forged.safetensors"
    for change in (
        lambda e: e["source"].update({"name": "vit_giant_patch14_224"}),
        lambda e: e["source"].update({"name": "test_vit", "kwargs": {"depth": 10**8, "embed_dim": 8}}),
        lambda e: e["source"].update({"kwargs": {"num_classes": 10**12}}),
        lambda e: e["source"].update({"kwargs": {"pretrained": True}}),
        lambda e: [swap.update({"to": "batch_norm", "channels": 10**10}) for swap in e["plan"]["swaps"]],
        lambda e: [swap.update({"channels": -1}) for swap in e["plan"]["swaps"]],
    ):
        target.write_bytes(_resealed(data, change, target))
        with pytest.raises(FormatError):
            load(target)


@pytest.mark.slow
def test_a_model_that_is_too_much_to_build(tmp_path: Path):
    model = binarize.apply(create_timm("test_resnet"), "bidense")
    target = save(model, tmp_path / "m.safetensors", packed=True)
    endless = {"source": "timm", "name": "test_vit", "kwargs": {"depth": 10**5, "embed_dim": 8}}
    target.write_bytes(_resealed(target.read_bytes(), lambda e: e.update({"source": endless}), target))
    with pytest.raises(FormatError, match="no end"):
        load(target)
