"""A deployed network as ONNX: its signs, scales and bypasses with float operators that any runtime has."""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path

from binarize.errors import ConfigError
from binarize.model_info import DEFAULT_SIZE, converted_size
from binarize.preprocessing import ENTRY, TRUTH_ATTRIBUTE, TRUTH_ENTRY, preprocessing_of
from binarize.runtime.deploy import deployed_layers

_NEEDED = ("onnx", "onnxscript")
_INPUT = "image"


def to_onnx(
    model: nn.Module, size: Sequence[int], *, output: str = "", metadata: Mapping[str, str] | None = None
) -> bytes:
    """The bytes of an ONNX file for images (N, C, H, W) of this height and width and any N.

    C is that of the example that the network was converted on, or 3 where none is known.

    Its weights are floats of +1 and -1, so it is as large as the float network: it is for runtimes without
    binary operators. Its input is called `image`. Its metadata holds, as JSON, how images are prepared
    (`binarize.preprocessing`), if the model says it, and what its output means, with the names of classes
    (`binarize.truth`). Its description says the former in words.

    Args:
        model: deployed.
        size: (H, W).
        output: what its output is called; `logits` for a classifier of timm, else `output`, if empty. Several
            outputs are called by the keys of the dict that the network returns, or output_0, output_1...
        metadata: further entries of the file's metadata.

    Raises:
        ConfigError: a model that is not deployed, that takes no images of this size or that torch cannot
            export, or packages that are missing.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX needs the packages {', '.join(missing)}: pip install 'binarize[onnx]'.")
    if not deployed_layers(model):
        raise ConfigError(f"{type(model).__name__} is not deployed: binarize.deploy(model) first.")
    channels = (converted_size(model) or DEFAULT_SIZE)[0]
    x = torch.zeros(2, channels, *size)
    for layer in deployed_layers(model).values():
        layer.prepare_reference()
    try:
        with torch.no_grad():
            names = output_names(model(x), output or _output_of(model))
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{type(model).__name__} cannot take images of {size[0]}x{size[1]} (height x width): "
            f"{str(error).strip().splitlines()[0].rstrip('.')}."
        ) from error
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch about its own exporter
            program = torch.onnx.export(
                model,
                (x,),
                dynamo=True,
                dynamic_shapes=({0: "batch"},),
                input_names=[_INPUT],
                output_names=names,
                verbose=False,
            )
    except Exception as error:  # the exporter has many kinds of failure
        text = str(error).strip().splitlines()
        raise ConfigError(
            f"torch cannot export {type(model).__name__} to ONNX ({type(error).__name__}: "
            f"{text[0][:200] if text else ''})."
        ) from error
    if program is None:
        raise ConfigError(f"torch gave no ONNX program for {type(model).__name__}.")
    proto = program.model_proto
    without_traces(proto)
    describe(proto, model, size, metadata or {})
    return proto.SerializeToString(deterministic=True)


def output_names(output: Any, single: str) -> list[str]:
    """What the tensors in an output of a network are called, in their order.

    Args:
        output: a tensor, or tensors in tuples, lists, dicts and what else torch takes apart.
        single: name of an output that is one tensor, and of those without a key.
    """
    found: list[str] = []
    for path, leaf in tree_flatten_with_path(output)[0]:
        if not isinstance(leaf, Tensor):
            continue
        parts = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in path]
        name = re.sub(r"\W+", "_", "_".join(parts)).strip("_")
        if not name or name[0].isdigit():
            name = f"{single}_{name}" if name else single
        while name == _INPUT or name in found:
            name += "_"
        found.append(name)
    return found


def without_traces(proto: Any) -> None:
    """Take out what the exporter notes for its own developers: lines of source, paths, numbers of nodes.

    They are longer than the graph, tell where files lie on this machine and differ between equal runs.
    """
    graph = proto.graph
    for part in (
        proto,
        graph,
        *graph.node,
        *graph.initializer,
        *graph.input,
        *graph.output,
        *graph.value_info,
    ):
        kept = [entry for entry in part.metadata_props if not entry.key.startswith("pkg.")]
        del part.metadata_props[:]
        part.metadata_props.extend(kept)
        if part is not proto:
            part.doc_string = ""
    for function in proto.functions:
        for part in (function, *function.node):
            del part.metadata_props[:]
            part.doc_string = ""


def describe(proto: Any, model: nn.Module, size: Sequence[int], metadata: Mapping[str, str]) -> None:
    """Say in the model itself what its input is, for programs and for people."""
    images = preprocessing_of(model)
    truth = getattr(model, TRUTH_ATTRIBUTE, None)
    entries = {**({TRUTH_ENTRY: truth} if isinstance(truth, str) else {}), **metadata}
    text = f"{type(model).__name__}, binary network. {_INPUT}: float32 (batch, channels, height, width)"
    if images is not None:
        images = images.at(size)
        entries[ENTRY] = images.dumps()
        text += f", {images}"
    proto.doc_string = f"{text}."
    for key, value in sorted(entries.items()):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value


def _output_of(model: nn.Module) -> str:
    """What the only output of a network is."""
    config: Any = getattr(model, "pretrained_cfg", None)
    if isinstance(config, Mapping) and config.get("num_classes") is not None:
        return "logits"
    spec: Any = getattr(model, "binarize_spec", None)
    if isinstance(spec, Mapping) and spec.get("source") == "networks":
        return "depth" if dict(spec.get("kwargs", {})).get("task") == "depth" else "logits"
    return "output"
