"""Other programs that run the float network on a CPU: ONNX Runtime and OpenVINO, in float and quantized."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from binarize.bench.rivals.float_network import FloatNetwork
from binarize.bench.rivals.program import Program

_EXPORT = ("onnx", "onnxscript")


@dataclass(frozen=True)
class _Rival:
    """How a rival is made.

    Attributes:
        module: in this package; its `program(network, form)` gives a `Program`, its `why_not(form)` a reason.
        form: of numbers: `float32`, `bfloat16` or `int8`.
        packages: that must be installed.
    """

    module: str
    form: str
    packages: tuple[str, ...]


_RIVALS = {
    "onnxruntime": _Rival("onnx_runtime", "float32", (*_EXPORT, "onnxruntime")),
    "onnxruntime-int8": _Rival("onnx_runtime", "int8", (*_EXPORT, "onnxruntime")),
    "openvino": _Rival("open_vino", "float32", (*_EXPORT, "openvino")),
    "openvino-bf16": _Rival("open_vino", "bfloat16", (*_EXPORT, "openvino")),
    "openvino-int8": _Rival("open_vino", "int8", (*_EXPORT, "openvino", "nncf")),
}
RIVALS = tuple(_RIVALS)
"""onnxruntime, openvino: in float32. openvino-bf16: OpenVINO computes in bfloat16. -int8: quantized on the
spot (static, a scale per output channel for the weights), calibrated on a few random images."""


def why_not(name: str) -> str:
    """Why this machine cannot run the rival `name`, with a remedy if there is one; empty if it can."""
    rival = _RIVALS[name]
    missing = [package for package in rival.packages if importlib.util.find_spec(package) is None]
    if missing:
        plural = "s" * (len(missing) > 1)
        return f"it needs the package{plural} {', '.join(missing)}: pip install 'binarize[bench]'"
    return _module(rival).why_not(rival.form)


def program(name: str, network: FloatNetwork) -> Program:
    """The float network as the rival `name` runs it, compiled; it needs what `why_not` asks for."""
    rival = _RIVALS[name]
    return _module(rival).program(network, rival.form)


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of the packages that these rivals use, beside the exporter's."""
    packages = {p for name in names for p in _RIVALS[name].packages if p not in _EXPORT}
    return {package: metadata.version(package) for package in sorted(packages)}


def _module(rival: _Rival) -> Any:
    return importlib.import_module(f"{__name__}.{rival.module}")


__all__ = ["RIVALS", "FloatNetwork", "Program", "program", "versions", "why_not"]
