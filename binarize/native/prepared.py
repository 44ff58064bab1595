"""Calls that are repeated for maps of one shape: everything but the addresses is prepared beforehand.

The functions of `packing` and `convolution` check and describe their arguments at each call, which takes
longer than the work on a small map. Here that is done once; the library still checks the geometry.

Addresses outlive the call that they were made for, so constants are copied: `share_memory_`, a resize, or
sending a network to another process moves the memory of its tensors and frees the old one.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from binarize.errors import NativeError
from binarize.native import structs
from binarize.native.epilogue import Epilogue, Tail
from binarize.native.instruction_set import number_of, resolve
from binarize.native.library import check, required, threads_or_default
from binarize.native.structs import PlaneShape
from binarize.native.tensors import address, channels_last, counted, empty_map, map_of, own_vector
from binarize.native.types import Dab, PackedWeights, Resize


class PreparedPack:
    """Packs maps (N, C, H, W) of one shape.

    Args:
        shape: (N, C, H, W).
        groups: of the convolution that reads the plane.
        border: zero positions around the map, (vertically, horizontally).
        mul: (C,), or None for 1; signs are those of mul * x + add.
        add: (C,), or None for 0.
        dab: in place of `mul` and `add`: thresholds and scales from statistics of each map.
        resize: brings the maps of a call to `shape`, before anything else.
        threads: number of threads; None for torch's.

    Attributes:
        plane: shape of the planes.
        words: number of words of a plane, with those that kernels may read behind it.
        dab: parameters of the `dab` for the library, or None.

    Raises:
        NativeError: the library is missing, or a parameter has another shape.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        groups: int,
        border: tuple[int, int],
        mul: Tensor | None = None,
        add: Tensor | None = None,
        dab: Dab | None = None,
        resize: Resize | None = None,
        threads: int | None = None,
    ) -> None:
        images, channels, height, width = shape
        self._resize = resize
        self._library = required()
        self.plane = PlaneShape(images, height, width, channels, groups, *border)
        self._common = (number_of(resolve()), threads_or_default(threads), ctypes.byref(self.plane))
        self.words = self._library.bz_plane_words(ctypes.byref(self.plane))
        self._mul = own_vector("PreparedPack: mul", mul, channels)
        self._add = own_vector("PreparedPack: add", add, channels)
        self.dab: structs.Dab | None = None
        self._scales: tuple[int, ...] | None = None
        self._sizes = (images, channels)
        if dab is not None:
            self._held = (
                own_vector("Dab.k", dab.k, channels),
                own_vector("Dab.b", dab.b, channels),
                own_vector("Dab.a", dab.a, dab.groups or channels),
            )
            self.dab = structs.Dab(*(address(x) for x in self._held), dab.groups, dab.plain)
            if dab.scaled:
                each = () if dab.groups == 1 else (dab.groups or channels,)
                self._scales = (images, *each)

    def __call__(self, x: Tensor, sums: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The plane's words, scratch memory behind them, and the scales of a `dab`: (N,), (N, G) or (N, C).

        Args:
            x: float32 of the shape that was prepared, or that `resize` brings to it.
            sums: (N, C), the sums of x over positions, for a `dab`; None computes them.
        """
        scratch = 0 if self.dab is None else 2 * math.prod(self._sizes)  # in one piece with the words
        words = torch.empty(self.words + scratch, dtype=torch.int32, device="cpu")
        if self.dab is None:
            x = x if x.stride(3) == 1 and self._resize is None else channels_last(x)
            ends = (self._resize_of(x), address(self._mul), address(self._add), 0, words.data_ptr(), None)
            check(self._library.bz_pack(*self._common, ctypes.byref(map_of(x)), *ends), "pack")
            return words, None
        x = channels_last(x)
        scales = (
            torch.empty(self._scales, dtype=torch.float32, device="cpu") if self._scales is not None else None
        )
        status = self._library.bz_pack_dab(
            *self._common,
            ctypes.byref(map_of(x)),
            self._resize_of(x),
            ctypes.byref(self.dab),
            address(sums),
            words.data_ptr(),
            words.data_ptr() + 4 * self.words,
            address(scales),
        )
        check(status, "pack_dab")
        return words, scales

    @property
    def mul(self) -> int | None:
        """The address of `mul`, or None."""
        return address(self._mul)

    @property
    def add(self) -> int | None:
        """The address of `add`, or None."""
        return address(self._add)

    def _resize_of(self, x: Tensor) -> Any:
        return None if self._resize is None else ctypes.byref(self._resize.struct(x))


class PreparedConv:
    """A convolution of planes of one shape with the same weights and epilogue.

    Args:
        weights: packed.
        plane: shape of the planes, from `PreparedPack.plane`.
        epilogue: its constants; bypass, scales per image and tail come with each call.
        out_size: (Hout, Wout).
        exact: for weights of `pack_scaled`: sum floats instead of 16-bit integers.
        threads: number of threads; None for torch's.

    Attributes:
        shape: of the result, (N, Cout, Hout, Wout).
        template: the library's structure of the epilogue, without what comes with a call.
        weights: see above.
        geometry: the library's structure of the convolution.
        exact: see above, 0 or 1.

    Raises:
        NativeError: the library is missing, or weights, planes and epilogue do not fit together.
    """

    def __init__(
        self,
        weights: PackedWeights,
        plane: PlaneShape,
        epilogue: Epilogue,
        out_size: Sequence[int],
        *,
        exact: bool = False,
        threads: int | None = None,
    ) -> None:
        library = required()
        groups = 1 if weights.kind == "depthwise" else weights.groups
        if plane.channels != weights.in_channels or plane.groups != groups:
            raise NativeError(
                f"PreparedConv: planes of {plane.channels} channels in {plane.groups} groups; expected "
                f"{weights.in_channels} in {groups}."
            )
        if (weights.kind == "scaled" or weights.scale_groups > 1) and not epilogue.plain:
            raise NativeError(
                "PreparedConv: scales per channel or group with an offset or a midpoint; expected neither."
            )
        self.shape = (plane.images, weights.out_channels, *out_size)
        self._constants = epilogue.checked(plane.images, weights.out_channels, out_size).owned()
        like = torch.empty(self.shape, memory_format=torch.channels_last, dtype=torch.float32, device="meta")
        self.template = self._constants.struct(like)
        self.weights = weights
        self.geometry = weights.struct(plane, out_size)
        self.exact = int(exact)
        self._common = (number_of(weights.isa), threads_or_default(threads), ctypes.byref(self.geometry))
        self._scaled = library.bz_conv_scaled if weights.kind == "scaled" else None
        self._plain = library.bz_depthwise if weights.kind == "depthwise" else library.bz_conv

    def __call__(
        self,
        words: Tensor,
        *,
        alpha: Tensor | None = None,
        sample_scale: Tensor | None = None,
        mul: Tensor | None = None,
        offset: Tensor | None = None,
        bypass: Tensor | None = None,
        resize: Resize | None = None,
        residual: Tensor | None = None,
        tail: Tail | None = None,
        sums: Tensor | None = None,
    ) -> Tensor:
        """The result, (N, Cout, Hout, Wout) float32, or (N, Cz, Hout, Wout) with a tail; channels-last.

        Args:
            words: of the plane.
            alpha: (N, Cin), for weights of `pack_scaled`.
            sample_scale: (N,), or (N, G) for weights with G scale groups.
            mul: (Cout,) in place of the epilogue's.
            offset: (Cout,) in place of the epilogue's.
            bypass: (N, C, Hout, Wout) float32.
            resize: brings the bypass to that size.
            residual: (N, Cout, Hout, Wout) float32, added last.
            tail: of the result; not of a depthwise convolution.
            sums: (N, Cout), is overwritten by the sums of the result over positions; not with a tail. The
                result is then never an inference tensor, so that torch counts its changes.
        """
        images, channels, *size = self.shape
        shape = (images, channels if tail is None else tail.channels, *size)
        out = counted(shape) if sums is not None else empty_map(shape)
        # a copy per call: several threads may run this at once
        described = structs.Epilogue.from_buffer_copy(self.template)
        packed = None if tail is None else tail.packed(channels)  # has to live until the call is over
        if packed is None:
            described.out.data = out.data_ptr()
        else:
            described.tail = packed.struct(out)
        if sample_scale is not None:
            described.sample_scale = sample_scale.data_ptr()
        if mul is not None:
            described.mul = mul.data_ptr()
        if offset is not None:
            described.offset = offset.data_ptr()
        if bypass is not None:
            bypass = channels_last(bypass)
            described.bypass, described.bypass_channels = map_of(bypass), bypass.shape[1]
            if resize is not None:
                described.bypass_resize = resize.struct(bypass)
        if residual is not None:
            residual = channels_last(residual)
            described.residual = map_of(residual)
        if sums is not None:
            described.sums = sums.data_ptr()
        self._run(words, alpha, described)
        return out

    def _run(self, words: Tensor, alpha: Tensor | None, described: structs.Epilogue) -> None:
        """The library's call; everything that `described` points to has to live until it returns."""
        common = (*self._common, words.data_ptr(), self.weights.words.data_ptr())
        if self._scaled is not None:
            status = self._scaled(*common, address(alpha), self.exact, ctypes.byref(described))
        else:
            status = self._plain(*common, self.weights.counts.data_ptr(), ctypes.byref(described))
        check(status, "conv")
