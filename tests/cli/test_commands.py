"""The commands as a user runs them: output, exit status, what is left behind."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import binarize
from binarize import cli
from binarize.cli.method_picture import surrogates

MODEL = "test_resnet?num_classes=3"
NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))

def tiny():
    return nn.Sequential(nn.ReLU(), nn.Flatten())
"""


@dataclass
class Result:
    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty folder; what it prints is checked to be plain text of at most 80 columns."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Result:
        status = cli.run(list(arguments))
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err
        assert "Traceback" not in err
        return Result(status, out, err)

    return call


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_convert(run: Run, tmp_path: Path):
    result = run("convert", MODEL, "--method", "bidense")
    assert result.status == 0, result.err
    assert _files(tmp_path) == ["test_resnet-num_classes-3-bidense.safetensors"]
    paths = str(tmp_path)
    assert all(len(line) <= 80 for line in result.out.splitlines() if paths not in line)
    assert "layer1.0.conv1" in result.out
    assert "engine" in result.out
    assert str(tmp_path / "test_resnet-num_classes-3-bidense.safetensors") in result.out
    model = binarize.load(tmp_path / "test_resnet-num_classes-3-bidense.safetensors")
    assert model.binarize_plan.method["name"] == "bidense"
    assert model.fc.out_features == 3


def test_convert_prints_one_json_document(run: Run, tmp_path: Path):
    result = run("convert", MODEL, "-m", "adabin", "--out", "a.safetensors", "--input-size", "64", "--json")
    assert result.status == 0, result.err
    document = json.loads(result.out)
    assert document["method"]["name"] == "adabin"
    assert document["input_size"] == [3, 64, 64]
    assert document["file"] == str(tmp_path / "a.safetensors")
    assert document["bytes"] == (tmp_path / "a.safetensors").stat().st_size
    assert {row["name"] for row in document["plan"]["rows"]} >= {"fc", "conv1.0"}
    binary = sum(
        p.numel() for n, p in binarize.load("a.safetensors").named_parameters() if _is_binary(n, document)
    )
    assert document["summary"]["binary_params"] == binary
    assert document["seconds"]["engine"] > 0


def _is_binary(name: str, document: dict) -> bool:
    owner, _, leaf = name.rpartition(".")
    return leaf == "weight" and any(r["name"] == owner and r["converted"] for r in document["plan"]["rows"])


def test_dry_run_writes_nothing(run: Run, tmp_path: Path):
    result = run("convert", MODEL, "--dry-run")
    assert result.status == 0
    assert "nothing was converted or written" in result.out
    assert _files(tmp_path) == []
    document = json.loads(run("convert", MODEL, "--dry-run", "--json").out)
    assert document["file"] is None
    assert _files(tmp_path) == []


def test_options_reach_method_and_policy(run: Run):
    result = run(
        *("convert", MODEL, "--dry-run", "--json", "--set", "granularity=layer", "--set", "ablation=6"),
        *("--keep", "layer2*", "--keep", "layer3.0.conv1", "--first", "2", "--last", "0"),
    )
    document = json.loads(result.out)
    assert document["method"]["options"]["granularity"] == "layer"
    assert document["method"]["options"]["ablation"] == 6
    assert document["plan"]["policy"] == {
        "keep": ["layer2*", "layer3.0.conv1"],
        "only": [],
        "first": 2,
        "last": 0,
    }
    rows = {row["name"]: row["converted"] for row in document["plan"]["rows"]}
    assert not any(converted for name, converted in rows.items() if name.startswith("layer2"))


def test_only(run: Run):
    document = json.loads(run("convert", MODEL, "--dry-run", "--json", "--only", "layer1*").out)
    assert all(row["name"].startswith("layer1") for row in document["plan"]["rows"] if row["converted"])


def test_checkpoint_weights_become_latent_weights(run: Run, tmp_path: Path):
    source = timm.create_model("test_resnet", num_classes=3)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "w.pth")
    result = run("convert", MODEL, "--checkpoint", "w.pth", "--out", "m.safetensors", "--json")
    loaded = f"{len(source.state_dict())} of {len(source.state_dict())} tensors, entry 'state_dict'"
    assert json.loads(result.out)["checkpoint"] == {"file": "w.pth", "entry": "state_dict", "loaded": loaded}
    model = binarize.load("m.safetensors")
    assert torch.equal(model.layer1[0].conv1.weight, source.layer1[0].conv1.weight)


@pytest.mark.parametrize(
    ("arguments", "weights", "words"),
    [
        ([MODEL], "random", ["random", "--pretrained", "--checkpoint FILE"]),
        (["upernet:test_resnet?width=8"], "random", ["random", "--pretrained", "--checkpoint FILE"]),
        ([MODEL, "--checkpoint", "w.pth"], "checkpoint", []),
        (["my.py:net"], "own", []),
    ],
)
def test_random_weights_are_named(
    run: Run, tmp_path: Path, arguments: list[str], weights: str, words: list[str]
):
    torch.save(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "w.pth")
    (tmp_path / "my.py").write_text(NET)
    command = ["convert", *arguments, "--out", "m.safetensors", "--input-size", "64", "--force"]
    document = run(*command, "--json")
    assert json.loads(document.out)["weights"] == weights
    texts = [document.err]
    if arguments in ([MODEL], ["my.py:net"]):
        texts.append(run(*command).out)
    for text in texts:
        assert all(word in text for word in words)
        assert words or "random numbers" not in text


def test_pretrained_weights_with_a_new_classifier(run: Run, monkeypatch: pytest.MonkeyPatch):
    original = timm.create_model
    # no download: what matters is what timm says about itself
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **kw: original(name, **kw))
    command = ["convert", "--pretrained", "--out", "m.safetensors", "--force", "--json"]
    whole, changed = run(*command, "test_resnet"), run(*command, MODEL)
    assert json.loads(whole.out)["weights"] == json.loads(changed.out)["weights"] == "pretrained"
    assert whole.err == ""
    assert "classifier of 3 classes is random" in changed.err


def test_equal_commands_write_equal_files(run: Run, tmp_path: Path):
    written = []
    for _ in range(2):
        torch.rand(3)  # whatever was drawn before
        run("convert", MODEL, "--out", "m.safetensors", "--force")
        run("deploy", "m.safetensors", "--force")
        written.append([(tmp_path / name).read_bytes() for name in ("m.safetensors", "m-packed.safetensors")])
    assert written[0] == written[1]


def test_a_model_in_a_file(run: Run, tmp_path: Path):
    (tmp_path / "my.py").write_text("print('printed by the file')\n" + NET)
    result = run("convert", "my.py:net", "--input-size", "32", "--json")
    assert result.status == 0, result.err
    assert json.loads(result.out)["file"].endswith("my-net-bidense.safetensors")
    assert "printed by the file" in result.err
    refused = run("summary", "my-net-bidense.safetensors", "--input-size", "32")
    assert refused.status == 2
    assert "--model FILE.py:CALLABLE" in refused.err
    counted = run(
        "summary", "my-net-bidense.safetensors", "--input-size", "32", "--model", "my.py:net", "--json"
    )
    assert json.loads(counted.out)["summary"]["binary_params"] == 8 * 8 * 9


def test_summary_of_a_file_and_of_a_model(run: Run):
    run("convert", MODEL, "--out", "m.safetensors")
    converted = json.loads(run("summary", "m.safetensors", "--json").out)
    assert converted["input_size"] == [3, 160, 160]
    in_float = json.loads(run("summary", MODEL, "--json").out)
    assert in_float["summary"]["binary_params"] == 0
    assert converted["summary"]["binary_params"] > 0
    table = run("summary", "m.safetensors", "--input-size", "64x96")
    assert table.status == 0
    assert all(len(line) <= 80 for line in table.out.splitlines())
    paper = run("summary", "m.safetensors", "--convention", "paper", "--json")
    assert json.loads(paper.out)["summary"]["params"] != converted["summary"]["params"]


def test_methods(run: Run):
    result = run("methods")
    assert result.status == 0
    assert all(len(line) <= 80 for line in result.out.splitlines())
    for name in binarize.methods.names():
        assert name in result.out
    assert "granularity" in result.out
    listed = json.loads(run("methods", "--json").out)
    assert listed["bidense"]["options"]["ablation"] == {"takes": "an integer", "default": 0}
    assert listed["bidense"]["year"] == 2024
    assert (listed["bnn"]["weight_bits"], listed["bnn"]["activation_bits"]) == (1, 1)
    costs = {n: (m["per_channel"], m["constant"], m["activation_per_channel"]) for n, m in listed.items()}
    assert costs["bidense"] == (5, 0, 3)  # a, k, b and the norm's two; RPReLU
    assert costs["bnn"] == (2, 0, 0)
    assert costs["bisrnet"] == (5, 1, 0)  # k and b, beta, RPReLU inside
    assert costs["rbnn"] == (4, 0, 0)  # alpha, angle and the norm's two
    assert costs["bit"] == (3, 1, 0)
    assert costs["groupnet"] == (10, 5, 0)  # of each base the norm's two, and its scale
    assert costs["cbnn"] == (14, 0, 0)  # of each branch a shift, the norm's two, RPReLU's three, and a link
    layers = {name: m["layers"] for name, m in listed.items() if m["layers"] > 1}
    assert layers == {"groupnet": 5, "cbnn": 2}
    assert "5 x W1A1" in result.out
    assert {m["packed"] for m in listed.values()} <= {"kernels", "torch"}
    assert all(bool(m["reason"]) == (m["packed"] != "kernels") for m in listed.values())


def test_drawn_gradients_are_of_single_weights_for_all_of_training():
    values, _, weights = surrogates(binarize.methods.create("rbnn"), 1.0)
    assert torch.allclose(weights, weights.flip(0), atol=1e-5)  # rotated weights would be mixed with others
    assert float(weights[values.abs() > 0.5].abs().max()) < float(weights.max())


def test_a_method_is_shown_with_its_gradients(run: Run):
    shown = run("methods", "show", "irnet", "--set", "t_max=5", "--plot", "irnet.png")
    assert shown.status == 0
    assert "\nDepartures:" in shown.out
    for name in binarize.methods.names():
        assert max(map(len, run("methods", "show", name).out.splitlines())) <= 80, name
    assert "2 C" in shown.out
    with Image.open("irnet.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    colours = {tuple(c) for c in np.unique(pixels, axis=0).tolist()}
    assert {(0, 114, 178), (213, 94, 0), (0, 158, 115)} <= colours  # start, middle and end of training
    again = run("methods", "show", "irnet", "--plot", "irnet.png")
    assert (again.status, "exists already" in again.err) == (2, True)
    assert run("methods", "show", "irnet", "--plot", "irnet.pdf").status == 2
    assert "did you mean 'irnet'" in run("methods", "show", "irnett").err
    assert json.loads(run("methods", "show", "xnor", "--json").out)["year"] == 2016


@pytest.mark.parametrize("method", ["irnet", "recu", "bireal"])
def test_curves_are_those_of_the_formulas(method: str):
    values, activations, weights = surrogates(binarize.methods.create(method), 1.0)
    if method == "irnet":
        assert torch.allclose(activations, 10 / torch.cosh(10 * values) ** 2, atol=1e-4)
    else:
        assert torch.allclose(activations, (2 - 2 * values.abs()).clamp_min(0), atol=1e-5)
    if method == "bireal":
        assert torch.equal(weights, (values.abs() <= 1).float())
    if method == "recu":
        assert float(weights[1:-1].min()) > 0  # tau is 0.99


def test_models(run: Run):
    lines = run("models").out.splitlines()
    assert set(timm.list_models()) < set(lines)
    assert run("models", "test_resnet").out.splitlines() == timm.list_models("*test_resnet*")
    assert run("models", "Test_ResNet").out.splitlines() == timm.list_models("*test_resnet*")
    assert run("models", "upernet").out.splitlines() == ["upernet:ENCODER"]
    assert run("models", "convnext_tin?").out.splitlines() == ["convnext_tiny"]
    nothing = run("models", "rsenet18")
    assert (nothing.status, nothing.out) == (2, "")
    assert "did you mean resnet18" in nothing.err


def test_version_and_help(run: Run):
    assert run("--version").out == f"binarize {binarize.__version__}\n"
    for arguments in ([], ["convert"], ["summary"], ["methods"], ["models"]):
        result = run(*arguments, "--help")
        assert result.status == 0
        assert all(len(line) <= 80 for line in result.out.splitlines())


BAD_INPUT = [
    (["convert", "resnet_18"], "unknown timm model 'resnet_18': did you mean"),
    (["bench", "nothere.safetensors"], "'nothere.safetensors': there is no such file."),
    (["summary", "nothere.safetensors"], "'nothere.safetensors': there is no such file."),
    (["bench", "zoo:camvid-bn"], "unknown network in the zoo 'camvid-bn': did you mean 'camvid-bnn'"),
    (["summary", "zoo:camvid-bn"], "unknown network in the zoo 'camvid-bn': did you mean 'camvid-bnn'"),
    (["convert", "zzzqqq"], "names is near; `binarize models` lists them."),
    (["convert", MODEL, "--method", "bidens"], "unknown method 'bidens': did you mean 'bidense'"),
    (["convert", MODEL, "--set", "granularty=layer"], "unknown option of bidense 'granularty': did you mean"),
    (["convert", MODEL, "--set", "granularty=layer"], "granularity: one of 'channel', 'group', 'layer'"),
    (["convert", MODEL, "--set", "granularity=row"], "expected one of 'channel', 'group', 'layer'"),
    (["convert", MODEL, "--set", "ablation=many"], "expected an integer"),
    (["convert", MODEL, "--set", "ablation=99"], "expected a row of Table 4"),
    (["convert", MODEL, "--set", "granularity"], "expected NAME=VALUE, for instance granularity=layer"),
    (["convert", MODEL, "--set", "ablation=1", "--set", "ablation=2"], "given twice"),
    (["convert", MODEL, "-m", "bnn", "--set", "granularity=layer"], "bnn"),
    (["convert", MODEL, "--keep", "layr1*"], "matches none of the"),
    (["convert", MODEL, "--only", "nothing*"], "matches none of the"),
    (["convert", MODEL, "--keep", "*"], "none of the 16 layers of ResNet can be converted"),
    (["convert", "net.py:tiny"], "no "),
    (["convert", MODEL, "--checkpoint", "other.safetensors"], "another architecture, 0 of"),
    (["convert", MODEL, "--checkpoint", "classes.safetensors"], "'fc' has 1000 classes, the model's has 3"),
    (["convert", MODEL, "--checkpoint", "truncated.safetensors"], "truncated or corrupted"),
    (["convert", MODEL, "--checkpoint", "none.pth"], "no such file"),
    (["convert", MODEL, "--out", "none/m.safetensors"], "no directory"),
    (["convert", MODEL, "--out", "."], "is a directory"),
    (["convert", MODEL, "--out", "/dev/full"], "not a regular file"),
    (["convert", MODEL, "--out", "other.safetensors"], "exists already; replace it with --force"),
    (["convert", MODEL, "--input-size", "wide"], "expected 224"),
    (["convert", MODEL, "--input-size", "0"], "at least 1"),
    (["convert", MODEL, "--input-size", "5,64,64"], "input"),
    (["convert", MODEL, "--first", "-1"], "--first"),
    (["convert", MODEL, "--pretrained", "--checkpoint", "other.safetensors"], "cannot be used together"),
    (["convert"], "Missing argument"),
    (["convert", MODEL, "--methd", "bnn"], "No such option"),
    (["summary", "none.safetensors"], "no such file"),
    (["summary", "truncated.safetensors"], "truncated or corrupted"),
    (["summary", "other.safetensors"], "not written by binarize"),
    (["summary", "newer.safetensors"], "version 2; this binarize reads versions up to 1"),
    (["summary", MODEL, "--convention", "kind"], "'kind' is not one of 'honest', 'paper'"),
    (["summary", MODEL, "--model", "net.py:net"], "is a model itself"),
    (["nothing"], "No such command"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT)
def test_bad_input(run: Run, tmp_path: Path, arguments: list[str], message: str):
    (tmp_path / "net.py").write_text(NET)
    save_file({"other.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "classes.safetensors")
    newer = {"binarize": json.dumps({"format": "binarize-model", "version": 2})}
    save_file({"a": torch.zeros(1)}, tmp_path / "newer.safetensors", metadata=newer)
    (tmp_path / "truncated.safetensors").write_bytes((tmp_path / "classes.safetensors").read_bytes()[:-5])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    result = run(*arguments)
    assert result.status == 2
    assert result.out == ""
    assert message in " ".join(result.err.split())
    left = {path: path.read_bytes() for path in tmp_path.iterdir() if path.name != "__pycache__"}
    assert left == before


def test_force_replaces_a_file(run: Run, tmp_path: Path):
    (tmp_path / "m.safetensors").write_text("old")
    assert run("convert", MODEL, "--out", "m.safetensors", "--force").status == 0
    assert binarize.load("m.safetensors") is not None


def test_a_full_disk(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    result = run("convert", MODEL)
    assert result.status == 2
    assert "no space left on device" in result.err
    assert _files(tmp_path) == []


def test_an_interrupt(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    result = run("convert", MODEL)
    assert result.status == 130
    assert result.err.strip() == "Interrupted."
    assert _files(tmp_path) == []


def test_a_defect_shows_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch):
    import binarize.graph

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(binarize.graph, "plan", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        run("convert", MODEL)


SCRIPT = Path(sys.executable).parent / "binarize"
COMMAND = [sys.executable, "-m", "binarize"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(binarize.__file__).parents[1])}


def _command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": ENVIRONMENT, **options}
    return subprocess.run([*COMMAND, *arguments], stdin=subprocess.DEVNULL, text=True, check=False, **options)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_printed():
    with Path("/dev/full").open("w") as full:
        done = _command("--help", stdout=full)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: cannot write the output")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_reader_that_leaves_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    done = _command("--help", stdout=writer)
    os.close(writer)
    assert done.stderr == ""


def test_no_colours_in_a_pipe_whatever_the_environment_says(tmp_path: Path):
    environment = {**ENVIRONMENT, "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "COLUMNS": "200"}
    done = _command("methods", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


@pytest.mark.slow
def test_a_real_disk_limit(tmp_path: Path):
    """The operating system refuses the write half way: the file may have 100 kB, the model is larger."""
    code = (
        "import resource, sys\n"
        "from binarize.cli import run\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        f"sys.exit(run(['convert', {MODEL!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    assert _files(tmp_path) == []


@pytest.mark.slow
def test_the_command_of_the_readme(tmp_path: Path):
    command = [str(SCRIPT)] if SCRIPT.exists() else COMMAND
    done = subprocess.run(
        [*command, "convert", "--method", "bidense", "convnext_tiny"],
        cwd=tmp_path, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert _files(tmp_path) == ["convnext_tiny-bidense.safetensors"]
    assert binarize.load(tmp_path / "convnext_tiny-bidense.safetensors").num_classes == 1000


@pytest.mark.parametrize("name", ["convert", "deploy", "export", "train", "predict", "compare", "bench"])
def test_commands_that_write_name_the_file_alike(name: str) -> None:
    option = next(p for p in cli.cli.commands[name].params if p.name == "out")
    assert {"-o", "--out", "--output"} <= set(option.opts)
