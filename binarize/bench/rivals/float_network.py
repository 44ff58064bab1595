"""The float network that all baselines run: with lifelike norms, its outputs, and its ONNX file."""

from __future__ import annotations

import functools
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from binarize.bench.random_images import random_images
from binarize.bench.rivals.program import quiet
from binarize.errors import ConfigError, first_line
from binarize.graph.model_copy import copied

INPUT = "image"
"""The name of the ONNX graph's input."""

_IMAGES = 4


class FloatNetwork:
    """A copy of a network for inference, whose norms fit its data, and what baselines need of it.

    A network with random weights has norms that do nothing, and many have scales of zero at the end of each
    block. Signals then grow or vanish from layer to layer, and quantized forms would work on empty ranges. So
    statistics of batch norms are taken from a few random images, and scales that are all zero become one.

    Args:
        plain: float network; left untouched.
        x: images (N, C, H, W), of the shape that is timed.
        calibration: batches of that shape from the data of a trained network, for its quantized forms; its
            norms are then left as they were trained. Random images if None.

    Attributes:
        model: the copy, in evaluation mode.
        x: the images.
    """

    def __init__(self, plain: nn.Module, x: Tensor, calibration: Sequence[Tensor] | None = None) -> None:
        self.model = copied(plain).eval().requires_grad_(False)
        self.x = x
        self._calibration = calibration
        if calibration is None:
            _settle(self.model, torch.cat(self.images))
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @functools.cached_property
    def images(self) -> list[Tensor]:
        """Batches to calibrate on; of random ones, the first is the one that is timed."""
        if self._calibration is not None:
            return list(self._calibration)
        return [self.x, *(random_images(self.x.shape, seed) for seed in range(1, _IMAGES))]

    @functools.cached_property
    def outputs(self) -> list[Tensor]:
        """The tensors that the network gives for the images, in their order."""
        with torch.inference_mode():
            return [leaf.float() for leaf in tensors(self.model(self.x))]

    @functools.cached_property
    def onnx(self) -> Path:
        """The network as an ONNX file for inputs of this shape only, made on first use.

        Raises:
            ConfigError: torch cannot export it.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="binarize-bench-")
        path = Path(self._folder.name) / "float.onnx"
        try:
            with quiet(), torch.no_grad():
                made = torch.onnx.export(
                    _Flat(self.model), (self.x,), dynamo=True, input_names=[INPUT], verbose=False
                )
                if made is None:
                    raise RuntimeError("the exporter gave no program")
                made.save(path)
        except Exception as error:  # the exporter has many kinds of failure
            raise ConfigError(
                f"torch cannot export {type(self.model).__name__} to ONNX ({type(error).__name__}: "
                f"{first_line(error)[:200]})."
            ) from error
        return path

    @functools.cached_property
    def has_attention(self) -> bool:
        """Whether some softmax in the ONNX file is a factor of a matrix product."""
        import onnx

        graph = onnx.load(str(self.onnx), load_external_data=False).graph
        readers: dict[str, set[str]] = defaultdict(set)
        for node in graph.node:
            for name in node.input:
                readers[name].add(node.op_type)
        made = [name for node in graph.node if node.op_type == "Softmax" for name in node.output]
        return any("MatMul" in readers[name] for name in made)

    def close(self) -> None:
        """Remove the ONNX file."""
        if self._folder is not None:
            self._folder.cleanup()


def tensors(output: Any) -> list[Tensor]:
    """The tensors in an output of a network, in their order."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


class _Flat(nn.Module):
    """The network with all its outputs in one tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors(self.model(x)))


def _settle(model: nn.Module, images: Tensor) -> None:
    """Set the running statistics of all batch norms to those of the images; scales and shifts of zero to one.

    With shifts of one, most values pass the next activation. With zero, each layer of random weights would
    enlarge errors of its input by a fifth: a deep network computes something else after rounding.
    A variance is taken for at least the square of the mean. Behind a mean over a whole map, these images
    hardly differ, and a norm would enlarge that little many times, with all errors of rounding.
    """

    def fit(norm: Any, arguments: tuple[Any, ...]) -> None:
        maps = arguments[0]
        others = [axis for axis in range(maps.dim()) if axis != 1]
        mean = maps.mean(others)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(torch.maximum(maps.var(others, correction=0), mean.square()))

    handles = []
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            if module.weight is not None and not module.weight.any():
                module.weight.fill_(1.0)
            if module.bias is not None and not module.bias.any():
                module.bias.fill_(1.0)
            handles.append(module.register_forward_pre_hook(fit))
    try:
        if handles:
            with torch.no_grad():
                model(images)
    finally:
        for handle in handles:
            handle.remove()
