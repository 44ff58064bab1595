"""What a model records about itself: its plan, and the size of its input images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

DEFAULT_SIZE = (3, 224, 224)
"""(C, H, W) of the images of a model that records no size."""

ImageSize = tuple[int, int, int]


def plan_of(model: nn.Module) -> Any:
    """The `binarize.graph.Plan` that was executed on `model`, None for a float model."""
    return getattr(model, "binarize_plan", None)


def converted_size(model: nn.Module) -> ImageSize | None:
    """(C, H, W) of the image that `model` was converted on; None if it was not, or on other inputs."""
    plan = plan_of(model)
    if plan is None or len(plan.inputs) != 1 or len(plan.inputs[0]) != 4:
        return None
    _, channels, height, width = plan.inputs[0]
    return channels, height, width


def configured_size(model: nn.Module) -> ImageSize | None:
    """(C, H, W) of the images that timm's configuration of `model` names; None if there is none."""
    config: Any = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    size = config.get("input_size") if isinstance(config, Mapping) else None
    if not size or len(size) != 3:
        return None
    channels, height, width = map(int, size)
    return channels, height, width


def input_size(model: nn.Module) -> ImageSize:
    """(C, H, W) of the images that `model` is used on, by default.

    Those that it was converted on; else those that it was built for, by its arguments `img_size` and
    `in_chans` and timm's configuration; else `DEFAULT_SIZE`.
    """
    if (converted := converted_size(model)) is not None:
        return converted
    channels, height, width = configured_size(model) or DEFAULT_SIZE
    spec: Any = getattr(model, "binarize_spec", None) or {}
    arguments = spec.get("kwargs", {})
    size = arguments.get("img_size")
    if isinstance(size, int):
        height = width = size
    elif isinstance(size, (list, tuple)) and len(size) == 2:
        height, width = size
    return int(arguments.get("in_chans", channels)), int(height), int(width)
