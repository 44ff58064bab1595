"""What a model says about itself: its class, its plan, and the size of its input images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

DEFAULT_SIZE = (3, 224, 224)
"""(C, H, W) of the images of a model that records no size."""

ImageSize = tuple[int, int, int]


def qualified_name(model: nn.Module) -> str:
    """Module and name of the model's class."""
    return f"{type(model).__module__}.{type(model).__qualname__}"


def first_nan(model: nn.Module) -> str:
    """Name of the first parameter or buffer that holds NaN; empty if none does."""
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_floating_point() and not tensor.is_meta and bool(tensor.detach().isnan().any()):
            return name
    return ""


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


def built_size(model: nn.Module) -> ImageSize | None:
    """(C, H, W) of the images that `model` was built for; None if nothing says it.

    In this order: its arguments `img_size` and `in_chans`, if it remembers them; what its modules say:
    the `img_size` of timm's patch embedding, the channels of the first convolution; timm's configuration.
    """
    known = configured_size(model)
    arguments = (getattr(model, "binarize_spec", None) or {}).get("kwargs", {})
    said = (_edges(getattr(module, "img_size", None)) for module in model.modules())
    size = _edges(arguments.get("img_size")) or next((edges for edges in said if edges), None)
    if known is None and size is None and "in_chans" not in arguments:
        return None
    channels, height, width = known or DEFAULT_SIZE
    height, width = size or (height, width)
    return int(arguments.get("in_chans") or _first_channels(model) or channels), height, width


def input_size(model: nn.Module) -> ImageSize:
    """(C, H, W) of the images that `model` is used on, by default.

    Those that it was converted on; else those that it was built for (`built_size`); else `DEFAULT_SIZE`.
    """
    return converted_size(model) or built_size(model) or DEFAULT_SIZE


def _edges(size: Any) -> tuple[int, int] | None:
    """(H, W) of an argument or attribute that is a number or two, else None."""
    if isinstance(size, int) and not isinstance(size, bool):
        return size, size
    if isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(n, int) for n in size):
        return int(size[0]), int(size[1])
    return None


def _first_channels(model: nn.Module) -> int | None:
    """C of the image, if the first convolution is one of images; some take them in parts, or a map."""
    from torch.nn import Conv2d

    first = next((m for m in model.modules() if isinstance(m, Conv2d)), None)
    return first.in_channels if first is not None and first.groups == 1 and first.in_channels <= 4 else None
