"""The shape of what a packed layer gives, from the shape of what it is given."""

from __future__ import annotations

from collections.abc import Sequence

from binarize.conv_sizes import Pads, conv_size, same_pads, transposed_size
from binarize.errors import ConfigError
from binarize.runtime.spec import PackedSpec


def pads_of(spec: PackedSpec, size: Sequence[int]) -> Pads:
    """Low and high side per spatial dim by which the layer pads a map of this size."""
    return same_pads(size, spec.kernel, spec.stride, spec.dilation) if spec.same else spec.padding


def result_shape(spec: PackedSpec, shape: Sequence[int], extra: Sequence[int] = ()) -> tuple[int, ...] | None:
    """The shape of the result; None for an input that the layer does not take.

    Args:
        spec: of the layer.
        shape: (N, Cin, ...), or (..., Cin) if `linear`.
        extra: output padding of a transposed convolution, one number per spatial dim.
    """
    if spec.kind == "linear":
        fits = bool(shape) and shape[-1] == spec.in_channels
        return (*shape[:-1], spec.out_channels) if fits else None
    if len(shape) != 2 + len(spec.kernel) or shape[1] != spec.in_channels:
        return None
    size = shape[2:]
    sides = (size, spec.kernel, spec.stride, pads_of(spec, size), spec.dilation)
    result = transposed_size(*sides, extra) if spec.kind == "transposed" else conv_size(*sides)
    return (shape[0], spec.out_channels, *result) if min(result) > 0 else None


def extra_of(spec: PackedSpec, output_size: Sequence[int] | None, size: Sequence[int]) -> tuple[int, ...]:
    """Output padding of a transposed convolution that makes `output_size` of a map of this size.

    Args:
        spec: of the layer.
        output_size: as in nn.ConvTranspose2d; None for the layer's own output padding.
        size: of the input, one number per spatial dim.

    Raises:
        ConfigError: a size that no output padding makes.
    """
    if output_size is None:
        return spec.output_padding
    sides = (size, spec.kernel, spec.stride, spec.padding, spec.dilation)
    least = transposed_size(*sides, (0,) * len(spec.kernel))
    wanted = list(output_size)[-len(least) :]
    extra = tuple(want - low for want, low in zip(wanted, least, strict=True))
    if any(not 0 <= e < s for e, s in zip(extra, spec.stride, strict=True)):
        most = [low + s - 1 for low, s in zip(least, spec.stride, strict=True)]
        raise ConfigError(f"output_size={list(output_size)}: expected sizes from {list(least)} to {most}.")
    return extra
