"""What `import binarize` gives and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import binarize


def _imported_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('#', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("#")[2].split())


def test_import_is_free_of_heavy_packages():
    assert not _imported_by("import binarize") & {"torch", "timm", "rich", "click", "numpy"}


def test_command_line_help_is_free_of_heavy_packages():
    code = "from binarize.cli import run\nassert run(['convert', '--help']) == 0"
    assert not _imported_by(code) & {"torch", "timm", "numpy"}


@pytest.mark.parametrize("name", [n for n in binarize.__all__ if n != "__version__"])
def test_public_name_resolves(name: str):
    value = getattr(binarize, name)
    assert value is getattr(binarize, name)
    assert name in dir(binarize)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'binarise'"):
        binarize.binarise  # noqa: B018


def test_version_is_that_of_the_distribution():
    from importlib.metadata import PackageNotFoundError, version

    try:
        assert version("binarize") == binarize.__version__
    except PackageNotFoundError:
        pytest.skip("run from a source tree that is not installed")
