"""timm networks as encoders: one contract (maps of known width and layout) for any of them.

What differs between encoders (layout of the maps, which input sizes they take) is found out once, on the
meta device, when a network is built: nothing in a forward pass depends on the data.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor, nn

from binarize.errors import ConfigError, unknown_name

# Options under which an encoder made for one input size takes others. An encoder that does not know an
# option refuses it when it is built, so they are simply tried.
_ANY_SIZE: tuple[Mapping[str, Any], ...] = ({}, {"dynamic_img_size": True}, {"strict_img_size": False})


@dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    """What a decoder has to know of an encoder.

    Attributes:
        channels: width of each map that is used, finest first.
        strides: input pixels per map pixel, of the same maps.
        indices: positions of these maps among all that the encoder returns.
        channels_last: whether the maps come as (N, H, W, C) instead of (N, C, H, W).
        multiple: height and width of the input must be multiples of this; 1 is any size.
        options: what timm is given besides the name.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    indices: tuple[int, ...]
    channels_last: bool
    multiple: int
    options: Mapping[str, Any] = field(default_factory=dict)


def create_encoder(
    name: str, *, pretrained: bool = False, levels: int = 4, img_size: int | Sequence[int] | None = None
) -> tuple[nn.Module, EncoderInfo]:
    """The timm network `name` as a feature extractor, and what it gives.

    Args:
        name: a timm model, with or without a pretrained tag: `convnext_tiny`, `convnext_tiny.fb_in1k`.
        pretrained: whether to load timm's pretrained weights, the only thing here that may use the network.
        levels: how many maps to use at most, counted from the coarsest.
        img_size: size that an encoder with a fixed input size is built for. By default an encoder is built
            so that it takes as many sizes as it can.

    Raises:
        ConfigError: if timm has no such model or tag, or it gives fewer than two maps of a known layout.
    """
    if not timm.is_model(name):
        raise ConfigError(unknown_name("encoder", name, timm.list_models()))
    info = examine_encoder(name, levels=levels, img_size=img_size)
    encoder = timm.create_model(name, features_only=True, pretrained=pretrained, **info.options)
    return encoder, info


def examine_encoder(name: str, *, levels: int = 4, img_size: int | Sequence[int] | None = None) -> EncoderInfo:
    """What `create_encoder` would build, found out without allocating its weights.

    Raises:
        ConfigError: as `create_encoder`.
    """
    trials = _ANY_SIZE if img_size is None else ({"img_size": img_size},)
    best: EncoderInfo | None = None
    reason = ""
    for options in trials:
        try:
            info = _examine(name, options, levels)
        except (TypeError, RuntimeError, ValueError, AttributeError, AssertionError, IndexError) as error:
            # timm has no one error for "no such option", "no such tag" and "no feature maps"
            reason = reason or f"{type(error).__name__}: {error}"
            continue
        if best is None or info.multiple < best.multiple:
            best = info
        if best.multiple <= max(best.strides):
            break
    if best is None:
        raise ConfigError(f"encoder {name!r} cannot be used: {reason}. Choose another timm model.")
    return best


def _examine(name: str, options: Mapping[str, Any], levels: int) -> EncoderInfo:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some initialisers warn that they do nothing on this device
        shell = timm.create_model(name, features_only=True, pretrained=False, **options).eval()
    widths = [int(c) for c in shell.feature_info.channels()]
    strides = [int(s) for s in shell.feature_info.reduction()]
    if len(widths) < 2:
        raise ValueError(f"it gives {len(widths)} map(s), a decoder needs at least 2")
    multiple, maps = _smallest_multiple(shell, strides)
    channels_last = _is_channels_last(maps, widths)
    used = range(max(0, len(widths) - levels), len(widths))
    return EncoderInfo(
        channels=tuple(widths[i] for i in used),
        strides=tuple(strides[i] for i in used),
        indices=tuple(used),
        channels_last=channels_last,
        multiple=multiple,
        options=dict(options),
    )


def _smallest_multiple(shell: nn.Module, strides: Sequence[int]) -> tuple[int, list[Tensor]]:
    """What the encoder's input size must be a multiple of, and its maps (on the meta device)."""
    coarsest = max(strides)
    _, own_height, own_width = _own_input_size(shell)
    # (size to try, the multiple it shows): odd sizes, multiples of the coarsest stride, then its own size
    trials = [
        ((6 * coarsest + 3, 4 * coarsest + 5), 1),
        ((6 * coarsest, 5 * coarsest), coarsest),
        ((own_height, own_width), max(own_height, own_width)),
    ]
    failure: Exception | None = None
    for size, multiple in trials:
        try:
            with torch.no_grad():
                maps = shell(torch.empty(1, 3, *size, device="meta"))
        except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
            failure = error
            continue
        return multiple, list(maps)
    raise ValueError(f"it does not run at its own input size {own_height}x{own_width}: {failure}")


def _own_input_size(shell: nn.Module) -> tuple[int, int, int]:
    config = getattr(shell, "default_cfg", None) or getattr(shell, "pretrained_cfg", None) or {}
    size = config.get("input_size", (3, 224, 224)) if isinstance(config, Mapping) else (3, 224, 224)
    return int(size[0]), int(size[1]), int(size[2])


def _is_channels_last(maps: Sequence[Tensor], widths: Sequence[int]) -> bool:
    if all(f.dim() == 4 and f.shape[1] == c for f, c in zip(maps, widths, strict=True)):
        return False
    if all(f.dim() == 4 and f.shape[3] == c for f, c in zip(maps, widths, strict=True)):
        return True
    shapes = [tuple(f.shape) for f in maps]
    raise ValueError(f"its maps {shapes} hold the widths {list(widths)} neither in dim 1 nor in dim 3")
