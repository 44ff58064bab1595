"""Kernels of a training step: what stands around the convolutions, in one pass over a map each.

A map is float32 on the CPU without gaps, its channels the second dim or the last, whichever way they lie in
memory. Sums over positions are the same with any number of threads. Autograd does not see these calls:
`binarize.functional.fused` has the functions with their gradients.
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from binarize.errors import NativeError
from binarize.native.instruction_set import Isa, number_of
from binarize.native.library import available, check, required, threads_or_default
from binarize.native.structs import Dab, Pieces, Signs, Values
from binarize.native.tensors import address

_PLAIN = (Tensor, nn.Parameter)
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels can stand for torch's operators on these tensors, here and now.

    They cannot where others have to see the operators: compilation, tracing, modes that watch or change
    calls, transforms such as vmap, forward-mode gradients, autocast, tensor subclasses. Nor where the memory
    of a tensor does not hold its values: batches of gradients, layouts of other libraries, negated views.
    """
    if torch.compiler.is_compiling() or _watched() or not _available():
        return False
    for x in tensors:
        if type(x) not in _PLAIN or x.dtype != torch.float32 or not x.is_cpu or not has_memory(x):
            return False
        if not x.numel() or x.is_neg() or x._is_zerotensor():
            return False
    return True


def has_memory(x: Tensor) -> bool:
    """Whether `x` has memory that can be read; a gradient of vmap, or of a compilation, has none."""
    state: Any = torch._C
    return not torch.compiler.is_compiling() and state._has_storage(x)


_available = functools.cache(available)


def _watched() -> bool:
    state: Any = torch._C
    return bool(
        state._len_torch_dispatch_stack()
        or state._len_torch_function_stack()
        or state._functorch.peek_interpreter_stack() is not None
        or state._get_tracing_state() is not None
        or forward_ad._current_level >= 0
        or torch.is_autocast_enabled("cpu")
    )


def values_of(x: Tensor, dim: int = 1) -> Values | None:
    """How `x`, (N, C, ...) or with `dim` -1 (N, ..., C), lies in memory; None if with gaps or otherwise."""
    if x.dim() < 2:
        return None
    shape = x.shape
    last = dim == -1 or x.dim() == 2 or (shape[1] > 1 and _dense_last(x))
    if not x.is_contiguous() and (dim == -1 or not last or x.dim() == 2):
        return None
    images, channels = shape[0], shape[dim]
    return Values(images, x.numel() // (images * channels), channels, int(last), 0)


def _dense_last(x: Tensor) -> bool:
    if x.dim() in _LAST:
        return x.is_contiguous(memory_format=_LAST[x.dim()])
    return x.dim() == 3 and x.transpose(1, 2).is_contiguous()


def filters_of(weight: Tensor) -> Values | None:
    """How weights lie in memory, output filters in dim 0; None if a filter has gaps."""
    last = _LAST.get(weight.dim())
    filled = weight.is_contiguous() or (last is not None and weight.is_contiguous(memory_format=last))
    return Values(weight.shape[0], weight[0].numel(), 1, 0, 0) if filled else None


def like(grad: Tensor, x: Tensor) -> Tensor:
    """`grad` in the memory order of `x`, of its shape; copied where it has another."""
    return grad if grad.stride() == x.stride() else torch.empty_like(x).copy_(grad)


class DabNumbers(NamedTuple):
    """Parameters of a distribution-adaptive binarizer: `bz_dab` of native/binarize.h.

    Attributes:
        k: (C,) or None.
        b: (C,) or None.
        a: (C,), or one per group; None if `plain`.
        groups: 0 for a scale per channel, else how many groups have one.
        plain: M itself is the scale.
    """

    k: Tensor | None
    b: Tensor | None
    a: Tensor | None
    groups: int = 0
    plain: bool = False

    def struct(self) -> Dab:
        """For the library."""
        return Dab(address(self.k), address(self.b), address(self.a), self.groups, int(self.plain))


def dab(
    x: Tensor, values: Values, numbers: DabNumbers, *, threads: int | None = None, isa: Isa = "auto"
) -> tuple[Tensor, Tensor]:
    """The binarizer's values, like `x`, and (4, N, C) of what the backward pass needs: mean(x), t, M, scale.

    Raises:
        NativeError: arguments that do not fit, no memory, a missing library.
    """
    y, kept = torch.empty_like(x), x.new_empty(4, values.images, values.channels)
    given = ctypes.byref(values), numbers.struct(), x.data_ptr()
    _call("bz_train_dab", threads, isa, *given, kept.data_ptr(), y.data_ptr())
    return y, kept


def dab_backward(
    grad: Tensor,
    x: Tensor,
    values: Values,
    numbers: DabNumbers,
    kept: Tensor,
    out: Tensor,
    *,
    threads: int | None = None,
    isa: Isa = "auto",
) -> Tensor:
    """The gradient of `x`, into `out` (which may be `grad`); returns those of a, k and b, (3, C).

    Raises:
        NativeError: arguments that do not fit, no memory, a missing library.
    """
    grads = x.new_empty(3, values.channels)
    maps = grad.data_ptr(), x.data_ptr(), kept.data_ptr(), out.data_ptr(), grads.data_ptr()
    _call("bz_train_dab_backward", threads, isa, ctypes.byref(values), numbers.struct(), *maps)
    return grads


def signs(
    x: Tensor,
    values: Values,
    threshold: Tensor | None = None,
    magnitude: Tensor | None = None,
    *,
    per_image: bool = False,
    threads: int | None = None,
    isa: Isa = "auto",
) -> Tensor:
    """The product magnitude * sign(x - threshold), like `x`; both (C,), with `per_image` (N, C), or None.

    Raises:
        NativeError: arguments that do not fit, no memory, a missing library.
    """
    y = torch.empty_like(x)
    how = ctypes.byref(Signs(address(threshold), address(magnitude), int(per_image), 0))
    _call("bz_train_signs", threads, isa, ctypes.byref(values), how, x.data_ptr(), y.data_ptr())
    return y


def signs_backward(
    grad: Tensor,
    x: Tensor,
    values: Values,
    threshold: Tensor | None,
    out: Tensor,
    *,
    threads: int | None = None,
    isa: Isa = "auto",
) -> Tensor:
    """With u = x - threshold, grad * max(0, 2 - 2 abs(u)) into `out` (which may be `grad`).

    Returns:
        (2, N, C) float64, sums over positions of that and of grad * sign(u).

    Raises:
        NativeError: arguments that do not fit, no memory, a missing library.
    """
    sums = x.new_empty(2, values.images, values.channels, dtype=torch.float64)
    how = ctypes.byref(Signs(address(threshold), None, 0, 0))
    maps = grad.data_ptr(), x.data_ptr(), out.data_ptr(), sums.data_ptr()
    _call("bz_train_signs_backward", threads, isa, ctypes.byref(values), how, *maps)
    return sums


class Lines(NamedTuple):
    """Two lines per channel: t = x + before; y = (t > 0 ? positive : negative) * t + after; each (C,).

    Of those that may be None, `positive` is 1 then, the others 0. `flat_at_zero`: the gradient of `x` is 0
    where t is 0, not that of the negative side.
    """

    before: Tensor | None
    negative: Tensor
    positive: Tensor | None
    after: Tensor | None
    flat_at_zero: bool = False

    def struct(self) -> Pieces:
        """For the library."""
        return Pieces(*(address(part) for part in self[:4]), int(self.flat_at_zero), 0)


def pieces(
    x: Tensor, values: Values, lines: Lines, *, threads: int | None = None, isa: Isa = "auto"
) -> Tensor:
    """The two lines of each channel, like `x`.

    Raises:
        NativeError: arguments that do not fit, no memory, a missing library.
    """
    y = torch.empty_like(x)
    maps = x.data_ptr(), y.data_ptr()
    _call("bz_train_pieces", threads, isa, ctypes.byref(values), lines.struct(), *maps)
    return y


def pieces_backward(
    grad: Tensor,
    x: Tensor,
    values: Values,
    lines: Lines,
    *,
    threads: int | None = None,
    isa: Isa = "auto",
) -> tuple[Tensor, Tensor]:
    """The gradient of `x`, and (4, C) those of before, negative, positive and after.

    Raises:
        NativeError: arguments that do not fit, no memory, a missing library.
    """
    gx, grads = torch.empty_like(x), x.new_empty(4, values.channels)
    maps = grad.data_ptr(), x.data_ptr(), gx.data_ptr(), grads.data_ptr()
    _call("bz_train_pieces_backward", threads, isa, ctypes.byref(values), lines.struct(), *maps)
    return gx, grads


def add_bypass(x: Tensor, onto: Tensor, *, threads: int | None = None, isa: Isa = "auto") -> None:
    """Add `binarize.functional.channel_bypass` of `x` to `onto`; both have their channels last in memory.

    Raises:
        NativeError: arguments that do not fit, a missing library.
    """
    sizes = _bypass_sizes(x, onto)
    _call("bz_train_bypass", threads, isa, *sizes, x.data_ptr(), onto.data_ptr())


def bypass_backward(grad: Tensor, out: Tensor, *, threads: int | None = None, isa: Isa = "auto") -> None:
    """The gradient of `add_bypass`'s `x`, into `out`, from that of the sum.

    Raises:
        NativeError: arguments that do not fit, a missing library.
    """
    sizes = _bypass_sizes(out, grad)
    _call("bz_train_bypass_backward", threads, isa, *sizes, grad.data_ptr(), out.data_ptr())


def _bypass_sizes(x: Tensor, y: Tensor) -> tuple[int, int, int]:
    if x.shape[0] != y.shape[0] or x.shape[2:] != y.shape[2:]:
        raise NativeError(f"bypass: {tuple(x.shape)} and {tuple(y.shape)} differ in more than channels.")
    positions = x.shape[0] * math.prod(x.shape[2:])
    return positions, x.shape[1], y.shape[1]


def _call(name: str, threads: int | None, isa: Isa, *arguments: Any) -> None:
    status = _function(name)(number_of(isa), threads_or_default(threads), *arguments)
    if status:
        check(status, name)


@functools.cache
def _function(name: str) -> Any:
    return getattr(required(), name)
