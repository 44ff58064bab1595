"""Output sizes and padding of convolutions, for every module that needs them; sizes may be symbolic."""

from __future__ import annotations

from collections.abc import Sequence

Pads = tuple[tuple[int, int], ...]


def reach(kernel: int, dilation: int) -> int:
    """Positions that a kernel covers along one axis: d (k - 1) + 1."""
    return dilation * (kernel - 1) + 1


def conv_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Pads,
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Output positions of a convolution (or pool) per spatial dim, floor((n + pads - reach) / s) + 1.

    Args:
        size: of the input map.
        kernel: taps.
        stride: as in torch.
        pads: low and high side per dim.
        dilation: as in torch.
    """
    sides = zip(size, kernel, stride, pads, dilation, strict=True)
    return tuple((n + low + high - reach(k, d)) // s + 1 for n, k, s, (low, high), d in sides)


def transposed_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Pads,
    dilation: Sequence[int],
    extra: Sequence[int],
) -> tuple[int, ...]:
    """Output positions of a transposed convolution: `extra` is its output padding."""
    sides = zip(size, kernel, stride, pads, dilation, extra, strict=True)
    return tuple((n - 1) * s - low - high + reach(k, d) + more for n, k, s, (low, high), d, more in sides)


def same_pads(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Pads:
    """Padding of TensorFlow's "SAME" for a map of `size`: the output has ceil(n / s) positions.

    If the total is odd, the high side gets one more.
    """
    sides = zip(size, kernel, stride, dilation, strict=True)
    return halves([max(((n + s - 1) // s - 1) * s + reach(k, d) - n, 0) for n, k, s, d in sides])


def static_same_pads(kernel: Sequence[int], dilation: Sequence[int]) -> Pads:
    """Padding of torch's `padding="same"`: `reach` - 1 in total, for stride 1."""
    return halves([reach(k, d) - 1 for k, d in zip(kernel, dilation, strict=True)])


def halves(totals: Sequence[int]) -> Pads:
    """Each total as low and high side."""
    return tuple((total // 2, total - total // 2) for total in totals)
