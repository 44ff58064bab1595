"""The stem of a network: a float convolution of few channels, with norm, activation and max-pool."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from binarize.conv_sizes import conv_size
from binarize.errors import NativeError
from binarize.native import structs
from binarize.native.epilogue import Epilogue
from binarize.native.instruction_set import Isa, number_of, resolve
from binarize.native.library import check, required, threads_or_default
from binarize.native.tensors import address, checked, counted, empty_map, output_vector, pair, vector
from binarize.native.types import MaxPool, Norm


class PreparedStem:
    """Calls for maps of one shape and strides: everything but the addresses is prepared beforehand.

    Tensors are read at each call, so that changes are seen; those that are not contiguous are copied once.

    Args:
        like: (N, C, H, W) float32 with the shape and strides of the maps; any strides.
        weight: (Cout, C, h, w).
        epilogue: only its `mul`, `add`, `first` and `second`.
        norm: applied to sum * mul + add, before `first`.
        stride: as in torch.
        padding: as in torch.
        pool: applied last.
        threads: number of threads; None for torch's.
        isa: instruction set; `auto` for the default one (`set_isa`).

    Raises:
        NativeError: shapes that do not fit, an epilogue with other parts, a missing library.
    """

    def __init__(
        self,
        like: Tensor,
        weight: Tensor,
        epilogue: Epilogue | None = None,
        *,
        norm: Norm | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        pool: MaxPool | None = None,
        threads: int | None = None,
        isa: Isa = "auto",
    ) -> None:
        e = epilogue or Epilogue()
        others = (e.sample_scale, e.bypass, e.residual, e.tail, e.sums)
        if not e.plain or any(part is not None for part in others):
            raise NativeError("stem: the epilogue has more than mul, add, first and second.")
        x = checked("stem: x", like, (None,) * 4, contiguous=False)
        weight = checked("stem: weight", weight, (None, x.shape[1], None, None))
        outputs, _, *kernel = weight.shape
        self._stride, self._padding = pair("stem: stride", stride), pair("stem: padding", padding)
        if min(self._stride) < 1 or min(self._padding) < 0 or not x.numel() or not weight.numel():
            raise NativeError(
                f"stem: x of shape {tuple(x.shape)}, weight of {tuple(weight.shape)}, stride={stride}, "
                f"padding={padding}; expected nothing empty, strides of at least 1 and no negative padding."
            )
        self.size = out_size(x.shape[2:], kernel, self._stride, self._padding)
        result = self.size if pool is None else pool.out_size(self.size)
        if min(*self.size, *result) < 1:
            raise NativeError(f"stem: {tuple(x.shape)} is smaller than the kernel {kernel}, or than {pool}.")
        self._weight, self._pool = weight, pool
        self._epilogue = e.checked(len(x), outputs, self.size)
        self._norm = None if norm is None else _checked_norm(norm, outputs)
        self._shape = (len(x), outputs, *result)
        self._function, name = required().bz_stem, resolve(isa)
        plane = structs.PlaneShape(len(x), *x.shape[2:], x.shape[1], 1, *self._padding)
        geometry = structs.ConvShape(plane, outputs, *kernel, *self._stride, *self._padding, 1, 1, *self.size)
        self._common = (number_of(name), threads_or_default(threads), ctypes.byref(geometry))
        n, c, h, w = x.stride()
        self._map = structs.Map(None, n, h, w, c)
        like = torch.empty(self._shape, memory_format=torch.channels_last, device="meta")
        self._template = self._epilogue.struct(like)
        norm, held = self._norm, None
        if norm is not None:
            held = ctypes.byref(structs.Norm(*(address(t) for t in norm.tensors), norm.eps))
        window = None
        if pool is not None:
            window = ctypes.byref(structs.Pool(*pool.kernel, *pool.stride, *pool.padding, *result))
        self._constants = (weight.data_ptr(), held, window)

    def __call__(self, x: Tensor, sums: Tensor | None = None) -> Tensor:
        """The result, (N, Cout, H', W'), channels-last.

        Args:
            x: a map like `like`; shape and strides are not checked again.
            sums: (N, Cout), is overwritten by the sums of the result over positions. The result is then never
                an inference tensor, so that torch counts its changes.
        """
        out = empty_map(self._shape) if sums is None else counted(self._shape)
        # copies: several threads may run this at once
        source = structs.Map.from_buffer_copy(self._map)
        source.data = x.data_ptr()
        described = structs.Epilogue.from_buffer_copy(self._template)
        described.out.data = out.data_ptr()
        if sums is not None:
            described.sums = sums.data_ptr()
        status = self._function(
            *self._common, ctypes.byref(source), *self._constants, ctypes.byref(described)
        )
        check(status, "stem")
        return out


def conv_stem(
    x: Tensor,
    weight: Tensor,
    epilogue: Epilogue | None = None,
    *,
    sums: Tensor | None = None,
    norm: Norm | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    pool: MaxPool | None = None,
    threads: int | None = None,
    isa: Isa = "auto",
) -> Tensor:
    """Convolution, norm, epilogue, max-pool; meant for up to 16 input channels.

    For tests: deployed networks use `PreparedStem`, whose arguments, and those of its call, these are.

    Raises:
        NativeError: shapes that do not fit, an epilogue with other parts, a missing library.
    """
    parts = {"norm": norm, "stride": stride, "padding": padding, "pool": pool}
    prepared = PreparedStem(x, weight, epilogue, threads=threads, isa=isa, **parts)
    return prepared(x, output_vector("conv_stem: sums", sums, len(x), weight.shape[0]))


def out_size(
    size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[int, int]:
    """(H', W') of the result of a convolution or pool, without dilation, for a map of this size."""
    pads = tuple((p, p) for p in padding)
    h, w = conv_size(size, kernel, stride, pads, (1,) * len(pads))
    return h, w


def _checked_norm(norm: Norm, channels: int) -> Norm:
    weight, bias = vector("Norm.weight", norm.weight, channels), vector("Norm.bias", norm.bias, channels)
    return Norm(
        mean=checked("Norm.mean", norm.mean, (channels,)),
        variance=checked("Norm.variance", norm.variance, (channels,)),
        weight=weight,
        bias=bias,
        eps=norm.eps,
    )
