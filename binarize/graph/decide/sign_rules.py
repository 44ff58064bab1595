"""Bounds of functions of several tensors, or of a tensor and numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx

from binarize.graph.decide import intervals
from binarize.graph.decide.intervals import ANYWHERE, NOT_NEGATIVE, Interval, hull, interval
from binarize.graph.trace.dataflow import Flow

_COMPARISONS = {"gt": "gt", "greater": "gt", "ge": "gt", "greater_equal": "gt"}
_COMPARISONS |= {"lt": "lt", "less": "lt", "le": "lt", "less_equal": "lt"}
_CASTS = {"to", "float", "type_as", "type", "half", "double", "bfloat16"}


@dataclass(frozen=True)
class Call:
    """A recorded call of a function.

    Attributes:
        node: of the call.
        flow: of the model.
        of: gives the bounds of a node, per channel only if the result has its channels in the same place.
    """

    node: fx.Node
    flow: Flow
    of: Callable[[fx.Node], Interval]

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        args = self.node.args
        return args[index] if index < len(args) else self.node.kwargs.get(name, default)

    def value(self, index: int, name: str = "") -> Interval:
        """The bounds of an argument, tensor or number."""
        return self.bounds(self.argument(index, name))

    def bounds(self, given: Any) -> Interval:
        """The bounds of a tensor or number."""
        if isinstance(given, fx.Node):
            return self.of(given)
        number = _number(given)
        return ANYWHERE if number is None else interval(number, number)

    @property
    def two(self) -> tuple[Interval, Interval]:
        """The bounds of the first two arguments."""
        return self.value(0), self.value(1, "other")


def rule_of(name: str) -> Callable[[Call], Interval] | None:
    """The rule of a function of that name, or None."""
    return _RULES.get(name)


def name_of(node: fx.Node) -> str:
    """The plain name of a function: `add` for `__add__` and `add_`, `radd` for `__radd__`."""
    name = getattr(node.target, "__name__", str(node.target))
    return name[2:-2] if name.startswith("__") and name.endswith("__") else name.strip("_")


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _is_mask(mask: Any, value: Any, wanted: str) -> bool:
    """Whether `mask` is value > c with c >= 0 (`gt`), or holds where value < 0 (`lt`), perhaps as floats."""
    while isinstance(mask, fx.Node) and name_of(mask) in _CASTS and mask.all_input_nodes:
        mask = mask.all_input_nodes[0]
    if not isinstance(mask, fx.Node) or len(mask.args) != 2 or mask.args[0] is not value:
        return False
    limit = _number(mask.args[1])
    return limit is not None and limit >= 0 and _COMPARISONS.get(name_of(mask)) == wanted


def _add(call: Call) -> Interval:
    alpha = _number(call.node.kwargs.get("alpha", 1))
    x, y = call.two
    return ANYWHERE if alpha is None else intervals.add(x, intervals.multiply(y, interval(alpha, alpha)))


def _sub(call: Call) -> Interval:
    x, y = call.two
    return ANYWHERE if "alpha" in call.node.kwargs else intervals.add(x, intervals.negative(y))


def _rsub(call: Call) -> Interval:
    return intervals.negative(_sub(call))


def _mul(call: Call) -> Interval:
    a, b = call.argument(0, "input"), call.argument(1, "other")
    if a is b and isinstance(a, fx.Node):
        return intervals.power(call.of(a), 2)
    for value, mask in ((a, b), (b, a)):
        if isinstance(value, fx.Node) and _is_mask(mask, value, "gt"):
            return intervals.clamp(call.of(value), 0.0, None)
    return intervals.multiply(*call.two)


def _div(call: Call) -> Interval:
    x, y = call.two
    if call.node.kwargs.get("rounding_mode") is None:
        return intervals.divide(x, y)
    return NOT_NEGATIVE if min(float(hull(x).low), float(hull(y).low)) >= 0 else ANYWHERE


def _rdiv(call: Call) -> Interval:
    x, y = call.two
    return intervals.divide(y, x)


def _pow(call: Call) -> Interval:
    base = call.argument(0, "input")
    if isinstance(base, fx.Node):
        return intervals.power(call.of(base), call.argument(1, "exponent"))
    number = _number(base)
    return NOT_NEGATIVE if number is not None and number >= 0 else ANYWHERE


def _rpow(call: Call) -> Interval:
    base = _number(call.argument(1, "other"))
    return NOT_NEGATIVE if base is not None and base >= 0 else ANYWHERE


def _larger(x: Interval, y: Interval) -> Interval:
    return Interval(np.maximum(x.low, y.low), np.maximum(x.high, y.high))


def _smaller(x: Interval, y: Interval) -> Interval:
    return Interval(np.minimum(x.low, y.low), np.minimum(x.high, y.high))


def _extreme(of_two: Callable[[Interval, Interval], Interval]) -> Callable[[Call], Interval]:
    """Bounds for two tensors, or for the values of one."""

    def rule(call: Call) -> Interval:
        other = call.argument(1, "other")
        return of_two(*call.two) if isinstance(other, fx.Node) else call.value(0)

    return rule


def _clamp(call: Call) -> Interval:
    x, low, high = call.value(0), call.argument(1, "min"), call.argument(2, "max")
    x = x if low is None else _larger(x, call.bounds(low))
    return x if high is None else _smaller(x, call.bounds(high))


def _hardtanh(call: Call) -> Interval:
    low, high = _number(call.argument(1, "min_val", -1.0)), _number(call.argument(2, "max_val", 1.0))
    return intervals.clamp(call.value(0), low, high)


def _threshold(call: Call) -> Interval:
    limit, value = _number(call.argument(1, "threshold")), _number(call.argument(2, "value"))
    if limit is None or value is None:
        return ANYWHERE
    return intervals.threshold(call.value(0), limit, value)


def _where(call: Call) -> Interval:
    condition, a, b = (call.argument(i, name) for i, name in enumerate(("condition", "input", "other")))
    x, y = call.bounds(a), call.bounds(b)
    if _is_mask(condition, a, "gt"):
        x = intervals.clamp(x, 0.0, None)
    if _is_mask(condition, b, "lt"):
        y = intervals.clamp(y, 0.0, None)
    return intervals.union([x, y])


def _masked_fill(call: Call) -> Interval:
    x = call.value(0)
    if _is_mask(call.argument(1, "mask"), call.argument(0, "input"), "lt"):
        x = intervals.clamp(x, 0.0, None)
    return intervals.union([x, call.value(2, "value")])


def _cat(call: Call) -> Interval:
    """Per channel if the channels are concatenated."""
    given = call.argument(0, "tensors")
    dim, rank = call.flow.channel_dim.get(call.node), len(call.flow.shape(call.node))
    along = call.argument(1, "dim", 0)
    parts = [call.of(node) for node in call.node.all_input_nodes]
    ordered = isinstance(given, tuple) and all(isinstance(part, fx.Node) for part in given)
    if not ordered or dim is None or not isinstance(along, int) or along % max(1, rank) != dim:
        return intervals.union(parts) if parts else ANYWHERE
    sizes = [call.flow.shape(part)[dim] for part in given]
    bounds = [call.of(part) for part in given]
    low, high = (
        np.concatenate([np.broadcast_to(b[side], (size,)) for b, size in zip(bounds, sizes, strict=True)])
        for side in (0, 1)
    )
    return Interval(low, high)


def _any_of(call: Call) -> Interval:
    return intervals.union([call.of(node) for node in call.node.all_input_nodes])


def _filled(index: int) -> Callable[[Call], Interval]:
    return lambda call: hull(call.value(index, "fill_value"))


def _pad(call: Call) -> Interval:
    x = call.value(0)
    if call.argument(2, "mode", "constant") != "constant":
        return x
    value = call.argument(3, "value")
    return intervals.union([x, call.bounds(value)]) if value else intervals.with_zero(x)


def _interpolate(call: Call) -> Interval:
    bicubic = call.argument(3, "mode", "nearest") == "bicubic"  # some of its weights are negative
    return ANYWHERE if bicubic else call.value(0)


def _grid_sample(call: Call) -> Interval:
    bicubic = call.argument(2, "mode", "bilinear") == "bicubic"
    return ANYWHERE if bicubic else intervals.with_zero(call.value(0))


def _dropout(call: Call) -> Interval:
    return intervals.scaled_up(call.value(0))


def _matmul(call: Call) -> Interval:
    lows = [float(hull(call.of(node)).low) for node in call.node.all_input_nodes]
    return NOT_NEGATIVE if lows and min(lows) >= 0 else ANYWHERE


def _attention(call: Call) -> Interval:
    return hull(call.value(2, "value"))  # results are means of values


_RULES: dict[str, Callable[[Call], Interval]] = {
    **dict.fromkeys(("add", "iadd", "radd"), _add),
    **dict.fromkeys(("sub", "isub", "subtract"), _sub),
    **dict.fromkeys(("mul", "imul", "rmul", "multiply"), _mul),
    **dict.fromkeys(("div", "idiv", "truediv", "itruediv", "divide", "true_divide"), _div),
    **dict.fromkeys(("rdiv", "rtruediv"), _rdiv),
    **dict.fromkeys(("pow", "ipow", "float_power"), _pow),
    **dict.fromkeys(("max", "maximum", "fmax"), _extreme(_larger)),
    **dict.fromkeys(("min", "minimum", "fmin"), _extreme(_smaller)),
    **dict.fromkeys(("clamp", "clip"), _clamp),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    "stack": _any_of,
    "setitem": lambda call: intervals.union([call.value(0), call.value(1)]),
    **dict.fromkeys(("interpolate", "upsample"), _interpolate),
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d", "drop_path"), _dropout),
    **dict.fromkeys(("matmul", "rmatmul", "bmm", "mm", "einsum"), _matmul),
    "rsub": _rsub,
    "rpow": _rpow,
    "clamp_min": lambda call: _larger(call.value(0), call.value(1, "min")),
    "clamp_max": lambda call: _smaller(call.value(0), call.value(1, "max")),
    "hardtanh": _hardtanh,
    "threshold": _threshold,
    "where": _where,
    "masked_fill": _masked_fill,
    "full_like": _filled(1),
    "new_full": _filled(2),
    "pad": _pad,
    "grid_sample": _grid_sample,
    "scaled_dot_product_attention": _attention,
}
