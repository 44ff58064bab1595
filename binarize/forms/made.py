"""The forms of a network: float32 and int8 in other programs, one bit in the kernels of this package."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from binarize import files
from binarize.bench import check_baselines, rivals
from binarize.bench.rivals import FloatNetwork, Program
from binarize.data.dataset import Truth
from binarize.errors import ConfigError
from binarize.forms.sources import Source
from binarize.training import saved
from binarize.training.metadata import file_metadata
from binarize.training.outputs import selected

FLOAT, INT8, ONE_BIT = "float32", "int8", "one bit"
"""Kinds of numbers that a network computes with."""

KINDS = (FLOAT, INT8, ONE_BIT)

RUNNERS = {
    "onnxruntime": (FLOAT, "ONNX Runtime"),
    "onnxruntime-int8": (INT8, "ONNX Runtime"),
    "openvino": (FLOAT, "OpenVINO"),
    "openvino-int8": (INT8, "OpenVINO"),
}
"""What runs a float network, by its name among the baselines of `bench`: kind of numbers, title."""

DEFAULT = ("onnxruntime", "onnxruntime-int8")

OURS = "binarize"
"""What runs a packed network."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A network in one form.

    Attributes:
        network: its name, unique among those on the same data.
        source: where it is from.
        kind: of numbers.
        runner: the program that runs it.
        model: it, for the evaluation: images (1, C, H, W) to the one output that counts.
        run: one pass for one image, for timing.
        bytes: of the file that holds it in this form.
    """

    network: str
    source: Source
    kind: str
    runner: str
    model: nn.Module
    run: Callable[[], Any]
    bytes: int

    @property
    def key(self) -> str:
        """Of all forms that are timed together, only this one has it."""
        return f"{self.source.place} {self.kind} {self.runner}"


def check_runners(names: Sequence[str]) -> None:
    """Refuse programs that cannot run here, before any work.

    Raises:
        ConfigError: an unknown name, or packages that are missing.
    """
    for name in names:
        if name not in RUNNERS:
            raise ConfigError(f"no runner {name!r}: expected some of {', '.join(RUNNERS)}.")
    check_baselines(names)


def is_float(source: Source) -> bool:
    """Whether the network has float weights, as the recipe says."""
    return source.recipe.method is None


def float_forms(name: str, source: Source, network: FloatNetwork, runners: Sequence[str]) -> Iterator[Form]:
    """The float network as each of the programs runs it.

    Args:
        name: of the network.
        source: where it is from.
        network: what `float_network` made of it; its images are those that int8 forms are calibrated on.
        runners: some of `RUNNERS`.
    """
    for runner in runners:
        kind, title = RUNNERS[runner]
        program = rivals.program(runner, network)
        yield Form(
            network=name,
            source=source,
            kind=kind,
            runner=title,
            model=_Fed(program, network.x),
            run=program.run,
            bytes=program.stored(),
        )


def float_network(source: Source, model: nn.Module, x: Tensor, images: Sequence[Tensor]) -> FloatNetwork:
    """The network for `float_forms`, with the one output that counts; close it at the end.

    Args:
        source: where it is from.
        model: the network.
        x: one image (1, C, H, W), as the programs get it.
        images: to calibrate on, of the same shape.
    """
    return FloatNetwork(_Selected(model, source.recipe.network.output), x.clone().contiguous(), images)


def packed_form(name: str, source: Source, model: nn.Module, x: Tensor, truth: Truth, folder: Path) -> Form:
    """The network from its packed file; one with latent weights is packed to a file in `folder` first.

    Args:
        name: of the network.
        source: where it is from.
        model: the network, packed or with latent weights.
        x: one image (1, C, H, W).
        truth: of the data.
        folder: an existing one, for the file.

    Raises:
        ConfigError: a network that cannot be packed.
    """
    path = source.file
    if path is None or not isinstance(files.read_header(path), files.PackedHeader):
        path = folder / f"{len(list(folder.iterdir()))}.safetensors"
        files.save(model, path, packed=True, entries=file_metadata(source.recipe, truth))
        model = saved.load(path)[1]
    last = x.contiguous(memory_format=torch.channels_last)
    chosen = _Selected(model, source.recipe.network.output)
    return Form(
        network=name,
        source=source,
        kind=ONE_BIT,
        runner=OURS,
        model=chosen,
        run=lambda: model(last),
        bytes=path.stat().st_size,
    )


class _Selected(nn.Module):
    """A network with one output, that of the recipe's `network.output`."""

    def __init__(self, model: nn.Module, chosen: str | int | None) -> None:
        super().__init__()
        self.model = model
        self.chosen = chosen

    def forward(self, x: Tensor) -> Tensor:
        return selected(self.model(x), self.chosen)


class _Fed(nn.Module):
    """A program as a module: images are copied to where the program reads its one image."""

    def __init__(self, program: Program, place: Tensor) -> None:
        super().__init__()
        self.program = program
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        if x.shape != self.place.shape:
            raise ConfigError(
                f"an image of {_size(x)}, where the first one has {_size(self.place)} (height x width): "
                "these networks are made for one size. Let the recipe resize images (data.evaluation.resize)."
            )
        self.place.copy_(x)
        self.program.run()
        return self.program.outputs()[0]


def _size(x: Tensor) -> str:
    return "x".join(map(str, x.shape[-2:]))
