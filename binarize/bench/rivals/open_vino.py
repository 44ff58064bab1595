"""OpenVINO on the CPU: the float network in float32 or bfloat16, or quantized to int8 by NNCF."""

from __future__ import annotations

import functools
import importlib
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from binarize.bench.rivals.float_network import FloatNetwork
from binarize.bench.rivals.program import Program, quiet, sums_saturate

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
_SILENT = "NNCF_CI"
"""With this environment variable, NNCF sends no statistics of its use."""


def why_not(form: str) -> str:
    """Why this machine cannot compute in this form; empty if it can."""
    if form == "bfloat16" and "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return "this processor has no instructions for bfloat16"
    return ""


def program(network: FloatNetwork, form: str) -> Program:
    """The network, compiled by OpenVINO for torch's number of threads.

    Args:
        network: to run.
        form: `float32`, `bfloat16` or `int8`. What NNCF leaves in float is computed in OpenVINO's default:
            bfloat16 where the processor has instructions for it.
    """
    core = _core()
    model = core.read_model(str(network.onnx))
    if form == "int8":
        model = _quantized(model, network)
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # the other networks' threads run on the same cores
    }
    if form in _PRECISIONS:
        settings["INFERENCE_PRECISION_HINT"] = _PRECISIONS[form]
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    request.set_input_tensor(_package().Tensor(network.x.contiguous().numpy(), shared_memory=True))
    count = len(compiled.outputs)

    def run() -> None:
        request.infer(share_outputs=True)  # results stay where they are: large maps are not copied

    def outputs() -> list[Tensor]:
        return [torch.from_numpy(request.get_output_tensor(i).data.copy()) for i in range(count)]

    return Program(run, outputs, lambda: _stored(model))


@functools.cache
def _core() -> Any:
    return _package().Core()


def _package() -> Any:
    return importlib.import_module("openvino")  # it is optional: by name, so that it need not be there


def _stored(model: Any) -> int:
    """Bytes of the two files that OpenVINO writes of a model, with floats as they are."""
    with tempfile.TemporaryDirectory(prefix="binarize-bench-") as folder:
        _package().save_model(model, f"{folder}/model.xml", compress_to_fp16=False)
        return sum(path.stat().st_size for path in Path(folder).iterdir())


def _quantized(model: Any, network: FloatNetwork) -> Any:
    """NNCF's quantization after training: static, a scale per output channel for weights."""
    with quiet():
        nncf = _nncf()
        images = [image.contiguous().numpy() for image in network.images]
        return nncf.quantize(
            model,
            nncf.Dataset(images),
            subset_size=len(images),
            model_type=nncf.ModelType.TRANSFORMER if network.has_attention else None,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE if sums_saturate() else nncf.OverflowFix.DISABLE
            ),
        )


def _nncf() -> Any:
    given = os.environ.get(_SILENT)
    os.environ.setdefault(_SILENT, "1")
    try:
        return importlib.import_module("nncf")
    finally:
        if given is None:
            del os.environ[_SILENT]
