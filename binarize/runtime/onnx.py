"""A deployed network as ONNX: its signs, scales and bypasses with float operators that any runtime has."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence

import torch
from torch import nn

from binarize.errors import ConfigError
from binarize.runtime.deploy import deployed_layers

_NEEDED = ("onnx", "onnxscript")


def to_onnx(model: nn.Module, size: Sequence[int]) -> bytes:
    """The bytes of an ONNX file for images (N, C, H, W) of this height and width and any N.

    C is that of the example that the network was converted on, or 3 where none is known.

    Its weights are floats of +1 and -1, so it is as large as the float network: it is for runtimes that know
    no bits.

    Args:
        model: deployed.
        size: (H, W).

    Raises:
        ConfigError: a model that is not deployed, that takes no images of this size or that torch cannot
            export, or packages that are missing.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX needs the packages {', '.join(missing)}: pip install 'binarize[onnx]'.")
    if not deployed_layers(model):
        raise ConfigError(f"{type(model).__name__} is not deployed: binarize.deploy(model) first.")
    plan = getattr(model, "binarize_plan", None)
    channels = plan.inputs[0][-3] if plan is not None and plan.inputs and len(plan.inputs[0]) > 2 else 3
    x = torch.zeros(2, channels, *size)
    for layer in deployed_layers(model).values():
        layer.prepare_reference()
    try:
        with torch.no_grad():
            model(x)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{type(model).__name__} cannot take images of {size[0]}x{size[1]} (height x width): "
            f"{str(error).strip().splitlines()[0].rstrip('.')}."
        ) from error
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch about its own exporter
            program = torch.onnx.export(
                model, (x,), dynamo=True, dynamic_shapes=({0: "batch"},), input_names=["image"], verbose=False
            )
    except Exception as error:  # the exporter has many kinds of failure
        text = str(error).strip().splitlines()
        raise ConfigError(
            f"torch cannot export {type(model).__name__} to ONNX ({type(error).__name__}: "
            f"{text[0][:200] if text else ''})."
        ) from error
    if program is None:
        raise ConfigError(f"torch gave no ONNX program for {type(model).__name__}.")
    return program.model_proto.SerializeToString()
