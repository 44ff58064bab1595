"""The kernels of AVX-512 on a processor with AVX2: all tests of the kernels, with SIMDe in its place."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = """
import sys, pytest, binarize.native
binarize.native.__path__.insert(0, sys.argv[1])
found = binarize.native.features()
assert found.build.get("emulated") == "avx512", found
if "avx512" not in found.isas:
    sys.exit("no AVX2")
# the other instruction sets are those of the default run
chosen = ["-k", "not portable and not avx2"]
sys.exit(pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", *chosen, *sys.argv[2:]]))
"""


def why_not() -> str:
    """Why the kernels cannot be emulated here; empty if they can."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return "another processor than x86-64"
    if not shutil.which("cmake") or not shutil.which("c++"):
        return "no cmake or no compiler"
    header = ["c++", "-x", "c++", "-E", "-include", "simde/x86/avx512.h", "/dev/null"]
    found = subprocess.run(header, capture_output=True, check=False).returncode == 0
    return "" if found else "SIMDe's headers are not installed (Debian: libsimde-dev)"


@pytest.mark.slow
def test_kernels_of_avx512_on_avx2(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    options = ["-DBINARIZE_EMULATE_AVX512=ON", f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={tmp_path / '_lib'}"]
    subprocess.run(["cmake", "-S", ROOT, "-B", tmp_path, *options], check=True)
    subprocess.run(["cmake", "--build", tmp_path, "-j2"], check=True)
    tests = sorted(str(f) for f in Path(__file__).parent.glob("test_*.py") if f != Path(__file__))
    done = subprocess.run(
        [sys.executable, "-c", RUN, tmp_path, *tests], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.stderr.strip() == "no AVX2":
        pytest.skip("the processor lacks AVX2")
    assert done.returncode == 0, done.stdout + done.stderr
