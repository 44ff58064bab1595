"""ONNX Runtime on the CPU: the float network as it is, or quantized to int8."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from binarize.bench.rivals.float_network import INPUT, FloatNetwork
from binarize.bench.rivals.program import Program, quiet, sums_saturate

_PRODUCTS = ["Conv", "MatMul", "Gemm"]


def why_not(form: str) -> str:
    """Why this machine cannot compute in this form; empty if it can."""
    return ""


def program(network: FloatNetwork, form: str) -> Program:
    """The network, compiled by ONNX Runtime for torch's number of threads.

    Args:
        network: to run.
        form: `float32` or `int8`.
    """
    import onnxruntime

    path = network.onnx if form == "float32" else _quantized(network)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # threads that wait for the next pass would take time from the networks that are timed next
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = network.x.contiguous().numpy()
    binding = session.io_binding()  # results stay where they are: large maps are not copied
    binding.bind_cpu_input(INPUT, given)
    for output in session.get_outputs():
        binding.bind_output(output.name, "cpu")

    def run(kept: Any = given) -> None:  # the binding holds the address of the images alone
        session.run_with_iobinding(binding)

    def outputs() -> list[Tensor]:
        return [torch.from_numpy(array.copy()) for array in binding.copy_outputs_to_cpu()]

    size = path.stat().st_size
    return Program(run, outputs, lambda: size)


def _quantized(network: FloatNetwork) -> Path:
    """An int8 form of the network's ONNX file, beside it: static, a scale per output channel for weights."""
    with quiet():
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        plain, ready = network.onnx, network.onnx.with_name("ready.onnx")
        quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
        made = plain.with_name("int8.onnx")
        quantize_static(
            str(ready),
            str(made),
            _reader(network.images),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=sums_saturate(),
            # norms, softmax and GELU in 8 bits ruin what attention computes
            op_types_to_quantize=_PRODUCTS if network.has_attention else None,
        )
    return made


def _reader(images: Iterable[Tensor]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self._left, None)
            return None if image is None else {INPUT: image.contiguous().numpy()}

    return Reader()
