"""`torch.ops.binarize`: the operators that a packed network is made of.

Each has a fake implementation (shapes only) and one for the CPU on the native library, and can be called
through torch's dispatcher, in `torch.compile`, `torch.export` and AOTInductor. Importing this module
registers them.

`layer` is a packed layer with all that a program can put around it. Its text `spec` is JSON as in a packed
file (`PackedSpec.as_dict`). Activations are four optional vectors over channels (before, negative, positive,
after) and, for a clamp, two bounds (`binarize.native.epilogue.Activation`). `normed` is the layer norm of a
packed linear layer's result y with what follows it, x being the layer's input (or none, without a bypass).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from binarize.functional import channel_bypass
from binarize.native.epilogue import Activation
from binarize.runtime.layer_data import LayerData, spec_of_text
from binarize.runtime.native_layer import Extras, NativeLayer
from binarize.runtime.operator_arguments import (
    activation_of_arguments,
    resize_of_arguments,
    tail_of_arguments,
)
from binarize.runtime.packed_weights import native_layer
from binarize.runtime.pointwise_code import Code, apply, run
from binarize.runtime.reference import reference
from binarize.runtime.shapes import extra_of, result_shape

_library = torch.library.Library("binarize", "FRAGMENT")
_library.define(
    "layer(Tensor x, Tensor bits, Tensor vectors, str spec, Tensor?[] inner, Tensor?[] activation, *, "
    "bool exact_scales=True, int threads=0, int[]? output_size=None, Tensor? sums_of_x=None, "
    "int[] resize=[], float[] bounds=[], Tensor? residual=None, Tensor? tail_weight=None, "
    "Tensor? tail_bias=None, bool with_sums=False) -> (Tensor, Tensor)"
)
_library.define(
    "piecewise(Tensor x, Tensor? before, Tensor? negative, Tensor? positive, Tensor? after, int dim) "
    "-> Tensor"
)
_library.define(
    "pointwise(Tensor[] operands, Tensor[] vectors, str code, *, bool with_sums=False) -> (Tensor, Tensor)"
)
_library.define("linear(Tensor x, Tensor weight, Tensor? bias, str op, float p, float q) -> Tensor")
_library.define(
    "normed(Tensor y, Tensor? x, Tensor? weight, Tensor? bias, Tensor?[] inner, Tensor?[] activation, "
    "float eps, *, float[] bounds=[], Tensor? residual=None, bool with_sums=False) -> (Tensor, Tensor)"
)
_library.define("mean(Tensor x, Tensor? sums) -> Tensor")
_library.define(
    "stem(Tensor x, Tensor weight, Tensor? bias, Tensor?[] norm, float eps, Tensor?[] activation, "
    "float[] bounds, int[] stride, int[] padding, int[] pool, *, bool with_sums=False) -> (Tensor, Tensor)"
)


def native_of(
    bits: Tensor, vectors: Tensor, spec: str, inner: Sequence[Tensor | None], given: Mapping[str, Any]
) -> NativeLayer | None:
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
) -> tuple[Tensor, Tensor]:
    data = LayerData(
        spec=spec_of_text(spec), bits=bits, vectors=vectors, inner=activation_of_arguments(inner)
    )
    x = x.resolve_neg()
    channels = data.spec.out_channels
    sums = x.new_empty((x.shape[0], channels) if with_sums else (0,))
    extras = Extras(
        resize=resize_of_arguments(resize),
        second=activation_of_arguments(activation, bounds),
        residual=residual,
        sums_of_x=sums_of_x,
        sums=sums if with_sums else None,
        tail=None if tail_weight is None else tail_of_arguments(tail_weight, tail_bias),
    )
    native: NativeLayer | None = None
    if x.dtype == torch.float32 and x.numel():
        native = native_layer(data, threads=threads or None, exact_scales=exact_scales, keep=True)
    y = None if native is None else native(x, output_size, extras)
    return (_by_reference(data, x, output_size, extras) if y is None else y), sums


def _by_reference(data: LayerData, x: Tensor, output_size: Sequence[int] | None, extras: Extras) -> Tensor:
    x = x if extras.resize is None else extras.resize(x)
    y = reference(data, x, output_size)
    if extras.second is not None:
        y = extras.second(y, data.spec.dim)
    if extras.residual is not None:
        y = y + extras.residual
    if extras.sums is not None:
        extras.sums.copy_(channel_sums(y, data.spec.dim))
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
    **others: Any,
) -> tuple[Tensor, Tensor]:
    known = spec_of_text(spec)
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
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )
    return y, x.new_empty((x.shape[0], known.out_channels) if with_sums else (0,))


def _piecewise(
    x: Tensor,
    before: Tensor | None,
    negative: Tensor | None,
    positive: Tensor | None,
    after: Tensor | None,
    dim: int,
) -> Tensor:
    activation = Activation(
        kind="piecewise", before=before, negative=negative, positive=positive, after=after
    )
    return activation(x.movedim(dim, -1), -1).movedim(-1, dim)


def channel_sums(y: Tensor, dim: int = 1) -> Tensor:
    """(N, C): sums over positions of (N, C, ...) or, with dim -1, (N, ..., C)."""
    y = y.movedim(dim, 1)
    return y.reshape(*y.shape[:2], -1).sum(2)


def _pointwise(
    operands: list[Tensor], vectors: list[Tensor], code: str, *, with_sums: bool = False
) -> tuple[Tensor, Tensor]:
    known = Code.of_text(code)
    y = run(known, operands, vectors)
    return y, channel_sums(y, known.dim) if with_sums else y.new_empty(0)


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


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, op: str, p: float, q: float) -> Tensor:
    flat = weight.flatten(1)
    y = F.linear(x, flat, bias) if weight.dim() == 2 else F.conv2d(x, flat[..., None, None], bias)
    return apply(op, y, p, q)


def _mean(x: Tensor, sums: Tensor | None) -> Tensor:
    if sums is None:
        return x.mean((2, 3), keepdim=True)
    return (sums / (x.shape[2] * x.shape[3]))[..., None, None]


def _stem(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: list[Tensor | None],
    eps: float,
    activation: list[Tensor | None],
    bounds: list[float],
    stride: list[int],
    padding: list[int],
    pool: list[int],
    *,
    with_sums: bool = False,
) -> tuple[Tensor, Tensor]:
    y = F.conv2d(x, weight, bias, stride, padding)
    if norm:
        mean, variance, factor, constant = norm
        y = F.batch_norm(y, mean, variance, factor, constant, eps=eps)
    if (second := activation_of_arguments(activation, bounds)) is not None:
        y = second(y)
    if pool:
        y = F.max_pool2d(y, pool[:2], pool[2:4], pool[4:6])
    return y, channel_sums(y) if with_sums else y.new_empty(0)


_library.impl("layer", _layer, "CPU")
_library.impl("piecewise", _piecewise, "CPU")
torch.library.register_fake("binarize::layer", _fake_layer, lib=_library)
torch.library.register_fake("binarize::piecewise", lambda x, *_: torch.empty_like(x), lib=_library)
for _name, _function in (
    ("pointwise", _pointwise),
    ("normed", _normed),
    ("linear", _linear),
    ("mean", _mean),
    ("stem", _stem),
):
    _library.impl(_name, _function, "CPU")
    torch.library.register_fake(f"binarize::{_name}", _function, lib=_library)

pointwise = torch.ops.binarize.pointwise.default
normed = torch.ops.binarize.normed.default
linear = torch.ops.binarize.linear.default
mean = torch.ops.binarize.mean.default
stem = torch.ops.binarize.stem.default
layer = torch.ops.binarize.layer.default
piecewise = torch.ops.binarize.piecewise.default
