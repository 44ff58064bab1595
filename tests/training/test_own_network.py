"""Networks of the user's own in recipes: trained, evaluated, predicted, deployed, read again."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import own_nets
import pytest
import small_net
import torch
import yaml
from PIL import Image
from torch import nn

import binarize
from binarize import recipes
from binarize.cli import run
from binarize.errors import BinarizeWarning, ConfigError
from binarize.training import build, saved
from binarize.training.build import network
from binarize.training.loop import train
from binarize.user_code import Code


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("BINARIZE_TRUST_CODE", raising=False)


def recipe(folder: Path, chosen: dict[str, Any], *, task: str = "segmentation", **more: Any) -> Path:
    """A recipe file beside `nets.py`."""
    own_nets.write(folder)
    values = {**small_net.values(epochs=1), "network": chosen, **more}
    values["data"]["options"]["task"] = task
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def trained(path: Path, out: Path, *settings: str) -> Path:
    """The folder of a run."""
    said: list[str] = []
    train(recipes.load(path, settings, build.faults), out, tell=said.append)
    return out


@pytest.mark.parametrize(("task", "chosen", "outputs"), [
    ("segmentation", {"name": "nets.py:unet", "options": {"width": 4}}, (1, 6, 32, 32)),
    ("depth", {"name": "nets.py:Depth?width=4"}, (1, 32, 32)),
])  # fmt: skip
def test_the_whole_way(
    task: str, chosen: dict[str, Any], outputs: tuple[int, ...], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path, out = recipe(tmp_path, chosen, task=task), tmp_path / "run"
    assert run(["train", str(path), "--out", str(out)]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert run(["evaluate", str(out), "--json"]) == 0
    before = json.loads(capsys.readouterr().out)
    Image.new("RGB", (42, 70)).save(tmp_path / "x.png")
    assert run(["predict", str(out), str(tmp_path / "x.png"), "--out", str(tmp_path / "made")]) == 0
    assert "an image of 42x70 (width x height) is resized to 44x72" in " ".join(
        capsys.readouterr().err.split()
    )
    with Image.open(tmp_path / "made/x.png") as made:
        assert made.size == (42, 70)
    assert run(["summary", str(out)]) == 0
    packed = tmp_path / "packed.safetensors"
    assert run(["deploy", str(out), "--out", str(packed)]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert run(["evaluate", str(packed), "--json"]) == 0, capsys.readouterr().err
    after = json.loads(capsys.readouterr().out)
    figure = "miou" if task == "segmentation" else "abs_rel"
    assert after[figure] == pytest.approx(before[figure], abs=0.02)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        full, small = (binarize.load(file)(x) for file in (out / "model.safetensors", packed))
    assert full.shape == small.shape == outputs
    name = "UNet" if task == "segmentation" else "Depth"
    assert type(binarize.load(packed)).__name__ == name
    net = binarize.load(out / "model.safetensors")  # written again in Python, the file still names the code
    again = binarize.save(net, tmp_path / "again.safetensors")
    small = binarize.save(binarize.deploy(net), tmp_path / "small.safetensors", packed=True)
    assert {type(binarize.load(file)).__name__ for file in (again, small)} == {name}


def test_learning_from_a_float_run_of_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(tmp_path, {"name": "nets.py:unet", "options": {"width": 4}})
    floats = trained(path, tmp_path / "float", "method=null")
    learning = [f"training.start_from={floats}", f"training.distillation.teacher={floats}"]
    binary = trained(path, tmp_path / "binary", *learning)
    assert run(["compare", str(floats), str(binary), "--out", str(tmp_path / "table")]) == 0
    assert "nets.py:unet, width=4" in capsys.readouterr().out
    assert run(["train", str(path), "--out", str(binary), "--resume", *sets(learning)]) == 0
    assert "complete run" in capsys.readouterr().out


def sets(settings: list[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


@pytest.mark.parametrize(("kind", "output"), [
    ("tuple", 1), ("dict", "out"), ("result", "logits"), ("training", 0),
])  # fmt: skip
def test_networks_that_return_several_coarse_maps(kind: str, output: str | int, tmp_path: Path) -> None:
    chosen = {"name": "nets.py:Several", "options": {"kind": kind}, "output": output}
    said: list[str] = []
    train(recipes.load(recipe(tmp_path, chosen)), tmp_path / "run", tell=said.append)
    assert "network: maps of 8x8 for images of 32x32, resized bilinearly for loss and evaluation" in said
    assert run(["evaluate", str(tmp_path / "run")]) == 0
    Image.new("RGB", (40, 36)).save(tmp_path / "x.png")
    made = str(tmp_path / "made")
    assert run(["predict", str(tmp_path / "run"), str(tmp_path / "x.png"), "--out", made]) == 0
    teacher = [f"training.distillation.teacher={tmp_path / 'run'}"]
    trained(tmp_path / "own.yaml", tmp_path / "student", *teacher)


@pytest.mark.parametrize(("chosen", "message"), [
    ({"name": "nets.py:unet", "options": {"num_classes": 7}}, r"has 7 classes, the data set has 6; let the"),
    ({"name": "nets.py:unet", "options": {"num_classes": 5}}, r"has 5 classes, the data set has 6; set nu"),
    ({"name": "nets.py:unett"}, r"own.yaml, line \d+: network.name: .*has no 'unett'; did you mean unet"),
    ({"name": "nets.py:unet", "options": {"widht": 4}}, r"unknown option of unet\(\) 'widht': .* 'width'"),
    ({"name": "nets.py:unet", "encoder": "resnet18"}, "takes no encoder: leave network.encoder out"),
    ({"name": "nets.py:unet", "pretrained": True}, "takes no argument `pretrained`"),
    ({"name": "nets.py:UNet"}, r"UNet\(\) needs outputs, and nothing gives"),
    ({"name": "netz.py:unet"}, "there is no file 'netz.py'"),
    ({"name": "nets.py"}, "name a callable in the file"),
    ({"name": "nets.py:block"}, r"nets.py:block\?inputs=VALUE&outputs=VALUE', or in a recipe"),
    ({"name": "nets.py:Several", "options": {"kind": "dict"}}, "for instance network.output: out"),
    ({"name": "nets.py:Several", "options": {"kind": "dict"}, "output": "aux"}, "has 1 classes, the data"),
    ({"name": "nets.py:Depth", "options": {"max_depth": 3}}, "has 1 classes, the data set has 6"),
    ({"name": "timm:test_resnet"}, r"gives a tensor \(1, 6\), .* a classifier of whole images; .*'upernet:"),
    ({"name": "timm:test_resnett"}, "unknown timm model 'test_resnett': did you mean 'test_resnet"),
    ({"name": "no_such_module_here:unet"}, "unknown network 'no_such_module_here'"),
    ({"name": "upernett"}, "unknown network 'upernett': did you mean 'upernet'"),
    ({"name": "upernet"}, r"own.yaml, line \d+: network: upernet needs an encoder"),
    ({"name": "upernet:test_resnet", "encoder": "test_vit"}, "the encoder is given twice"),
])  # fmt: skip
def test_a_training_does_not_begin(chosen: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = recipe(tmp_path, chosen)
    with pytest.raises(ConfigError, match=message):
        trained(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("body", "message"), [
    ("return self.net(x) + undefined", r"^the network's forward fails: NameError: .* \(own.py, line 7\)\.$"),
    ("return {'a': self.net(x)} if self.training else self.net(x)", r"^in training .* a dict \(a: tensor"),
    ("return self.net(x) if not self.training else self.other(x)",
     r"^in training the network's forward fails: AttributeError: .*'other' \(own.py, line 7\)\.$"),
])  # fmt: skip
def test_a_forward_with_a_mistake(
    body: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\nclass Own(nn.Module):\n    def __init__(self, num_classes):\n"
        "        super().__init__()\n        self.net = nn.Conv2d(3, num_classes, 1)\n"
        f"    def forward(self, x):\n        {body}\n"
    )
    path = recipe(tmp_path, {"name": "own.py:Own"}, method=None)
    with pytest.raises(ConfigError, match=message):
        trained(path, tmp_path / "run")
    assert run(["train", str(path), "--out", str(tmp_path / "run")]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_two_files_have_their_own_neighbours_of_one_name(tmp_path: Path) -> None:
    for folder, activation in (("a", "ReLU"), ("b", "Tanh")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "blocks_of_a_test.py").write_text(
            f"from torch.nn import {activation} as Chosen\n"
        )
        (tmp_path / folder / "nets.py").write_text(
            "from torch import nn\nfrom blocks_of_a_test import Chosen\n"
            "def net(late=False):\n    if late:\n        from blocks_of_a_test import Chosen as Found\n"
            "        return Found()\n    return Chosen()\n"
        )
    first, second = (Code(str(tmp_path / folder / "nets.py:net"), None) for folder in "ab")
    built = [code.build(late=late) for late in (False, True) for code in (first, second)]
    assert [type(net) for net in built] == [nn.ReLU, nn.Tanh, nn.ReLU, nn.Tanh]


def test_a_training_says_what_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(tmp_path, {"name": "nets.py:unet", "options": {"width": 4}})
    assert run(["train", str(path), "--out", str(tmp_path / "run")]) == 0
    first, second, third = capsys.readouterr().out.splitlines()[:3]
    method, images = (yaml.safe_load(path.read_text())[part] for part in ("method", "data"))
    assert first == f"recipe   {path}"
    assert second.startswith(f"network  nets.py:unet, {method['name']}: ")
    assert " in 9 layers, " in second
    assert third.startswith(f"data     shapes: {images['options']['length']} images of train, ")


def test_a_run_that_goes_on_loads_no_pretrained_weights(tmp_path: Path) -> None:
    (tmp_path / "asked.py").write_text(
        "from torch import nn\ndef net(num_classes, pretrained):\n"
        "    assert not pretrained\n    return nn.Conv2d(3, num_classes, 1)\n"
    )
    chosen = {"name": "asked.py:net", "options": {"pretrained": True}}
    found = recipes.load(recipe(tmp_path, chosen, method=None))
    truth = build.dataset(found, "train").truth
    network(found, truth, weights=False)
    with pytest.raises(ConfigError, match="AssertionError"):
        network(found, truth)


def test_depth_that_is_no_depth(tmp_path: Path) -> None:
    path = recipe(tmp_path, {"name": "nets.py:unet", "options": {"num_classes": 3}}, task="depth")
    with pytest.raises(ConfigError, match="gives 3 channels, expected metres"):
        trained(path, tmp_path / "run")


@pytest.mark.parametrize(("takes", "task", "given"), [
    ("num_classes", "segmentation", {"num_classes": 6}),
    ("classes, n_classes=2", "segmentation", {"classes": 6, "n_classes": 6}),
    ("*, num_labels, task", "segmentation", {"num_labels": 6, "task": "segmentation"}),
    ("max_depth, min_depth", "depth", {"max_depth": 10.0, "min_depth": 1e-3}),
    ("classes", "depth", {"classes": 1}),
    ("task, num_classes=9, max_depth=1", "depth", {"task": "depth", "num_classes": 9, "max_depth": 10.0}),
    ("encoder, pretrained", "depth", {"encoder": "resnet18", "pretrained": False}),
    ("**more", "segmentation", {"more": {}}),
])  # fmt: skip
def test_what_is_handed_over(takes: str, task: str, given: dict[str, Any], tmp_path: Path) -> None:
    outputs = 6 if task == "segmentation" else 1
    (tmp_path / "asked.py").write_text(
        f"from torch import nn\ndef net({takes}):\n    given = dict(locals())\n"
        f"    made = nn.Conv2d(3, {outputs}, 1)\n    made.given = given\n    return made\n"
    )
    chosen = {"name": "asked.py:net", "encoder": "resnet18" if "encoder" in takes else None}
    found = recipes.load(recipe(tmp_path, chosen, task=task, method=None))
    net: Any = network(found, build.dataset(found, "train").truth)
    assert net.given == given


def test_paths_start_at_the_recipe_or_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets").mkdir()
    (tmp_path / "other").mkdir()
    path = recipe(tmp_path / "nets", {"name": "nets.py:unet", "options": {"width": 4}})
    name = f"{tmp_path.resolve()}/nets/nets.py:unet"
    derived = tmp_path / "other/derived.yaml"
    derived.write_text("extends: ../nets/own.yaml\nabout: another folder\n")
    assert recipes.load(path).network.name == recipes.load(derived).network.name == name
    monkeypatch.chdir(tmp_path / "nets")
    changed = recipes.load("shapes/tiny-bidense", ["network.name=nets.py:unet"])
    assert changed.network.name == name
    assert changed.network.encoder is None
    assert changed.network.options == {}
    assert changed.network.title == "nets.py:unet"


def test_a_callable_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own_nets.write(tmp_path).rename(tmp_path / "nets_of_a_module.py")
    path = recipe(tmp_path, {"name": "nets_of_a_module:unet", "options": {"width": 4}})
    out = trained(path, tmp_path / "run", "method=null")
    assert type(saved.load(out)[1]).__name__ == "UNet"
    with pytest.raises(ConfigError, match="nets_of_a_module has no 'unett'; did you mean unet"):
        recipes.load(path, ["network.name=nets_of_a_module:unett"], build.faults)


def test_a_network_in_one_line(tmp_path: Path) -> None:
    """`upernet:ENCODER?option=value` is `name`, `encoder` and `options`."""
    line = recipes.load(recipe(tmp_path, {"name": "upernet:test_convnext?width=16"}))
    long = recipes.load(
        recipe(tmp_path, {"name": "upernet", "encoder": "test_convnext", "options": {"width": 16}})
    )
    truth = build.dataset(line, "train").truth
    one, other = (network(found, truth) for found in (line, long))
    assert one.binarize_spec == other.binarize_spec
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


class TestFilesOfOthers:
    """Reading a file runs no code but what its reader named."""

    @pytest.fixture
    def out(self, tmp_path: Path) -> Path:
        path = recipe(tmp_path, {"name": "nets.py:unet", "options": {"width": 4}})
        return trained(path, tmp_path / "run", "method=null")

    def test_another_account_has_to_give_the_model(
        self, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = out / "model.safetensors"
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))
        (tmp_path / "nets.py").write_text(
            f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n" + own_nets.TEXT
        )
        for load in (binarize.load, saved.load):
            with pytest.raises(ConfigError, match="This account did not train it"):
                load(file)
        assert run(["summary", str(file)]) == 2
        assert run(["evaluate", str(out)]) == 2
        assert not (tmp_path / "ran").exists()
        assert not (tmp_path / "elsewhere").exists()
        own_nets.write(tmp_path)
        assert run(["summary", str(file), "--model", f"{tmp_path}/nets.py:unet?num_classes=6&width=4"]) == 0
        (tmp_path / "nets.py").write_text(own_nets.TEXT + "# another text\n")
        monkeypatch.setenv("BINARIZE_TRUST_CODE", "1")
        with pytest.warns(BinarizeWarning, match=r"nets.py was changed after the training"):
            assert isinstance(binarize.load(file), nn.Module)

    @pytest.mark.parametrize("change", ["name", "options", "sha256", "signature"])
    def test_a_changed_entry_is_not_trusted(self, change: str, out: Path, tmp_path: Path) -> None:
        net = binarize.load(out / "model.safetensors")
        source: Any = {**net.binarize_spec}
        values: dict[str, Any] = {"name": "os:system", "options": {"command": "true"}}
        source["code"] = {**source["code"], change: values.get(change, "0" * 64)}
        forged = binarize.save(net, tmp_path / "forged.safetensors", source=source)
        with pytest.raises(ConfigError, match="This account did not train it"):
            binarize.load(forged)
        again = binarize.save(binarize.load(forged, net), tmp_path / "again.safetensors", source=source)
        with pytest.raises(ConfigError, match="This account did not train it"):  # nor is it signed by copying
            binarize.load(again)

    def test_the_recipe_in_a_file_is_not_trusted(self, out: Path, tmp_path: Path) -> None:
        from binarize.files import container

        net = binarize.load(out / "model.safetensors")
        entries = container.read_metadata(out / "model.safetensors")
        forged = binarize.save(
            net,
            tmp_path / "forged.safetensors",
            source={"source": "custom", "class": "nets.UNet"},
            entries={name: text for name, text in entries.items() if name != "binarize"},
        )
        with pytest.raises(ConfigError, match=r"custom class nets\.UNet: give the float model"):
            saved.load(forged)

    def test_a_project_that_moved(self, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "new").mkdir()
        (tmp_path / "nets.py").rename(tmp_path / "new/nets.py")
        with pytest.raises(ConfigError, match="is not there any more"):
            saved.load(out)
        monkeypatch.chdir(tmp_path / "new")
        with pytest.raises(ConfigError, match="moved to and set BINARIZE_TRUST_CODE=1"):
            saved.load(out)  # the current folder may be a stranger's, and so may be what nets.py imports
        monkeypatch.setenv("BINARIZE_TRUST_CODE", "1")
        assert type(saved.load(out)[1]).__name__ == "UNet"
        (tmp_path / "new/nets.py").write_text(own_nets.TEXT + "# another text\n")
        with pytest.raises(ConfigError, match="nor is the same text under the current folder"):
            saved.load(out)

    def test_a_module_of_another_folder_is_not_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A signature holds for the module that was named, not for another folder's of the same name."""
        for name in ("mine", "strange"):
            (tmp_path / name).mkdir()
        path = recipe(tmp_path, {"name": "nets_of_one:unet", "options": {"width": 4}})
        (tmp_path / "nets.py").rename(tmp_path / "mine/nets_of_one.py")
        monkeypatch.chdir(tmp_path / "mine")
        out = trained(path, tmp_path / "run", "method=null")
        ran = f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
        (tmp_path / "strange/nets_of_one.py").write_text(ran + own_nets.TEXT)
        monkeypatch.chdir(tmp_path / "strange")
        monkeypatch.delitem(sys.modules, "nets_of_one")
        assert type(saved.load(out)[1]).__name__ == "UNet"  # wherever it is called: by the folder named then
        assert not (tmp_path / "ran").exists()
        monkeypatch.delitem(sys.modules, "nets_of_one")
        (tmp_path / "mine/nets_of_one.py").unlink()
        shutil.rmtree(tmp_path / "mine/__pycache__", ignore_errors=True)
        with pytest.raises(ConfigError, match="importing nets_of_one failed"):
            saved.load(out)
        assert not (tmp_path / "ran").exists()

    def test_what_a_file_says_of_options_is_shown(self, out: Path, tmp_path: Path) -> None:
        net = binarize.load(out / "model.safetensors")
        code = {"name": "os:system", "options": {"command": "ls"}, "sha256": None}
        source = {**net.binarize_spec, "code": code}
        forged = binarize.save(net, tmp_path / "forged.safetensors", source=source)
        with pytest.raises(ConfigError, match=r"the code os:system\(command='ls'\) builds"):
            binarize.load(forged)

    def test_a_key_that_is_none(self, tmp_path: Path) -> None:
        key = tmp_path / "config/binarize/key"
        key.parent.mkdir(parents=True)
        key.write_text("")
        path = recipe(tmp_path, {"name": "nets.py:unet", "options": {"width": 4}})
        with pytest.warns(BinarizeWarning, match="does not hold 64 characters: remove it"):
            trained(path, tmp_path / "run", "method=null")

    @pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
    def test_the_key_is_the_accounts_alone(self, out: Path, tmp_path: Path) -> None:
        folder = tmp_path / "config/binarize"
        assert [file.name for file in folder.iterdir()] == ["key"]
        assert stat.S_IMODE((folder / "key").stat().st_mode) == 0o600

    def test_a_home_that_keeps_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
        path = recipe(tmp_path, {"name": "nets.py:unet", "options": {"width": 4}})
        with pytest.warns(BinarizeWarning, match="no key can be kept in the home folder"):
            out = trained(path, tmp_path / "run", "method=null")
        with pytest.raises(ConfigError, match="This account did not train it"):
            saved.load(out)


def test_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What docs/own-network.md shows, as it stands there, in fewer steps."""
    monkeypatch.chdir(tmp_path)
    nets, recipe_text, commands = blocks("python")[0], blocks("yaml")[0], blocks("bash")[0]
    Path("nets.py").write_text(nets)
    Path("unet.yaml").write_text(recipe_text)
    Image.new("RGB", (64, 64)).save("image.png")
    fewer = sets(["training.epochs=1", "data.options.length=16"])
    for command in commands.splitlines():
        program, *arguments = command.replace("IMAGE...", "image.png").split()
        assert program == "binarize"
        arguments += fewer if arguments[0] == "train" else []
        assert run(arguments) == 0, capsys.readouterr().err
    depth = ["data.options.task=depth", "network={name: nets.py:Depth}"]
    assert run(["train", "unet.yaml", "--out", "depth", *fewer, *sets(depth)]) == 0, capsys.readouterr().err
    given = "nets.py:unet?num_classes=6&width=8"
    monkeypatch.setenv("XDG_CONFIG_HOME", "elsewhere")
    assert run(["summary", "unet.safetensors"]) == 2
    assert run(["summary", "unet.safetensors", "--model", given]) == 0


def blocks(language: str) -> list[str]:
    """The page's blocks in a language."""
    text = (Path(__file__).parents[2] / "docs/own-network.md").read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [block for kind, block in found if kind == language]


SMP = """
import segmentation_models_pytorch as smp
def unet(classes):
    return smp.Unet("resnet18", encoder_weights=None, classes=classes)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("library", "name", "outputs"), [
    ("segmentation_models_pytorch", "unet", "classes"), ("transformers", "segformer", "num_labels"),
])  # fmt: skip
def test_networks_of_libraries_the_whole_way(
    library: str, name: str, outputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """By a file of five lines: converted, trained for two steps, measured, packed, compared."""
    pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    Path("lib.py").write_text(SMP if name == "unet" else blocks("python")[1])  # of the page
    chosen = {"name": f"lib.py:{name}", "output": None if name == "unet" else "logits"}
    path = recipe(tmp_path, chosen)
    for command in (
        ["convert", f"lib.py:{name}?{outputs}=6", "--size", "64", "--out", "converted.safetensors"],
        ["train", str(path), "--out", "run", "--set", "data.options.length=16"],
        ["evaluate", "run"],
        ["summary", "run"],
        ["deploy", "run", "--out", "packed.safetensors"],
        ["evaluate", "packed.safetensors"],
        ["verify", "run", "--count", "1"],
    ):
        assert run(command) == 0, (command, capsys.readouterr().err)


@pytest.mark.slow
def test_a_callable_of_an_installed_library(tmp_path: Path) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    path = recipe(tmp_path, {"name": "segmentation_models_pytorch:Unet"})
    options = "network.options={encoder_name: resnet18, encoder_weights: null}"
    out = trained(path, tmp_path / "run", options)
    assert type(saved.load(out)[1]).__name__ == "Unet"
