"""What coverage is measured on: timm's models as they are, or as encoders of a dense-prediction network."""

from __future__ import annotations

import contextlib
import functools
import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from binarize.coverage.libraries.network import Given
from binarize.errors import ConfigError, near_names
from binarize.files import create_timm
from binarize.files.float_source import building_on
from binarize.model_info import DEFAULT_SIZE, configured_size
from binarize.networks import upernet

Use = Literal["model", "upernet"]
"""`model`: the classifier as timm builds it; `upernet`: its maps under UPerNet's decoder."""

USES: tuple[Use, ...] = ("model", "upernet")
_CLASSES = 5  # of the dense-prediction network: few, for the sake of time in the full-resolution head
# Edge lengths to try, smallest first; a model made for one size only comes last, by its own size.
_EDGES = (32, 48, 64, 96, 112, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One model in one use.

    Attributes:
        name: of the timm model.
        use: see `Use`.
        library: that the model is from.
    """

    name: str
    use: Use = "model"
    library: str = "timm"

    @property
    def family(self) -> str:
        """The file of timm that defines the model: `resnet`, `vision_transformer`."""
        return timm.model_entrypoint(self.name).__module__.rpartition(".")[2]

    @property
    def catalogued(self) -> bool:
        """Whether it is from a small catalogue, for which more is checked."""
        return False

    @property
    def most(self) -> int:
        """How many images a batch in training mode may have."""
        return 16

    @property
    def heads(self) -> tuple[str, ...] | None:
        """Globs of its final layers, where they are known."""
        return None

    @property
    def beside(self) -> tuple[str, ...]:
        """Globs of layers that may count as final or not."""
        return ()

    @property
    def idle(self) -> tuple[str, ...]:
        """Globs of layers that have no gradient in the float network either."""
        return ()

    def versions(self) -> dict[str, str]:
        """Versions of the packages that a result depends on."""
        return versions()

    def build(self) -> nn.Module:
        """The float model, with random weights.

        Raises:
            ConfigError: timm cannot build it in this use.
        """
        if self.use == "upernet":
            return upernet(self.name, num_classes=_CLASSES)
        return create_timm(self.name)

    def shell(self) -> nn.Module:
        """The float model on the meta device: shapes without values."""
        with building_on("meta"), contextlib.suppress(ConfigError):
            return self.build()
        return self.build().to("meta")  # some constructors need the values of their tensors

    def rebuilt(self) -> nn.Module | None:
        """The float model for `binarize.load`, which builds one of timm itself."""
        return None

    def measure(self) -> tuple[int, int]:
        """How many parameters and convolutions it has, as a classifier."""
        return measure(self.name)

    def sizes(self, shell: nn.Module, model: nn.Module, batch: int) -> tuple[tuple[int, ...], ...]:
        """See `input_sizes`; without arithmetic, except for models that need the values of tensors."""
        with contextlib.suppress(ConfigError):
            return input_sizes(shell.eval(), batch)
        return input_sizes(model, batch)

    def example(self, size: tuple[int, ...]) -> Given | None:
        """Example inputs of the plan; None for those of the model's own configuration."""
        return None

    def feed(self, images: Tensor, training: bool) -> Given:
        """The inputs of the forward, from images (N, C, H, W)."""
        return (images,)

    def of_first(self, output: Any) -> list[Tensor]:
        """The part of an output that belongs to the first image."""
        return [tensor[:1] for tensor in tensors(output)]

    def layout(self, output: Any) -> str:
        """The structure of an output, with shapes and dtypes."""
        return layout(output)


def versions(*others: str) -> dict[str, str]:
    """Versions of binarize, timm and torch, and of other distributions."""
    return {name: version(name) for name in ("binarize", "timm", "torch", *others)}


def subjects(patterns: Sequence[str] = (), use: Use = "model") -> list[Subject]:
    """The timm models whose names match one of the globs (all without any).

    Raises:
        ConfigError: for a glob that matches none, with near names.
    """
    known = timm.list_models()
    chosen: dict[str, None] = {}
    for glob in patterns or ("*",):
        found = [name for name in known if fnmatchcase(name, glob)]
        if not found:
            near = near_names(glob, known)
            hint = f"; did you mean {' or '.join(near)}?" if near else "; see `binarize models`."
            raise ConfigError(f"--pattern {glob!r} matches none of timm's {len(known)} models{hint}")
        chosen |= dict.fromkeys(found)
    return [Subject(name=name, use=use) for name in chosen]


def smallest_per_family(given: Iterable[Subject]) -> list[Subject]:
    """For each use and family the smallest model by parameters, if possible one with several convolutions.

    Parameters are those of the classifier, whatever the use.
    """
    best: dict[tuple[str, str], tuple[bool, int, str, Subject]] = {}
    for subject in given:
        params, convolutions = subject.measure()
        key = (subject.use, subject.family)
        candidate = (convolutions < 2, params, subject.name, subject)
        if key not in best or candidate[:3] < best[key][:3]:
            best[key] = candidate
    return [best[key][3] for key in sorted(best)]


@functools.cache
def measure(name: str) -> tuple[int, int]:
    """How many parameters and convolutions a timm classifier has, determined once on the meta device."""
    classifier = Subject(name=name).shell()
    return sum(parameter.numel() for parameter in classifier.parameters()), count_convolutions(classifier)


def count_convolutions(model: nn.Module) -> int:
    """Convolution modules of any rank."""
    return sum(isinstance(module, nn.modules.conv._ConvNd) for module in model.modules())


def input_sizes(model: nn.Module, batch: int) -> tuple[tuple[int, ...], ...]:
    """The smallest (C, H, W) that a float model runs on, then up to two larger ones if it takes any.

    Args:
        model: in evaluation mode, with or without numbers.
        batch: images per batch to try with.

    Raises:
        ConfigError: it runs on none.
    """
    first = next((s for s in _candidates(_own_size(model)) if _runs(model, (batch, *s))), None)
    if first is None:
        raise ConfigError(f"the float model runs on no square image of up to {_EDGES[-1]} pixels.")
    channels, height, width = first
    steps = (((32, 64), (32, 32), (height, width)), ((96, 128), (96, 96), (2 * height, 2 * width)))
    larger = (
        next((s for h, w in step if _runs(model, (batch, *(s := (channels, height + h, width + w))))), None)
        for step in steps
    )
    return first, *(size for size in larger if size is not None)


def _candidates(own: tuple[int, int, int]) -> Iterator[tuple[int, ...]]:
    edges = sorted(edge for edge in _EDGES if edge < max(own[1:]))
    return itertools.chain(((own[0], edge, edge) for edge in edges), (own,), ((own[0], 512, 512),))


def _own_size(model: nn.Module) -> tuple[int, int, int]:
    return configured_size(getattr(model, "encoder", model)) or DEFAULT_SIZE


def _runs(model: nn.Module, shape: tuple[int, ...]) -> bool:
    parameter = next(model.parameters())
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs = tensors(model(torch.zeros(shape, dtype=parameter.dtype, device=parameter.device)))
    except Exception:  # any error of a model on a size that it does not take
        return False
    return bool(outputs) and all(output.numel() for output in outputs)


def layout(value: Any, *, shapes: bool = True) -> str:
    """The structure of an output in one line: `{'out': (2, 5, 64, 64) float32}`.

    Args:
        value: tensors in lists, tuples and mappings; other objects are ignored.
        shapes: False for outputs whose sizes depend on the weights: how many dimensions they have.
    """
    if isinstance(value, torch.Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{tuple(value.shape) if shapes else f'{value.dim()} dimensions'} {kind}"
    if isinstance(value, dict):
        parts = [f"{name!r}: {layout(item, shapes=shapes)}" for name, item in value.items()]
        return "{" + ", ".join(parts) + "}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(layout(item, shapes=shapes) for item in value) + "]"
    return "-"


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors in a model's output, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for item in value.values() for t in tensors(item)]
    if isinstance(value, (tuple, list)):
        return [t for item in value for t in tensors(item)]
    return []
