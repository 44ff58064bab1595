"""The example of a method in a package of its own: built, installed, and found in new processes."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import binarize
from binarize.errors import BinarizeError, BinarizeWarning, ConfigError
from binarize.layers.recipe import METHODS
from binarize.registry import Registry
from binarize.testing import check_method

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "binarize-dorefa"
NEEDED = ("pip", "setuptools")

CHECK = """
import binarize, torch
from binarize.cli import run
from binarize.runtime.verify import verify
from binarize.testing import check_method

check_method("dorefa")
assert run(["convert", "--method", "dorefa", "test_resnet", "--out", "net.safetensors", "--json"]) == 0
model = binarize.load("net.safetensors").eval()
found = verify(model, binarize.deploy(model), [torch.randn(1, 3, 64, 64)])
assert found.layers and all(layer.agrees for layer in found.layers), str(found)
print("methods:")
assert run(["methods", "--json"]) == 0
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that sees the package; nothing is downloaded for it."""
    # not by find_spec: setuptools warns when it meets the distutils that a compiling test has imported
    known = {dist.name for dist in importlib.metadata.distributions()}
    missing = [name for name in NEEDED if name not in known]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)} to build a package")
    folder = tmp_path_factory.mktemp("third-party")
    source, target = folder / "source", folder / "installed"
    shutil.copytree(EXAMPLE, source)  # building leaves files beside the sources
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(target), str(source)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(target.glob("binarize_dorefa-*.dist-info/entry_points.txt"))
    paths = [str(target), str(Path(binarize.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run(*arguments: str, env: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_installed_package_adds_a_method(installed: dict[str, str], tmp_path: Path) -> None:
    assert "dorefa" not in binarize.methods.names()  # not in this process: it comes with the package
    converted, listed = map(json.loads, run("-c", CHECK, env=installed, cwd=tmp_path).split("methods:"))
    assert converted["plan"]["method"]["name"] == "dorefa"
    assert listed["dorefa"]["paper"] == "arXiv 1606.06160"
    assert listed["dorefa"]["packed"] in ("kernels", "torch")
    assert set(binarize.methods.names()) < set(listed)
    with pytest.raises(BinarizeError, match="'dorefa'"):
        binarize.load(tmp_path / "net.safetensors")


def test_the_contract_is_kept_where_the_module_is_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an installation, so that a failure shows here, too."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    module = importlib.import_module("binarize_dorefa")
    monkeypatch.setitem(METHODS._entries, "dorefa", module.DoReFa)
    check_method("dorefa")


def test_a_package_that_cannot_be_loaded_is_named_and_hurts_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torn", "whole"):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[third.parties]\n{name} = {name}_module:VALUE\n")
    (tmp_path / "torn_module.py").write_text("import no_such_module_at_all\n")
    (tmp_path / "whole_module.py").write_text("VALUE = 5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    things: Registry[int] = Registry("thing", group="third.parties")
    with pytest.warns(BinarizeWarning, match=r"'torn' of the package torn: torn_module:VALUE cannot be"):
        assert things.names() == ["whole"]
    assert things.get("whole") == 5
    with pytest.raises(ConfigError, match=r"No module named 'no_such_module_at_all'.*uninstall the package"):
        things.get("torn")
