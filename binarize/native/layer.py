"""A packed layer on maps of one shape and memory format in a single call of the library.

Python between two kernels takes several times as long as usual, because the maps have displaced its data from
the caches. So everything is prepared beforehand, and the call itself takes addresses only.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from binarize.errors import NativeError
from binarize.native import structs
from binarize.native.library import check
from binarize.native.prepared import PreparedConv, PreparedPack
from binarize.native.tensors import counted, empty_map, map_of
from binarize.native.types import Resize

_KINDS = {"conv": 0, "depthwise": 1, "scaled": 2}


class PreparedLayer:
    """A `PreparedPack` followed by a `PreparedConv`.

    Args:
        pack: for maps like `x`, without a resize.
        conv: for the planes of `pack`.
        x: (N, C, H, W) float32 with the shape and strides of the maps to come: channels next to each other,
            or positions if there is neither a DAB nor a bypass.
        bypass: whether x itself is added to the result; its channels then have to be next to each other.
        resize: brings the bypass to the result's size.

    Raises:
        NativeError: `pack`, `conv` and `x` do not fit together.
    """

    def __init__(
        self,
        pack: PreparedPack,
        conv: PreparedConv,
        x: Tensor,
        *,
        bypass: bool = False,
        resize: Resize | None = None,
    ) -> None:
        if not pack.fits(x) or not conv.follows(pack):
            raise NativeError(f"PreparedLayer: maps of {tuple(x.shape)}, strides {x.stride()}, do not fit.")
        self._shape, self._held = conv.shape, (pack, conv)
        self._threads = conv.threads
        layer = structs.Layer(
            conv=conv.geometry,
            kind=_KINDS[conv.weights.kind],
            exact=conv.exact,
            words=conv.weights.words.data_ptr(),
            counts=conv.weights.counts.data_ptr(),
            dab=None if pack.dab is None else ctypes.pointer(pack.dab),
            mul=pack.mul,
            add=pack.add,
            x=map_of(x),
            epilogue=conv.template,
        )
        if bypass:
            if x.shape[1] > 1 and x.stride(1) != 1:
                raise NativeError(
                    f"PreparedLayer: a bypass with strides {x.stride()}; expected channels-last."
                )
            layer.epilogue.bypass, layer.epilogue.bypass_channels = map_of(x), x.shape[1]
            if resize is not None:
                layer.epilogue.bypass_resize = resize.struct(x)
        layer.x.data = layer.epilogue.bypass.data = layer.epilogue.out.data = None
        self._layer = layer
        self._address = ctypes.addressof(layer)
        self._isa = conv.isa
        self._bypass = bypass
        self._run = conv.library.bz_layer_run

    def __call__(
        self, x: Tensor, sums_of_x: Tensor | None = None, sums: Tensor | None = None
    ) -> Tensor | None:
        """The result, (N, Cout, Hout, Wout) float32, channels-last; None if scales are not finite.

        Layers with scales per channel are computed from tables of whole numbers, which cannot hold a NaN.

        Args:
            x: shape and strides as prepared.
            sums_of_x: (N, C), the sums of x over positions, for a DAB; None computes them.
            sums: (N, Cout), is overwritten by the sums of the result over positions. The result is then never
                an inference tensor, so that torch counts its changes.
        """
        out = empty_map(self._shape) if sums is None else counted(self._shape)
        address = x.data_ptr()
        status = self._run(
            self._isa,
            self._threads or torch.get_num_threads(),
            self._address,
            address,
            None if sums_of_x is None else sums_of_x.data_ptr(),
            address if self._bypass else None,
            out.data_ptr(),
            None if sums is None else sums.data_ptr(),
        )
        if status == 0:
            return out
        if status == structs.NOT_FINITE:
            return None
        check(status, "layer")
        return None
