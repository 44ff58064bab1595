"""What images go through before a network: in files, in packed files and in ONNX models."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import small_net
import torch
import yaml
from torch import Tensor, nn

import binarize
from binarize.cli import run
from binarize.data.transforms import MEAN, STD
from binarize.errors import ConfigError, FormatError
from binarize.files import container, create_timm, load, read_preprocessing, save
from binarize.preprocessing import ENTRY, Preprocessing, preprocessing_of
from binarize.runtime import to_onnx
from binarize.runtime.onnx import output_names

OWN = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "size": [20, 30]}


def test_a_converted_model_of_timm_says_what_timm_says(tmp_path: Path):
    model = create_timm("test_resnet")
    config = model.pretrained_cfg
    file = save(binarize.apply(model, "bnn"), tmp_path / "a.safetensors")
    found = read_preprocessing(file)
    assert found is not None
    assert (found.mean, found.std) == (tuple(config["mean"]), tuple(config["std"]))
    assert found.size == tuple(config["input_size"][1:])
    assert (found.interpolation, found.crop_pct) == (config["interpolation"], config["crop_pct"])
    assert preprocessing_of(load(file)) == found


@pytest.mark.slow
def test_it_survives_packing_and_the_size_is_that_of_the_conversion(tmp_path: Path):
    model = create_timm("test_vit")
    model.binarize_preprocessing = OWN
    converted = binarize.apply(model, "bnn")
    packed = save(load(save(converted, tmp_path / "a.safetensors")), tmp_path / "p.safetensors", packed=True)
    assert read_preprocessing(packed) == Preprocessing.from_dict(OWN)
    small = binarize.apply(create_timm("test_resnet"), "bnn", example_inputs=torch.zeros(1, 3, 64, 96))
    found = preprocessing_of(small)
    assert found is not None
    assert found.size == (64, 96)


def test_an_encoder_speaks_for_its_network():
    net = binarize.networks.create("upernet:test_vit?num_classes=3")
    found = preprocessing_of(net)
    assert found is not None
    assert found.mean == tuple(net.encoder.pretrained_cfg["mean"])
    assert found.crop_pct is None


def test_nothing_is_made_up(tmp_path: Path):
    assert preprocessing_of(nn.Sequential(nn.Conv2d(3, 4, 1))) is None
    grey = binarize.apply(create_timm("test_resnet", in_chans=1), "bnn")
    assert preprocessing_of(grey) is None
    file = save(grey, tmp_path / "x.safetensors")
    assert ENTRY not in container.read_metadata(file)  # as in files of earlier versions
    assert read_preprocessing(file) is None
    assert read_preprocessing("zoo:camvid-bnn") is None
    assert preprocessing_of(load(file)) is None


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"mean": [1], "std": [1, 2]}', '{"mean": "a", "std": "b"}', "{"]
)
def test_a_damaged_entry(tmp_path: Path, text: str):
    file = save(create_timm("test_resnet"), tmp_path / "x.safetensors", entries={ENTRY: text})
    with pytest.raises(FormatError, match=r"is corrupted: its 'binarize\.preprocessing' entry"):
        load(file)


def test_an_attribute_that_is_none():
    model = nn.Conv2d(3, 4, 1)
    model.binarize_preprocessing = {"mean": [0.5]}  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="expected mean and std"):
        preprocessing_of(model)


def test_a_trained_network_says_what_its_recipe_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    values = small_net.values(epochs=1)
    values["data"]["evaluation"]["short_side"] = 40
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    assert run(["train", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run")]) == 0
    file = tmp_path / "run/model.safetensors"
    assert read_preprocessing(file) == Preprocessing(mean=MEAN, std=STD, size=(32, 32), short_side=40)
    capsys.readouterr()
    assert run(["deploy", str(file), "--out", str(tmp_path / "p.safetensors"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["preprocessing"]["mean"] == list(MEAN)
    assert read_preprocessing(tmp_path / "p.safetensors") == read_preprocessing(file)


@dataclasses.dataclass
class Out:
    depth: Tensor


ONE = torch.zeros(1)


@pytest.mark.parametrize(
    ("output", "names"),
    [
        (ONE, ["logits"]),
        ((ONE, ONE), ["logits_0", "logits_1"]),
        ({"out": ONE, "aux": ONE}, ["out", "aux"]),
        ({"a b": [ONE, ONE], "image": ONE}, ["a_b_0", "a_b_1", "image_"]),
        ((ONE, {"a": ONE, "b": None}), ["logits_0", "logits_1_a"]),
    ],
)
def test_names_of_outputs(output: Any, names: list[str]):
    assert output_names(output, "logits") == names


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.body(x)
        return {"labels": self.out(y), "features": y}


@pytest.mark.filterwarnings("ignore")  # of the exporter's own packages
@pytest.mark.slow
def test_onnx_models_say_it_too():
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    model = Two()
    model.binarize_preprocessing = OWN  # type: ignore[assignment]
    packed = binarize.deploy(binarize.apply(model, "bnn", example_inputs=torch.zeros(1, 3, 8, 8)))
    data = to_onnx(packed, (8, 12), metadata={"binarize.truth": "{}"})
    proto = onnx.load_from_string(data)
    assert [value.name for value in proto.graph.input] == ["image"]
    assert [value.name for value in proto.graph.output] == ["labels", "features"]
    entries = {entry.key: entry.value for entry in proto.metadata_props}
    assert entries["binarize.truth"] == "{}"
    found = Preprocessing.from_dict(json.loads(entries[ENTRY]))
    assert found == Preprocessing.from_dict({**OWN, "size": [8, 12]})
    assert "mean 0.1 0.2 0.3" in proto.doc_string
    assert b"site-packages" not in data  # lines of source and paths of this machine
    assert str(Path(binarize.__file__).parent).encode() not in data
    assert data == to_onnx(packed, (8, 12), metadata={"binarize.truth": "{}"})
