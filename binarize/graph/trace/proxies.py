"""The values in a module's own trace: they record operations and refuse those that cannot be recorded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx
from torch.fx.proxy import Attribute

from binarize.errors import TraceError
from binarize.graph import forward_helpers

# Callers that see a value's real class, unlike the user's code.
_INTERNAL = (
    "torch.fx",
    "torch.overrides",
    "torch.nn.parameter",
    "torch.nn.modules.module",
    "torch.utils",
    "torch._",
)


class _Honest:
    """Answers `isinstance` as the value itself would, or refuses: a branch must not be chosen by accident."""

    stands_for_tensor = False

    @property
    def __class__(self) -> Any:
        frame = sys._getframe(1)
        while frame.f_globals.get("__name__") == "abc" and frame.f_back is not None:
            frame = frame.f_back
        if frame.f_globals.get("__name__", "").startswith(_INTERNAL):
            return type(self)
        if "isinstance" not in frame.f_code.co_names:  # a function of torch that gets this value checks it
            return type(self)
        if self.stands_for_tensor:
            return Tensor
        raise TraceError("its forward asks for the type of a value")


class Value(_Honest, fx.Proxy):
    """A value that changes in place where a tensor does: `y += x` holds for all names of `y`."""

    def __getattr__(self, k: str) -> Any:
        return ValueAttribute(self, k)

    def __bool__(self) -> bool:
        """Whether a map is empty is known: a graph is for maps that are not."""
        empty = _asks_for_emptiness(self.node)
        return super().__bool__() if empty is None else empty

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("tracer", "node", "stands_for_tensor"):
            raise TraceError(f"its forward sets .{name} of a value")
        super().__setattr__(name, value)

    def __iadd__(self, other: Any) -> Any:
        return self._step(forward_helpers.iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._step(forward_helpers.isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._step(forward_helpers.imul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._step(forward_helpers.itruediv, other)

    def _step(self, function: Callable[..., Any], other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    def _refused(self, other: Any) -> Any:
        raise TraceError("its forward changes a value by an in-place operator other than += -= *= /=")

    __ipow__ = __imatmul__ = __ifloordiv__ = __imod__ = __iand__ = __ior__ = __ixor__ = _refused


class ValueAttribute(_Honest, Attribute):
    """`x.shape` and the like."""


def _asks_for_emptiness(node: fx.Node) -> bool | None:
    """The result of `x.numel() == 0` and the like for a tensor with elements; None for other comparisons."""
    answers = {"eq": False, "le": False, "ne": True, "gt": True}
    name = getattr(node.target, "__name__", "")
    if node.op != "call_function" or name not in answers or len(node.args) != 2:
        return None
    count, zero = node.args
    counts = (
        isinstance(count, fx.Node) and count.op == "call_method" and count.target in ("numel", "nelement")
    )
    return answers[name] if counts and type(zero) is int and zero == 0 else None
