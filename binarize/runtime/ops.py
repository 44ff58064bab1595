"""`torch.ops.binarize`: the operators that a packed network is made of.

Each has a fake implementation (shapes only) and one for the CPU on the native library, and can be called through
torch's dispatcher, in `torch.compile`, `torch.export` and AOTInductor. Importing this module registers them.

`layer` is a packed layer with all that a program can put around it. Its text `spec` is JSON as in a packed file
(`PackedSpec.as_dict`). Activations are four optional vectors over channels (before, negative, positive, after)
and, for a clamp, two bounds (`binarize.native.epilogue.Activation`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from binarize.bounded_cache import BoundedCache
from binarize.native.epilogue import Activation, Tail
from binarize.native.types import Resize
from binarize.runtime.kernel_support import why_not
from binarize.runtime.layer_data import LayerData, spec_of_text
from binarize.runtime.native_layer import Extras, NativeLayer
from binarize.runtime.reference import reference
from binarize.runtime.shapes import extra_of, result_shape

LAYERS = 1024
"""Most layers whose packed weights the operators keep when they are called one by one."""

_library = torch.library.Library("binarize", "FRAGMENT")
_library.define(
    "layer(Tensor x, Tensor bits, Tensor vectors, str spec, Tensor?[] inner, Tensor?[] activation, *, bool exact_scales=True, "
    "int threads=0, int[]? output_size=None, Tensor? sums_of_x=None, int[] resize=[], "
    "float[] bounds=[], Tensor? residual=None, Tensor? tail_weight=None, "
    "Tensor? tail_bias=None, bool with_sums=False) -> (Tensor, Tensor)"
)


def activation_of_arguments(arrays: Sequence[Tensor | None], bounds: Sequence[float] = ()) -> Activation | None:
    """The activation that an operator's arguments describe; None for none.

    Args:
        arrays: empty, or before, negative, positive and after of a piecewise one.
        bounds: empty, or low and high of a clamp.
    """
    if bounds:
        return Activation(kind="clamp", low=bounds[0], high=bounds[1])
    if not arrays:
        return None
    before, negative, positive, after = arrays
    return Activation(kind="piecewise", before=before, negative=negative, positive=positive, after=after)


def arguments_of_activation(
    activation: Activation | None,
) -> tuple[list[Tensor | None], list[float]] | None:
    """The inverse; None if an operator's arguments cannot hold it."""
    if activation is None or activation.kind == "none":
        return [], []
    if activation.kind == "clamp":
        return [], [activation.low, activation.high]
    return [activation.before, activation.negative, activation.positive, activation.after], []


def native_of(
    bits: Tensor, vectors: Tensor, spec: str, inner: Sequence[Tensor | None], given: Mapping[str, Any]
) -> NativeLayer | None:
    """Packed weights of the layer that an operator's arguments describe; None if torch computes it."""
    data = LayerData(
        spec=spec_of_text(spec), bits=bits, vectors=vectors, inner=activation_of_arguments(inner)
    )
    return _known.of(data, given.get("threads", 0), given.get("exact_scales", True))


def tail_of_arguments(weight: Tensor, bias: Tensor | None) -> Tail:
    """A float 1x1 convolution as the kernels take it."""
    return Tail(weight=weight.detach().flatten(1), bias=None if bias is None else bias.detach())


def resize_of_arguments(resize: Sequence[int]) -> Resize | None:
    """[height, width, align_corners] as data; None if it is empty."""
    return Resize(size=(resize[0], resize[1]), align_corners=bool(resize[2])) if resize else None


class _Known:
    """Packed weights of layers that were called one by one, as long as their tensors are the same."""

    def __init__(self) -> None:
        self._layers: BoundedCache[Any, NativeLayer | None] = BoundedCache(LAYERS)

    def of(self, data: LayerData, threads: int, exact_scales: bool) -> NativeLayer | None:
        tensors = [data.bits, data.vectors]
        if (inner := data.inner) is not None:
            tensors += [t for t in (inner.before, inner.negative, inner.positive, inner.after) if t is not None]
        marks = tuple((t.data_ptr(), -1 if t.is_inference() else t._version) for t in tensors)
        key = (data.spec, marks, threads, exact_scales)
        found = self._layers.get(key, self)
        if found is self:
            given = {"threads": threads or None, "exact_scales": exact_scales}
            made = None if why_not(data) else NativeLayer(data, **given)
            found = self._layers.keep(key, made)
        return found


_known = _Known()


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
    native = _known.of(data, threads, exact_scales) if x.dtype == torch.float32 and x.numel() else None
    y = None if native is None else native(x, output_size, extras)
    return (_by_reference(data, x, output_size, extras) if y is None else y), sums


def _by_reference(
    data: LayerData, x: Tensor, output_size: Sequence[int] | None, extras: Extras
) -> Tensor:
    x = x if extras.resize is None else extras.resize(x)
    y = reference(data, x, output_size)
    if extras.second is not None:
        y = extras.second(y, data.spec.dim)
    if extras.residual is not None:
        y = y + extras.residual
    if extras.sums is not None:
        extras.sums.copy_(y.flatten(2).sum(2) if data.spec.dim == 1 else y.flatten(1, -2).sum(1))
    if extras.tail is None:
        return y
    return torch.nn.functional.conv2d(y, extras.tail.weight[..., None, None], extras.tail.bias)


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
        raise RuntimeError(f"a packed {known.kind} layer of {known.in_channels} channels got {tuple(x.shape)}")
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


_library.define(
    "piecewise(Tensor x, Tensor? before, Tensor? negative, Tensor? positive, Tensor? after, int dim) -> Tensor"
)


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


_library.impl("layer", _layer, "CPU")
_library.impl("piecewise", _piecewise, "CPU")
torch.library.register_fake("binarize::piecewise", lambda x, *_: torch.empty_like(x), lib=_library)
torch.library.register_fake("binarize::layer", _fake_layer, lib=_library)
layer = torch.ops.binarize.layer.default
piecewise = torch.ops.binarize.piecewise.default
