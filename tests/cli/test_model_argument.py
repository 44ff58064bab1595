"""The MODEL argument: timm names, network specs, callables in files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

from binarize.cli import run
from binarize.cli.model import label, resolve, with_channels
from binarize.cli.options import InputSize, default_out
from binarize.errors import ConfigError
from binarize.model_info import input_size

FILE = """
from torch import nn

WIDTH = 4

def net(width: int = WIDTH) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.Conv2d(width, width, 3))

class Net(nn.Module):
    pass

def wrong():
    return 3

def failing():
    import json
    return json.loads("{")

def leaving():
    raise SystemExit(3)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my-net.py"
    path.write_text(FILE)
    return path


def test_timm_models():
    assert resolve("test_resnet").binarize_spec == {"source": "timm", "name": "test_resnet", "kwargs": {}}
    model = resolve("test_resnet?num_classes=3&in_chans=1")
    assert model.fc.out_features == 3
    assert input_size(model) == (1, 160, 160)


def test_networks():
    model = resolve("upernet:test_resnet?num_classes=4")
    assert model.binarize_spec["source"] == "networks"
    assert model.head.classifier.out_channels == 4


def test_callables_in_files(file: Path):
    path = list(sys.path)
    assert len(resolve(f"{file}:net")) == 2
    assert resolve(f"{file}:net?width=6")[0].out_channels == 6
    assert isinstance(resolve(f"{file}:Net"), nn.Module)
    assert sys.path == path


def test_a_file_may_import_its_neighbours(tmp_path: Path):
    (tmp_path / "neighbour_of_net.py").write_text("WIDTH = 5\n")
    (tmp_path / "b.py").write_text(
        "def net():\n    from torch import nn\n    from neighbour_of_net import WIDTH\n"
        "    return nn.Conv2d(3, WIDTH, 3)\n"
    )
    assert resolve(f"{tmp_path / 'b.py'}:net").out_channels == 5


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("resnet_18", r"unknown timm model 'resnet_18': did you mean .*resnet18"),
        ("resnet18.no_tag", "Invalid pretrained tag"),
        ("test_resnet?num_classes", "expected NAME=VALUE"),
        ("test_resnet?num_classes=3&num_classes=4", "given twice"),
        ("test_resnet?nonsense=3", "unexpected keyword argument 'nonsense'"),
        ("test_resnet?pretrained=true", "cannot be set"),
        ("upernett:test_resnet", "unknown network 'upernett': did you mean 'upernet'"),
        ("upernet:tset_resnet", "unknown encoder 'tset_resnet': did you mean 'test_resnet"),
        ("upernet:test_resnet?num_classes=many", "cannot be built|expected"),
        ("hf-hub:a/b", "unknown network"),
        ("none.py:net", "there is no file"),
        ("", "unknown timm model ''"),
    ],
)
def test_unknown_models(text: str, match: str):
    with pytest.raises(ConfigError, match=match):
        resolve(text)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("", "name a callable"),
        (":", "name a callable"),
        (":nett", "has no 'nett'; did you mean net"),
        (":WIDTH", "'WIDTH' is an int, expected a callable"),
        (":wrong", r"wrong\(\) returned an int, expected a torch.nn.Module"),
        (":failing", r"failing\(\) failed: json.*JSONDecodeError: .*my-net.py, line 17"),
        (":leaving", r"leaving\(\) failed: SystemExit: 3"),
        (":net?height=3", r"unknown option of net\(\) 'height': .*'width'"),
    ],
)
def test_callables_that_give_no_model(file: Path, name: str, match: str):
    with pytest.raises(ConfigError, match=match):
        resolve(f"{file}{name}")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("def net(:\n", "SyntaxError"),
        ("import no_such_module_at_all\n", "ModuleNotFoundError: .*line 1"),
        ("raise SystemExit(1)\n", "SystemExit: 1"),
        ("\0", "importing bad.py failed"),
    ],
)
def test_files_that_cannot_be_imported(tmp_path: Path, content: str, match: str):
    (tmp_path / "bad.py").write_text(content)
    path = list(sys.path)
    with pytest.raises(ConfigError, match=match):
        resolve(f"{tmp_path / 'bad.py'}:net")
    assert sys.path == path


def test_pretrained_weights_that_cannot_be_had():
    with pytest.raises(ConfigError, match="cannot be built with its pretrained weights"):
        resolve("test_resnet", pretrained=True)
    with pytest.raises(ConfigError, match="pretrained weights cannot be loaded"):
        resolve("upernet:test_resnet", pretrained=True)
    with pytest.raises(ConfigError, match="--pretrained is for timm models"):
        resolve("file.py:net", pretrained=True)


@pytest.mark.parametrize(
    ("text", "size"),
    [("224", (224, 224)), ("480x640", (480, 640)), ("480,640", (480, 640)), ("1,32,64", (1, 32, 64))],
)
def test_input_sizes(text: str, size: tuple[int, ...]):
    assert InputSize().convert(text, None, None) == size


def test_channels_come_from_the_model():
    model = resolve("test_resnet?in_chans=2")
    assert with_channels(None, model) == (2, 160, 160)
    assert with_channels((32, 48), model) == (2, 32, 48)
    assert with_channels((1, 32, 48), model) == (1, 32, 48)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("convnext_tiny", "convnext_tiny-bnn.safetensors"),
        ("resnet18.a1_in1k?num_classes=10", "resnet18.a1_in1k-num_classes-10-bnn.safetensors"),
        ("upernet:convnext_tiny?num_classes=19", "upernet-convnext_tiny-num_classes-19-bnn.safetensors"),
        ("../../a b/my net.py:build", "my-net-build-bnn.safetensors"),
    ],
)
def test_default_names_of_files(text: str, name: str):
    assert default_out(label(text), "bnn") == Path(name)


def test_a_network_that_takes_no_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "nets.py").write_text(
        """
from torch import nn

class Rec(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.rnn, self.head = nn.Conv1d(4, 8, 3), nn.LSTM(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.rnn(self.conv(x).transpose(1, 2))[0])

class Picky(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(5, 8, 3), nn.Conv2d(8, 2, 3))
"""
    )
    assert run(["convert", f"{tmp_path}/nets.py:Rec", "--dry-run"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "Convert it in Python: binarize.apply(model, " in said
    assert "--input-size" not in said
    assert run(["convert", f"{tmp_path}/nets.py:Picky", "--input-size", "3,8,8", "--dry-run"]) == 2
    assert "--input-size" in capsys.readouterr().err


def test_paths_that_name_no_model(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    with pytest.raises(ConfigError, match="run is a folder without a trained network"):
        resolve("run")
    for command in ("summary", "convert", "bench"):
        assert run([command, file.name]) == 2
        assert "name a callable" in " ".join(capsys.readouterr().err.split())
    Path("notes.txt").touch()
    with pytest.raises(ConfigError, match=r"notes\.txt is a file, but not of a network"):
        resolve("notes.txt")
    Path("test_resnet").mkdir()
    assert resolve("test_resnet").binarize_spec["name"] == "test_resnet"
