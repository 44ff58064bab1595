"""timm networks as encoders: one contract (maps of known width and layout) for any of them.

What differs between encoders (layout of the maps, which input sizes they take) is found out once, when a
network is built, by running a shell of the encoder without weights: nothing in a forward pass depends on it.
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
from binarize.model_info import DEFAULT_SIZE, configured_size
from binarize.networks.on_meta import readable_numbers

# Options under which an encoder made for one input size takes others. An encoder that does not know an
# option refuses it when it is built, so they are simply tried.
_ANY_SIZE: tuple[Mapping[str, Any], ...] = ({}, {"dynamic_img_size": True}, {"strict_img_size": False})

# timm raises different errors for "no such option", "no such tag", "no feature maps" and "not at this size".
_REFUSALS = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    """What a decoder needs to know about an encoder.

    Attributes:
        channels: width of each map that is used, finest first.
        strides: input pixels per map pixel, of the same maps.
        indices: positions of these maps among all that the encoder returns.
        channels_last: whether the maps come as (N, H, W, C) instead of (N, C, H, W).
        multiple: height and width of the encoder's input must be multiples of this; 1 is any size.
        fixed_size: the one (H, W) that the encoder takes, or None.
        options: what timm is given besides the name.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    indices: tuple[int, ...]
    channels_last: bool = False
    multiple: int = 1
    fixed_size: tuple[int, int] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def _freedom(self) -> tuple[bool, int]:
        """The smaller, the more input sizes the encoder takes."""
        return self.fixed_size is not None, self.multiple


def create_encoder(
    name: str,
    *,
    pretrained: bool = False,
    levels: int = 4,
    img_size: int | Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, EncoderInfo]:
    """The timm network `name` as a feature extractor, and a description of its maps.

    Args:
        name: a timm model, with or without a pretrained tag: `convnext_tiny`, `convnext_tiny.fb_in1k`.
        pretrained: whether to load timm's pretrained weights, the only thing here that may use the network.
        levels: how many maps to use at most, counted from the coarsest.
        img_size: size (H, W) that an encoder with a fixed input size is built for. By default an encoder is
            built so that it takes as many sizes as it can.
        options: further ones of `timm.create_model`: `output_stride`, `out_indices`.

    Raises:
        ConfigError: if timm has no such model or tag, it gives fewer than two maps of a known layout, it does
            not take an option, or its weights cannot be loaded.
    """
    info = examine_encoder(name, levels=levels, img_size=img_size, options=options)
    try:
        with readable_numbers():
            return timm.create_model(name, features_only=True, pretrained=pretrained, **info.options), info
    except Exception as error:  # a download may fail with any error
        if not pretrained:
            raise
        raise ConfigError(f"encoder {name!r}: its pretrained weights cannot be loaded ({error}).") from error


def examine_encoder(
    name: str,
    *,
    levels: int = 4,
    img_size: int | Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> EncoderInfo:
    """What `create_encoder` would build, determined without its weights.

    Raises:
        ConfigError: as `create_encoder`.
    """
    check_name(name)
    size = tuple(img_size) if isinstance(img_size, Sequence) else img_size
    trials = _ANY_SIZE if size is None else ({"img_size": size},)
    best: EncoderInfo | None = None
    reason = ""
    for trial in trials:
        try:
            info = _examine(name, {**(options or {}), **trial}, levels)
        except _REFUSALS as error:
            reason = reason or f"{type(error).__name__}: {error}"
            continue
        if best is None or info._freedom < best._freedom:
            best = info
        if best.fixed_size is None and best.multiple <= max(best.strides):
            break
    if best is None:
        raise ConfigError(f"encoder {name!r} cannot be used ({reason}). Choose another model or img_size.")
    return best


def check_name(name: str) -> None:
    """Refuse an encoder that timm does not have.

    Raises:
        ConfigError: with near names.
    """
    if not timm.is_model(name):
        raise ConfigError(unknown_name("encoder", name, timm.list_models(), "binarize models"))


def block_strides(name: str) -> list[int]:
    """Input pixels per map pixel behind each block (vision transformers) or stage (other models) of a model.

    Raises:
        ConfigError: if timm has no such model, or the model does not say it.
    """
    check_name(name)
    try:
        shell: Any = _shell("meta", name, {})
        return [int(block["reduction"]) for block in shell.feature_info]
    except _REFUSALS as error:
        raise ConfigError(f"encoder {name!r} does not say which maps it has ({error}).") from error


def _examine(name: str, options: Mapping[str, Any], levels: int) -> EncoderInfo:
    # The meta device costs neither memory nor time; encoders that ask tensors for their values run for real.
    try:
        return _examine_on("meta", name, options, levels)
    except _REFUSALS as error:
        if "meta" not in str(error):
            raise
    return _examine_on("cpu", name, options, levels)


def _examine_on(device: str, name: str, options: Mapping[str, Any], levels: int) -> EncoderInfo:
    shell = _shell(device, name, {"features_only": True, **options})
    widths = [int(c) for c in shell.feature_info.channels()]
    strides = [int(s) for s in shell.feature_info.reduction()]
    if len(widths) < 2:
        raise ValueError(f"it gives {len(widths)} map, a decoder needs at least 2")
    maps, multiple, fixed = _run(shell, device, max(strides), _own_size(shell, options))
    used = range(max(0, len(widths) - levels), len(widths))
    return EncoderInfo(
        channels=tuple(widths[i] for i in used),
        strides=tuple(strides[i] for i in used),
        indices=tuple(used),
        channels_last=_is_channels_last(maps, widths),
        multiple=multiple,
        fixed_size=fixed,
        options=dict(options),
    )


def _shell(device: str, name: str, options: Mapping[str, Any]) -> Any:
    """A model without useful weights, in evaluation mode; the random state stays as it is."""
    # Some initialisers warn that they do nothing on the meta device; elsewhere they draw random numbers.
    with torch.device(device), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        with readable_numbers():
            return timm.create_model(name, **options).eval()


def _run(
    shell: nn.Module, device: str, coarsest: int, own: tuple[int, int]
) -> tuple[list[Tensor], int, tuple[int, int] | None]:
    """The maps at the least restricted size at which the encoder runs, and (multiple, fixed size)."""
    # Sizes to try, the least restricted first: odd sizes, multiples of the coarsest stride, multiples
    # of its own size (windows of attention), its own size.
    trials: list[tuple[tuple[int, int], int, tuple[int, int] | None]] = [
        ((6 * coarsest + 3, 4 * coarsest + 5), 1, None),
        ((6 * coarsest, 5 * coarsest), coarsest, None),
        *([((own[0], 2 * own[0]), own[0], None)] if own[0] == own[1] else []),
        (own, 1, own),
    ]
    failure: Exception | None = None
    for size, multiple, fixed in trials:
        try:
            with torch.no_grad():
                return list(shell(torch.zeros(1, 3, *size, device=device))), multiple, fixed
        except _REFUSALS as error:
            failure = error
    raise ValueError(f"it does not run at its own input size {own[0]}x{own[1]}: {failure}")


def _own_size(shell: Any, options: Mapping[str, Any]) -> tuple[int, int]:
    size = options.get("img_size")
    if size is None:
        size = (configured_size(shell) or DEFAULT_SIZE)[1:]
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _is_channels_last(maps: Sequence[Tensor], widths: Sequence[int]) -> bool:
    for dim in (1, 3):
        if all(f.dim() == 4 and f.shape[dim] == c for f, c in zip(maps, widths, strict=True)):
            return dim == 3
    shapes = [tuple(f.shape) for f in maps]
    raise ValueError(f"its maps {shapes} hold the widths {list(widths)} neither in dim 1 nor in dim 3")
