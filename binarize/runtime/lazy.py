"""Interpolated maps that exist only where a packed layer reads them.

The result of a layer whose map is interpolated for another packed layer (`fuse` finds such pairs) is a tensor
that remembers this: `torch.nn.functional.interpolate` of it gives an `Interpolated`, which holds the small
map. The packed layer takes that as it is; whatever else is done with either of them sees an ordinary tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from binarize.native.resize import Resize

_SEEN_FROM_OUTSIDE = {
    getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad", "layout")
} | {Tensor.dim, Tensor.size, Tensor.numel}


class Small(Tensor):
    """A map that will be interpolated."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.interpolate and type(args[0]) is Small and len(args) == 1:
            resize = _resize(args[0], kwargs)
            if resize is not None:
                return Interpolated.of(ordinary(args[0]), resize)
        with torch._C.DisableTorchFunctionSubclass():
            return _plain(func(*args, **kwargs))


class Interpolated(Tensor):
    """Stands for `resize(small)`, which is made if anybody but a packed layer wants it.

    Attributes:
        small: (N, C, h, w).
        resize: to the size of this tensor.
    """

    small: Tensor
    resize: Resize
    _made: Tensor | None

    @staticmethod
    def of(small: Tensor, resize: Resize) -> Interpolated:
        """Without a value yet; the small map must not be changed as long as it has none."""
        shape = (*small.shape[:2], *resize.size)
        result = small.new_empty(()).expand(shape).as_subclass(Interpolated)
        result.small, result.resize, result._made = small, resize, None
        return result

    def made(self) -> Tensor:
        """The tensor itself."""
        if self._made is None:
            self._made = self.resize(self.small)
        return self._made

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in _SEEN_FROM_OUTSIDE:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        args, kwargs = tree_map_only(Interpolated, Interpolated.made, (args, kwargs or {}))
        return func(*args, **kwargs)


def ordinary(x: Tensor) -> Tensor:
    """`x` as anything but the kernels can take it."""
    if type(x) is Interpolated:
        return x.made()
    if type(x) is Small:
        with torch._C.DisableTorchFunctionSubclass():
            return x.as_subclass(Tensor)
    return x


def _plain(value: Any) -> Any:
    return tree_map_only(Small, ordinary, value)


def _resize(x: Tensor, kwargs: dict[str, Any]) -> Resize | None:
    """What `interpolate` is asked for, if kernels can do it."""
    size, align = kwargs.get("size"), kwargs.get("align_corners")
    usual = kwargs.get("mode") == "bilinear" and not kwargs.get("antialias") and x.dim() == 4
    if not usual or size is None or kwargs.get("scale_factor") is not None:
        return None
    high, wide = (size, size) if isinstance(size, int) else (int(n) for n in size)
    return Resize(size=(high, wide), align_corners=bool(align)) if min(high, wide) > 0 else None
