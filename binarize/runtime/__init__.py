"""Binary networks for inference: one bit per binary weight, everything else folded or kept as it is."""

from binarize.runtime import earlier
from binarize.runtime.deploy import configure, deploy, deployed_layers, with_packed_layers
from binarize.runtime.fusions import FusionReport, fusions
from binarize.runtime.layer import PackedLayer, RuntimeOptions
from binarize.runtime.lower import lower
from binarize.runtime.memory import keep_memory
from binarize.runtime.onnx import to_onnx
from binarize.runtime.packing.describe import Refusal, describe
from binarize.runtime.report import DeployReport, LayerReport, report
from binarize.runtime.spec import PackedSpec, QuantizerSpec
from binarize.runtime.stored import Stored, stored

earlier.register()

__all__ = [
    "DeployReport",
    "FusionReport",
    "LayerReport",
    "PackedLayer",
    "PackedSpec",
    "QuantizerSpec",
    "Refusal",
    "RuntimeOptions",
    "Stored",
    "configure",
    "deploy",
    "deployed_layers",
    "describe",
    "fusions",
    "keep_memory",
    "lower",
    "report",
    "stored",
    "to_onnx",
    "with_packed_layers",
]
