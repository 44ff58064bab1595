"""Results that are made when somebody wants them, and never if the next layer takes what they are made of.

Between two layers of a network there is the network's own code. A packed layer whose result only a float 1x1
convolution reads gives a `Behind`; one whose result is interpolated for another packed layer gives a `Small`,
and `interpolate` of that an `Interpolated` (`fuse` finds both). The layer that follows takes them as they
are. Whatever else is done with them, by a hook, an index or a sum, sees an ordinary tensor, made then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from binarize.errors import ConfigError
from binarize.native.types import Resize

_SEEN_FROM_OUTSIDE = {
    getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad", "layout")
} | {Tensor.dim, Tensor.size, Tensor.numel, Tensor.is_floating_point}


class Lazy(Tensor):
    """A float32 map (N, C, H, W) on the CPU, channels-last, without memory until it is made.

    Attributes:
        make: gives the tensor.
    """

    make: Callable[[], Tensor]
    _made: Tensor | None

    @classmethod
    def of(cls, shape: Sequence[int], make: Callable[[], Tensor], **parts: Any) -> Any:
        """With further attributes `parts`."""
        _, c, h, w = shape
        result = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            tuple(shape),
            strides=(c * h * w, 1, w * c, c),
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        result.make, result._made = make, None
        for name, part in parts.items():
            setattr(result, name, part)
        return result

    @property
    def waits(self) -> bool:
        """Whether it was not made; if it was, it may have been changed in place since."""
        return self._made is None

    def made(self) -> Tensor:
        """The tensor itself."""
        if self._made is None:
            self._made = self.make()
        return self._made

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in _SEEN_FROM_OUTSIDE:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        args, kwargs = _ordinary_all((args, kwargs or {}))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """For what comes past `__torch_function__`: scripts, function transforms."""
        args, kwargs = _ordinary_all((args, kwargs or {}))
        return func(*args, **kwargs)


class Behind(Lazy):
    """The result of a packed layer.

    Attributes:
        through: a 1x1 convolution (Cz, C) -> that of this tensor, without making it.
    """

    through: Callable[[Any], Tensor]


class Interpolated(Lazy):
    """A map of another size, and how it gets this one.

    Attributes:
        small: (N, C, h, w).
        resize: to (H, W).
    """

    small: Tensor
    resize: Resize


class Small(Lazy):
    """A map that is there, and will be interpolated."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is F.interpolate and len(args) == 1 and type(args[0]) is Small:
            small = args[0].made()
            resize = _resize(kwargs or {})
            if resize is not None:
                shape = (*small.shape[:2], *resize.size)
                return Interpolated.of(shape, lambda: resize(small), small=small, resize=resize)
        return super().__torch_function__(func, types, args, kwargs)


def ordinary(x: Tensor) -> Tensor:
    """`x` as anything but the kernels can take it."""
    return x.made() if isinstance(x, Lazy) else x


def _ordinary_all(values: Any) -> Any:
    return tree_map_only(Lazy, Lazy.made, values)


def unchanged(x: Tensor) -> Callable[[], None]:
    """A check that `x` was not changed in place since this call.

    The function raises:
        ConfigError: it was.
    """
    version = None if x.is_inference() else x._version

    def check() -> None:
        if version is not None and x._version != version:
            raise ConfigError(
                "the input of a packed layer was changed in place before the layer's result was used: change "
                "a copy of it instead."
            )

    return check


def _resize(kwargs: dict[str, Any]) -> Resize | None:
    """What `interpolate` is asked for, if kernels can do it."""
    size, align = kwargs.get("size"), kwargs.get("align_corners")
    others = any(kwargs.get(name) for name in ("scale_factor", "recompute_scale_factor", "antialias"))
    if kwargs.get("mode") != "bilinear" or others:
        return None
    sizes = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(sizes) != 2 or not all(isinstance(n, int) and n > 0 for n in sizes):
        return None  # torch says what is wrong
    return Resize(size=(sizes[0], sizes[1]), align_corners=bool(align))
