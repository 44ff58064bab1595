"""What a packed layer computes, in plain torch: exact; every other implementation is measured against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F

from binarize.functional import Geometry
from binarize.runtime.layer_data import LayerData
from binarize.runtime.shapes import extra_of, pads_of
from binarize.runtime.thresholds import Thresholds, activation_planes, thresholds_of

Step = Callable[[Tensor], Tensor]


def reference(
    data: LayerData,
    x: Tensor,
    output_size: Sequence[int] | None = None,
    *,
    weight: Callable[[Tensor], tuple[Tensor, ...]] | None = None,
    norm: Step | None = None,
    inner: Step | None = None,
) -> Tensor:
    """The layer: y = inner(norm(scale * P + offset * B + shift)) + bypass(x).

    Where weights or activations have several bits, scale * P is a sum over the planes of both.

    Args:
        data: the layer.
        x: (N, Cin, ...) or (..., Cin).
        output_size: of a transposed convolution, as in nn.ConvTranspose2d.
        weight: what to call in place of `weights_of`: the layer, which has unpacked its signs already.
        norm: what stands behind scale and shift because it cannot be folded.
        inner: the activation behind it; None takes that of `data`.
    """
    thresholds = thresholds_of(data, x)
    y = _products(data, x, thresholds, output_size, weight)
    if thresholds.sample_scale is not None:
        y = y * thresholds.sample_scale
    y = y + data.channels("shift", y)
    for step in (norm, inner):
        y = y if step is None else step(y)
    if inner is None and data.inner is not None:
        y = data.inner(y, data.spec.dim)
    return y if data.bypass is None else data.bypass(x, y.shape[2:], y)


def _products(
    data: LayerData,
    x: Tensor,
    thresholds: Thresholds,
    output_size: Sequence[int] | None,
    weight: Callable[[Tensor], tuple[Tensor, ...]] | None,
) -> Tensor:
    """The sum scale * P + offset * B."""
    parts = activation_planes(data, x, thresholds)
    values = parts[0][0]
    weights = weights_of(data, values) if weight is None else weight(values)
    y: Tensor | None = None
    for plane, scale in zip(weights, data.scales(), strict=True):
        for values, factor in parts:
            found, window_sum = product(data, values, output_size, plane)
            found = found * data.lined_up(scale, found)
            found = found if factor is None else found * factor
            if window_sum is not None:
                found = found + window_sum * data.channels("offset", found)
            y = found if y is None else y + found
    if y is None:
        raise RuntimeError("no weights")
    return y


def product(
    data: LayerData, values: Tensor, output_size: Sequence[int] | None = None, weight: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Sums under the kernel: with the weights' signs, P, and with ones, B (None without `spec.offset`).

    For values of +-1, P is a whole number and exact.

    Args:
        data: the layer.
        values: (N, Cin, ...) or (..., Cin).
        output_size: of a transposed convolution, as in nn.ConvTranspose2d.
        weight: one of `weights_of`; None for the first.

    Returns:
        (N, Cout, ...) or (..., Cout), and the same.
    """
    spec = data.spec
    weight = weights_of(data, values)[0] if weight is None else weight
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


def weights_of(data: LayerData, like: Tensor) -> tuple[Tensor, ...]:
    """The signs of each plane in the layout of torch's convolution, in the dtype of `like`."""
    planes = [data.signs(like.dtype, plane) for plane in range(data.spec.weight_planes)]
    if data.spec.kind == "transposed":
        back = Geometry((), (), (), data.spec.groups, True).filters_back
        planes = [back(signs).contiguous() for signs in planes]
    return tuple(planes)


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
