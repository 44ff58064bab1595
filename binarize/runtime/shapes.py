"""The shape of what a packed layer gives, from the shape of what it is given."""

from __future__ import annotations

from collections.abc import Sequence

from binarize.runtime.spec import PackedSpec


def same_pads(spec: PackedSpec, size: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Low and high side per spatial dim, as TensorFlow's "SAME" pads a map of this size."""
    pads = []
    for n, k, s, d in zip(size, spec.kernel, spec.stride, spec.dilation, strict=True):
        total = max(((n + s - 1) // s - 1) * s + d * (k - 1) + 1 - n, 0)
        pads.append((total // 2, total - total // 2))
    return tuple(pads)


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
    pads = same_pads(spec, size) if spec.same else spec.padding
    sides = list(zip(size, spec.kernel, spec.stride, spec.dilation, pads, strict=True))
    if spec.kind == "transposed":
        result = [(n - 1) * s - low - high + d * (k - 1) + 1 for n, k, s, d, (low, high) in sides]
        result = [n + more for n, more in zip(result, extra, strict=True)]
    else:
        result = [(n + low + high - d * (k - 1) - 1) // s + 1 for n, k, s, d, (low, high) in sides]
    return (shape[0], spec.out_channels, *result) if min(result) > 0 else None
