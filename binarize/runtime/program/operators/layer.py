"""A packed layer: one step of the library where it can be one."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from binarize.layers import Bypass
from binarize.native import structs
from binarize.native.instruction_set import resolve
from binarize.runtime import ops
from binarize.runtime.kernel_arguments import as_maps
from binarize.runtime.kernel_support import scales_differ
from binarize.runtime.native_layer import Extras, NativeLayer, Prepared
from binarize.runtime.native_planes import NativePlanes
from binarize.runtime.ops.arguments import (
    activation_of_arguments,
    resize_of_arguments,
)
from binarize.runtime.ops.common import widened
from binarize.runtime.ops.planes import plane_words
from binarize.runtime.program.lowering import Lowering
from binarize.runtime.program.operators.movement import fill
from binarize.runtime.program.operators.registry import lowers, same_memory
from binarize.runtime.program.operators.resampling import is_map, pool
from binarize.runtime.program.operators.views import copy

_KINDS = {"conv": 0, "depthwise": 1, "scaled": 2}


@lowers(ops.layer)
def layer(
    lowering: Lowering,
    node: fx.Node,
    x: Tensor,
    bits: Tensor,
    vectors: Tensor,
    spec: str,
    inner: Any,
    activation: Any,
    **given: Any,
) -> Any:
    """One step, with everything that the passes put around the layer."""
    if given.get("plane"):  # the strides of a map that is not there
        words, shape = x, tuple(given["plane"][:4])
        x = torch.empty(shape, device="meta", memory_format=torch.channels_last)
        given["words"] = words
    known = ("words", "next_mul", "next_add")
    operands = [t for name, t in given.items() if isinstance(t, Tensor) and name not in (*known, "residual")]
    floats = all(t.dtype == torch.float32 for t in operands)
    stored = (torch.float32, torch.bfloat16) if given.get("from_bf16") else (torch.float32,)
    floats = floats and all(t.dtype in stored for t in (x, given.get("residual")) if t is not None)
    constants = (bits, vectors, inner, activation, given.get("next_mul"), given.get("next_add"))
    if not floats or not lowering.is_constant(*constants):
        return NotImplemented
    native = ops.native_of(bits, vectors, spec, inner, given)
    extras = Extras(
        resize=resize_of_arguments(given.get("resize", ())),
        second=activation_of_arguments(activation, given.get("bounds", ())),
    )
    if native is None or isinstance(native, NativePlanes) or not x.numel():
        return NotImplemented  # the operator computes a layer of several bits: several convolutions
    prepared = native.prepared(tuple(x.shape), given.get("output_size"), extras)
    one_by_one = native.depthwise and scales_differ(native.data.spec) and len(x) > 1
    residual = given.get("residual")
    maps, added = (_maps(lowering, t, linear=native.linear) for t in (x, residual))
    if maps is None or (residual is not None and added is None):
        return NotImplemented
    if prepared.conv is None or native.doubled is not None or one_by_one:
        return NotImplemented
    if (
        prepared.conv.weights.isa != resolve()
    ):  # packed before `set_isa`; the program runs on one instruction set
        return NotImplemented
    channels = (
        native.data.spec.out_channels if given.get("tail_weight") is None else given["tail_weight"].shape[0]
    )
    shape = _result_shape(native, prepared, x, channels)
    if given.get("plane") and not _fits(given["plane"], prepared.pack.plane):
        return NotImplemented
    if given.get("next_plane"):
        out = lowering.strided((plane_words(given["next_plane"]),), (1,), torch.int32)
    else:
        dtype = torch.bfloat16 if given.get("as_bf16") else torch.float32
        out = _memory(lowering, node, shape, dtype, linear=native.linear)
    return _Step(lowering, native, prepared, maps, given | {"residual": added}).add(x, out, shape)


def _fits(plane: Sequence[int], wanted: structs.PlaneShape) -> bool:
    """Whether a plane lies as the layer's kernels read it."""
    return bytes(plane_shape(plane)) == bytes(wanted)


def _maps(lowering: Lowering, x: Tensor | None, *, linear: bool) -> Tensor | None:
    """`as_maps`, or that of a copy in the program's memory; None where the library cannot copy."""
    if x is None or same_memory(maps := as_maps(x, linear=linear), x):
        return None if x is None else maps
    if x.dtype != torch.float32:
        return None
    out = lowering.rows(tuple(x.shape))
    return as_maps(out, linear=linear) if copy(lowering, x, out) else None


def _memory(
    lowering: Lowering, node: fx.Node, shape: tuple[int, ...], dtype: torch.dtype, *, linear: bool
) -> Tensor:
    """Memory for a result whose channels lie next to each other."""
    if linear:
        return lowering.rows(shape, dtype)
    if len(shape) == 3:
        n, c, length = shape
        return lowering.strided((n, c, length), (c * length, 1, c), dtype)
    return lowering.placed_or_empty(node, shape, dtype)


def _result_shape(native: NativeLayer, prepared: Prepared, x: Tensor, channels: int) -> tuple[int, ...]:
    if native.linear:
        return (*x.shape[:-1], channels)
    size = prepared.size if x.dim() == 4 else prepared.size[1:]
    return (x.shape[0], channels, *size)


class _Step:
    """The structures of one layer's step."""

    def __init__(
        self, lowering: Lowering, native: NativeLayer, prepared: Prepared, maps: Tensor, given: dict[str, Any]
    ) -> None:
        self.lowering, self.native, self.prepared, self.given = lowering, native, prepared, given
        self.maps = maps

    def add(self, x: Tensor, out: Tensor, shape: tuple[int, ...]) -> Any:
        """Add the step and give the layer's two results; `shape` is that of the result's map."""
        lowering, native, prepared, given = self.lowering, self.native, self.prepared, self.given
        conv, pack = prepared.conv, prepared.pack
        if conv is None:
            raise RuntimeError("no convolution")
        maps = _readable(lowering, self.maps, prepared)
        like = out
        if given.get("next_plane"):
            like = torch.empty(shape, device="meta", memory_format=torch.channels_last)
        result = as_maps(like, linear=native.linear)
        described = structs.Layer(
            conv=conv.geometry,
            kind=_KINDS[conv.weights.kind],
            exact=conv.exact,
            words=conv.weights.words.data_ptr(),
            counts=conv.weights.counts.data_ptr(),
            dab=None if pack.dab is None else ctypes.pointer(pack.dab),
            mul=pack.mul,
            add=pack.add,
            x=_strides(maps),
            epilogue=conv.template,
        )
        described.epilogue.out = _strides(result)
        described.epilogue.tail = structs.Tail()
        step = structs.LayerStep(layer=ctypes.pointer(described))
        lowering.hold(native, prepared, described)
        if (words := given.get("words")) is None:
            lowering.point(step, "x", maps)
        else:
            lowering.point(step, "plane", words)
        self._bypass(step, described, maps)
        self._around(step, result, out)
        if prepared.resize is not None:
            step.resize = prepared.resize.struct(maps)
        if words is None:
            size = lowering.library.bz_layer_scratch(ctypes.byref(described))
            lowering.point(step, "scratch", lowering.scratch(max(int(size), 0)))
        sums = lowering.empty((x.shape[0], native.data.spec.out_channels) if given.get("with_sums") else (0,))
        if given.get("with_sums"):
            lowering.point(step, "sums", sums)
        lowering.native("layer", step)
        return out, sums

    def _bypass(self, step: structs.LayerStep, described: structs.Layer, maps: Tensor) -> None:
        bypass, resize = self.native.bypass_of(maps, self.prepared, self._pooled)
        if bypass is None:
            return
        described.epilogue.bypass, described.epilogue.bypass_channels = _strides(bypass), bypass.shape[1]
        if resize is not None:
            described.epilogue.bypass_resize = resize.struct(bypass)
        self.lowering.point(step, "bypass", bypass)

    def _pooled(self, maps: Tensor) -> Tensor:
        """The bypass where it is a map of its own: made by a pool, or by torch as it is defined."""
        native, prepared, lowering = self.native, self.prepared, self.lowering
        out = lowering.empty((*maps.shape[:2], *prepared.size))
        stride = () if native.data.bypass is None else native.data.bypass.stride
        if (
            maps.dtype == torch.float32
            and prepared.resize is None
            and _is_mean_pool(native.data.bypass)
            and is_map(maps)
        ):
            pool(lowering, maps, out, (*stride, *stride, 0, 0), average=1)
            return out

        def make(x: Tensor) -> Tensor:
            return native.bypass_map(widened(x), prepared)

        lowering.torch(make, (maps,), {}, (out,), "bypass")
        return out

    def _around(self, step: structs.LayerStep, result: Tensor, out: Tensor) -> None:
        lowering, given = self.lowering, self.given
        if (residual := given.get("residual")) is not None:
            lowering.map(step.residual, residual)
        if (sums := given.get("sums_of_x")) is not None:
            lowering.point(step, "sums_of_x", sums)
        weight = given.get("tail_weight")
        if given.get("next_plane"):
            self._bits(step, out)
            return
        if weight is None:
            lowering.point(step, "out", result)
            return
        self._tail(step, weight.detach().flatten(1), given.get("tail_bias"))
        lowering.map(step.tail.out, result)

    def _bits(self, step: structs.LayerStep, out: Tensor) -> None:
        """The plane of the next layer's bits in place of a map."""
        lowering, given = self.lowering, self.given
        bits = structs.Bits(shape=plane_shape(given["next_plane"]))
        lowering.point(bits, "plane", out)
        for name in ("mul", "add"):
            vector = given.get(f"next_{name}")
            lowering.point(bits, name, None if vector is None else vector.contiguous())
        step.bits = ctypes.pointer(bits)
        lowering.hold(bits)

    def _tail(self, step: structs.LayerStep, weight: Tensor, bias: Tensor | None) -> None:
        """Weights and bias in the kernels' layout, put there at each call: their owner may change them."""
        lowering, (outputs, inputs) = self.lowering, weight.shape
        whole, rest = divmod(outputs, 16)
        step.tail.channels = outputs
        rows = lowering.rows((whole + bool(rest), inputs, 16))
        if whole:
            copy(lowering, weight[: 16 * whole].unflatten(0, (whole, 16)), rows[:whole].transpose(1, 2))
        if rest:
            fill(lowering, rows[whole], 0.0)
            copy(lowering, weight[16 * whole :], rows[whole, :, :rest].t())
        lowering.point(step.tail, "weights", rows)
        if bias is not None:
            shifts = lowering.rows((rows.shape[0] * 16,))
            fill(lowering, shifts, 0.0)
            copy(lowering, bias.detach(), shifts[:outputs])
            lowering.point(step.tail, "add", shifts)


def plane_shape(plane: Sequence[int]) -> structs.PlaneShape:
    """The library's structure of [N, C, H, W, groups, border_h, border_w]."""
    n, c, h, w, *rest = plane
    return structs.PlaneShape(n, h, w, c, *rest)


def _is_mean_pool(bypass: Bypass | None) -> bool:
    """Whether a bypass is a mean over windows of the layer's stride, none of which is cut or repeated."""
    if bypass is None or bypass.transposed or bypass.fit == "crop":
        return False
    return len(bypass.stride) == 2 and any(s > 1 for s in bypass.stride)


def _strides(maps: Tensor) -> structs.Map:
    n, c, h, w = maps.stride()
    return structs.Map(None, n, h, w, 1 if maps.shape[1] == 1 else c, maps.dtype == torch.bfloat16)


def _readable(lowering: Lowering, maps: Tensor, prepared: Prepared) -> Tensor:
    """The maps with strides that the kernels read; a copy where they have others."""
    if maps.shape[1] == 1 or maps.stride(1) == 1:
        return maps
    out = lowering.empty(tuple(maps.shape))
    if not copy(lowering, maps, out):
        raise RuntimeError("maps of more dimensions than a copy takes")
    return out
