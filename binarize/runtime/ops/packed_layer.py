"""Operators of a packed layer.

`layer` is a packed layer with all that a program can put around it. Its text `spec` is JSON as in a packed
file (`PackedSpec.as_dict`). `normed` is the layer norm of a packed linear layer's result y with what follows
it, x being the layer's input (or none, without a bypass).

Between two layers a plane of bits may take the place of a map (`ops.planes`): `next_plane` describes the one
that a layer gives, of the bits next_mul * y + next_add >= 0, and `plane` the one that it gets as its x.

A program may store maps as bfloat16: with `as_bf16` a layer's result is, with `from_bf16` its x or residual
may be. All sums are of float32, also `sums`, which are those of the values before they are rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from binarize.functional import channel_bypass
from binarize.runtime.kernel_arguments import quantizer_arguments
from binarize.runtime.layer_data import LayerData, spec_of_text
from binarize.runtime.native_layer import Extras, NativeLayer
from binarize.runtime.native_planes import NativePlanes
from binarize.runtime.ops.arguments import (
    activation_of_arguments,
    resize_of_arguments,
    tail_of_arguments,
)
from binarize.runtime.ops.common import channel_sums, register, widened
from binarize.runtime.ops.planes import map_of, plane_of, plane_words
from binarize.runtime.packed_weights import native_layer
from binarize.runtime.reference import reference
from binarize.runtime.shapes import extra_of, result_shape


def native_of(
    bits: Tensor, vectors: Tensor, spec: str, inner: Sequence[Tensor | None], given: Mapping[str, Any]
) -> NativeLayer | NativePlanes | None:
    """Packed weights of the layer that an operator's arguments describe; None if torch computes it."""
    data = LayerData(
        spec=spec_of_text(spec), bits=bits, vectors=vectors, inner=activation_of_arguments(inner)
    )
    exact = given.get("exact_scales", True)
    return native_layer(data, threads=given.get("threads", 0) or None, exact_scales=exact)


def _layer(
    x: Tensor,
    bits: Tensor,
    vectors: Tensor,
    spec: str,
    inner: list[Tensor | None],
    activation: list[Tensor | None],
    *,
    exact_scales: bool = True,
    threads: int = 0,
    output_size: list[int] | None = None,
    sums_of_x: Tensor | None = None,
    resize: Sequence[int] = (),
    bounds: Sequence[float] = (),
    residual: Tensor | None = None,
    tail_weight: Tensor | None = None,
    tail_bias: Tensor | None = None,
    with_sums: bool = False,
    plane: Sequence[int] = (),
    next_plane: Sequence[int] = (),
    next_mul: Tensor | None = None,
    next_add: Tensor | None = None,
    as_bf16: bool = False,
    from_bf16: bool = False,
) -> tuple[Tensor, Tensor]:
    data = LayerData(
        spec=spec_of_text(spec), bits=bits, vectors=vectors, inner=activation_of_arguments(inner)
    )
    if plane:
        x = map_of(x, plane, quantizer_arguments(data).get("mul"))
    x = widened(x) if from_bf16 else x.resolve_neg()
    channels = data.spec.out_channels
    sums = x.new_empty((x.shape[0], channels) if with_sums else (0,))
    extras = Extras(
        resize=resize_of_arguments(resize),
        second=activation_of_arguments(activation, bounds),
        residual=widened(residual) if from_bf16 and residual is not None else residual,
        sums_of_x=sums_of_x,
        sums=sums if with_sums else None,
        tail=None if tail_weight is None else tail_of_arguments(tail_weight, tail_bias),
    )
    native: NativeLayer | NativePlanes | None = None
    if x.dtype == torch.float32 and x.numel():
        native = native_layer(data, threads=threads or None, exact_scales=exact_scales, keep=True)
    y = None if native is None else native(x, output_size, extras)
    if y is None:
        y = _finished(reference(data, _resized(x, extras), output_size), extras, data.spec.dim)
    elif isinstance(native, NativePlanes) and not native.fused:
        y = _finished(y, extras, data.spec.dim)
    if next_plane:
        return plane_of(y, next_plane, next_mul, next_add), sums
    return y.bfloat16() if as_bf16 else y, sums


def _resized(x: Tensor, extras: Extras) -> Tensor:
    return x if extras.resize is None else extras.resize(x)


def _finished(y: Tensor, extras: Extras, dim: int) -> Tensor:
    """What a program put behind a layer, by torch."""
    if extras.second is not None:
        y = extras.second(y, dim)
    if extras.residual is not None:
        y = y + extras.residual
    if extras.sums is not None:
        extras.sums.copy_(channel_sums(y, dim))
    if extras.tail is None:
        return y
    return F.conv2d(y, extras.tail.weight[..., None, None], extras.tail.bias)


def _fake_layer(
    x: Tensor,
    bits: Tensor,
    vectors: Tensor,
    spec: str,
    inner: list[Tensor | None],
    activation: list[Tensor | None],
    *,
    output_size: list[int] | None = None,
    resize: Sequence[int] = (),
    tail_weight: Tensor | None = None,
    with_sums: bool = False,
    plane: Sequence[int] = (),
    next_plane: Sequence[int] = (),
    as_bf16: bool = False,
    from_bf16: bool = False,
    **others: Any,
) -> tuple[Tensor, Tensor]:
    known = spec_of_text(spec)
    if plane:
        x = x.new_empty(tuple(plane[:4]), dtype=torch.float32)
    dtype = torch.float32 if from_bf16 else x.dtype
    size = tuple(resize[:2]) if resize else x.shape[2:]
    given = x.shape if known.kind == "linear" else (*x.shape[:2], *size)
    extra = extra_of(known, output_size, given[2:]) if known.kind == "transposed" else ()
    shape = result_shape(known, given, extra)
    if shape is None:
        raise RuntimeError(
            f"a packed {known.kind} layer of {known.in_channels} channels got {tuple(x.shape)}"
        )
    if tail_weight is not None:
        shape = (shape[0], tail_weight.shape[0], *shape[2:])
    # the memory format is part of the result, as the kernels give it: channels next to each other
    last = known.kind != "linear" and len(shape) == 4
    y = torch.empty(
        shape,
        dtype=torch.bfloat16 if as_bf16 else dtype,
        device=x.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )
    if next_plane:
        y = y.new_empty((plane_words(next_plane),), dtype=torch.int32)
    return y, x.new_empty((x.shape[0], known.out_channels) if with_sums else (0,), dtype=dtype)


def _normed(
    y: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    inner: list[Tensor | None],
    activation: list[Tensor | None],
    eps: float,
    *,
    bounds: Sequence[float] = (),
    residual: Tensor | None = None,
    with_sums: bool = False,
) -> tuple[Tensor, Tensor]:
    y = F.layer_norm(y, y.shape[-1:], weight, bias, eps)
    if (first := activation_of_arguments(inner)) is not None:
        y = first(y, -1)
    if x is not None:
        y = y + channel_bypass(x, y.shape[-1], -1)
    if (second := activation_of_arguments(activation, bounds)) is not None:
        y = second(y, -1)
    if residual is not None:
        y = y + residual
    return y, channel_sums(y, -1) if with_sums else y.new_empty(0)


layer = register(
    "layer(Tensor x, Tensor bits, Tensor vectors, str spec, Tensor?[] inner, Tensor?[] activation, *, "
    "bool exact_scales=True, int threads=0, int[]? output_size=None, Tensor? sums_of_x=None, "
    "int[] resize=[], float[] bounds=[], Tensor? residual=None, Tensor? tail_weight=None, "
    "Tensor? tail_bias=None, bool with_sums=False, int[] plane=[], int[] next_plane=[], "
    "Tensor? next_mul=None, Tensor? next_add=None, bool as_bf16=False, "
    "bool from_bf16=False) -> (Tensor, Tensor)",
    _layer,
    fake=_fake_layer,
)
normed = register(
    "normed(Tensor y, Tensor? x, Tensor? weight, Tensor? bias, Tensor?[] inner, Tensor?[] activation, "
    "float eps, *, float[] bounds=[], Tensor? residual=None, bool with_sums=False) -> (Tensor, Tensor)",
    _normed,
)
