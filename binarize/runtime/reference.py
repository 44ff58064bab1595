"""What a packed layer computes, in plain torch: exact; every other implementation is measured against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F

from binarize.functional import Geometry
from binarize.runtime.layer_data import LayerData
from binarize.runtime.shapes import extra_of, pads_of
from binarize.runtime.thresholds import quantized, thresholds_of

Step = Callable[[Tensor], Tensor]


def reference(
    data: LayerData,
    x: Tensor,
    output_size: Sequence[int] | None = None,
    *,
    weight: Step | None = None,
    norm: Step | None = None,
    inner: Step | None = None,
) -> Tensor:
    """The layer: y = inner(norm(scale * P + offset * B + shift)) + bypass(x).

    Args:
        data: the layer.
        x: (N, Cin, ...) or (..., Cin).
        output_size: of a transposed convolution, as in nn.ConvTranspose2d.
        weight: gives the result of `weight_of` for the quantized input, if somebody keeps it.
        norm: what stands behind scale and shift because it cannot be folded.
        inner: the activation behind it; None takes that of `data`.
    """
    thresholds = thresholds_of(data, x)
    values = quantized(x, thresholds, data.spec.dim)
    y, window_sum = product(data, values, output_size, None if weight is None else weight(values))
    y = y * data.channels("scale", y)
    if window_sum is not None:
        y = y + window_sum * data.channels("offset", y)
    if thresholds.sample_scale is not None:
        y = y * thresholds.sample_scale
    y = y + data.channels("shift", y)
    for step in (norm, inner):
        y = y if step is None else step(y)
    if inner is None and data.inner is not None:
        y = data.inner(y, data.spec.dim)
    return y if data.bypass is None else data.bypass(x, y.shape[2:], y)


def product(
    data: LayerData, values: Tensor, output_size: Sequence[int] | None = None, weight: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Sums under the kernel: with the weights' signs, P, and with ones, B (None without `spec.offset`).

    For values of +-1, P is a whole number and exact.

    Args:
        data: the layer.
        values: (N, Cin, ...) or (..., Cin).
        output_size: of a transposed convolution, as in nn.ConvTranspose2d.
        weight: of `weight_of`, if it is known.

    Returns:
        (N, Cout, ...) or (..., Cout), and the same.
    """
    spec = data.spec
    weight = weight_of(data, values) if weight is None else weight
    if spec.kind == "linear":
        window_sum = values.sum(-1, keepdim=True) if spec.offset else None
        return F.linear(values, weight), window_sum
    values, geometry = _padded(data, values, output_size)
    result = geometry.convolve(values, weight, None)
    if not spec.offset:
        return result, None
    ones = geometry.filters_back(values.new_ones(spec.groups, *spec.weight_shape[1:]))
    window_sum = geometry.convolve(values, ones, None)
    return result, window_sum.repeat_interleave(spec.out_channels // spec.groups, 1)


def weight_of(data: LayerData, like: Tensor) -> Tensor:
    """The signs in the layout of torch's convolution, in the dtype of `like`."""
    signs = data.signs(like.dtype)
    if data.spec.kind == "transposed":
        signs = Geometry((), (), (), data.spec.groups, True).filters_back(signs).contiguous()
    return signs


def _padded(data: LayerData, values: Tensor, output_size: Sequence[int] | None) -> tuple[Tensor, Geometry]:
    """The values with the padding that torch's convolution cannot do, and the geometry for the rest."""
    spec = data.spec
    pads = pads_of(spec, values.shape[2:])
    inside = spec.padding_mode == "zeros" and all(low == high for low, high in pads)
    padding = tuple(low if inside else 0 for low, _ in pads)
    if not inside:
        mode = "constant" if spec.padding_mode == "zeros" else spec.padding_mode
        values = F.pad(values, [side for pair in reversed(pads) for side in pair], mode=mode)
    transposed = spec.kind == "transposed"
    extra = extra_of(spec, output_size, values.shape[2:]) if transposed else ()
    return values, Geometry(spec.stride, padding, spec.dilation, spec.groups, transposed, extra)
