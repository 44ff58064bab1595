"""Bounds of the results of functions and modules, from the bounds of their inputs.

An interval is (low, high) of float64 arrays of shape (), or (C,) with one bound per channel. A rule may give
wider bounds than a function has, never narrower ones; without a rule there are no bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from binarize.graph.trace.roles import fused_activation, known_class

Bounds = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """All numbers from `low` to `high`, both included."""

    low: Bounds
    high: Bounds


def interval(low: float, high: float) -> Interval:
    """One interval for all channels."""
    return Interval(np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64))


ANYWHERE = interval(-np.inf, np.inf)
NOT_NEGATIVE = interval(0, np.inf)
FRACTION = interval(0, 1)
ABOVE_ZERO = 1e-150
"""Lower bound of what is positive, however small: products of two of them are above 0 too."""
POSITIVE = interval(ABOVE_ZERO, np.inf)
SHARES = interval(ABOVE_ZERO, np.nextafter(1.0, 0.0))


def hull(of: Interval) -> Interval:
    """One interval that holds those of all channels."""
    return interval(float(of.low.min()), float(of.high.max())) if of.low.ndim else of


def union(parts: Sequence[Interval]) -> Interval:
    """One interval that holds several."""
    hulls = [hull(part) for part in parts]
    return interval(min(float(p.low) for p in hulls), max(float(p.high) for p in hulls))


def monotone(function: Callable[[Bounds], Bounds]) -> Callable[[Interval], Interval]:
    """The rule of a function that never decreases."""

    def rule(x: Interval) -> Interval:
        with np.errstate(all="ignore"):
            return Interval(*(np.asarray(function(bound), dtype=np.float64) for bound in x))

    return rule


def clamp(x: Interval, low: float | None, high: float | None) -> Interval:
    """Bounds after torch.clamp."""
    for limit, choose in ((low, np.maximum), (high, np.minimum)):
        if limit is not None:
            x = Interval(choose(x.low, limit), choose(x.high, limit))
    return x


def magnitude(x: Interval) -> Interval:
    """Bounds of absolute values."""
    low = np.where((x.low <= 0) & (x.high >= 0), 0.0, np.minimum(np.abs(x.low), np.abs(x.high)))
    return Interval(low, np.maximum(np.abs(x.low), np.abs(x.high)))


def add(x: Interval, y: Interval) -> Interval:
    """Bounds of sums; no two infinities of opposite sign meet."""
    return Interval(x.low + y.low, x.high + y.high)


def negative(x: Interval) -> Interval:
    """Bounds of -x."""
    return Interval(-x.high, -x.low)


def multiply(x: Interval, y: Interval) -> Interval:
    """Bounds of products; 0 times a bound at infinity is 0, because values are finite."""
    with np.errstate(invalid="ignore"):
        ends = [np.nan_to_num(a * b, nan=0.0, posinf=np.inf, neginf=-np.inf) for a in x for b in y]
    return Interval(np.min(ends, axis=0), np.max(ends, axis=0))


def _sign_of(low: Bounds) -> Bounds:
    """The lower bound if only the sign of the values is kept."""
    return np.where(low > 0, ABOVE_ZERO, np.where(low >= 0, 0.0, -np.inf))


def divide(x: Interval, y: Interval) -> Interval:
    """Bounds of quotients: their signs, and more only for a number as divisor."""
    if not y.low.ndim and y.low == y.high and y.low != 0:
        return multiply(x, Interval(1 / y.low, 1 / y.low))
    if bool((y.high <= 0).all()):
        x, y = negative(x), negative(y)
    if not bool((y.low >= 0).all()):
        return ANYWHERE
    return Interval(_sign_of(x.low), np.where(x.high <= 0, 0.0, np.inf))


def power(x: Interval, exponent: Any) -> Interval:
    """Bounds of x ** exponent; the exponent is a number or unknown."""
    even = isinstance(exponent, (int, float)) and exponent % 2 == 0
    if even and exponent >= 0:
        size = magnitude(x)
        with np.errstate(over="ignore"):
            return Interval(size.low**exponent, size.high**exponent)
    low = np.maximum(_sign_of(x.low), 0.0) if even else _sign_of(x.low)
    return Interval(low, np.full_like(x.high, np.inf))


def powers(x: Interval) -> Interval:
    """Bounds of products of many values, or sums of their powers: nonnegative if all of the values are."""
    x = hull(x)
    return interval(0.0 if x.low >= 0 else -np.inf, np.inf)


def sums(x: Interval) -> Interval:
    """Bounds of sums of any number of values."""
    x = hull(x)
    return interval(0.0 if x.low >= 0 else -np.inf, 0.0 if x.high <= 0 else np.inf)


def _bent(x: Interval) -> Interval:
    """GELU, SiLU, Mish, Hardswish: nothing below -0.4; what is not negative stays so and does not grow."""
    return Interval(np.maximum(_sign_of(x.low), -0.4), np.maximum(x.high, 0))


def _sloped(x: Interval) -> Interval:
    """PReLU, ELU and the like: their negative half may be anything."""
    return Interval(_sign_of(x.low), np.where(x.high <= 0, np.inf, x.high * 1.06))


def _sigmoid(x: Bounds) -> Bounds:
    return np.clip(1 / (1 + np.exp(-x)), SHARES.low, SHARES.high)


def _exponential(function: Callable[[Bounds], Bounds]) -> Callable[[Interval], Interval]:
    return monotone(lambda x: np.maximum(function(x), ABOVE_ZERO))


def _constant(of: Interval) -> Callable[[Interval], Interval]:
    return lambda x: Interval(of.low + np.zeros_like(x.low), of.high + np.zeros_like(x.high))


def _same(x: Interval) -> Interval:
    return x


_UNARY: dict[str, Callable[[Interval], Interval]] = {
    "relu": monotone(lambda x: np.maximum(x, 0)),
    "relu6": monotone(lambda x: np.clip(x, 0, 6)),
    "sigmoid": monotone(_sigmoid),
    "tanh": monotone(np.tanh),
    "hardsigmoid": monotone(lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    "exp": _exponential(np.exp),
    "exp2": _exponential(np.exp2),
    "expm1": monotone(np.expm1),
    "sqrt": monotone(lambda x: np.sqrt(np.maximum(x, 0))),
    "log1p": monotone(lambda x: np.log1p(np.maximum(x, -1))),
    "sinh": monotone(np.sinh),
    "atan": monotone(np.arctan),
    "arctan": monotone(np.arctan),
    "asinh": monotone(np.arcsinh),
    "sign": monotone(np.sign),
    "floor": monotone(np.floor),
    "ceil": monotone(np.ceil),
    "round": monotone(np.round),
    "trunc": monotone(np.trunc),
    "abs": magnitude,
    "absolute": magnitude,
    "square": lambda x: power(x, 2),
    "neg": negative,
    **dict.fromkeys(("gelu", "silu", "swish", "mish", "hardswish", "gelutanh", "quickgelu"), _bent),
    **dict.fromkeys(("swishme", "mishme", "hardswishme", "hardmish", "hardmishme", "simplegelu"), _bent),
    **dict.fromkeys(("leaky_relu", "leakyrelu", "prelu", "rrelu", "elu", "celu", "selu"), _sloped),
    **dict.fromkeys(("softsign", "erf", "hardshrink", "softshrink", "tanhshrink", "normalize"), _sloped),
    **dict.fromkeys(("local_response_norm", "localresponsenorm"), _sloped),
    **dict.fromkeys(("softplus", "rsqrt", "cosh"), _constant(POSITIVE)),
    **dict.fromkeys(("softmax", "softmax2d", "softmin"), _constant(SHARES)),
    **dict.fromkeys(("gumbel_softmax",), _constant(FRACTION)),
    **dict.fromkeys(
        ("gt", "ge", "lt", "le", "eq", "ne", "greater", "less", "logical_not"), _constant(FRACTION)
    ),
    **dict.fromkeys(("logical_and", "logical_or", "isnan", "isfinite", "zeros_like"), _constant(FRACTION)),
    **dict.fromkeys(("ones_like", "rand_like", "bernoulli", "new_zeros", "new_ones"), _constant(FRACTION)),
    **dict.fromkeys(("norm", "vector_norm", "matrix_norm", "linalg_norm"), _constant(NOT_NEGATIVE)),
    **dict.fromkeys(("linalg_vector_norm", "linalg_matrix_norm", "std", "var"), _constant(NOT_NEGATIVE)),
    **dict.fromkeys(("argmax", "argmin", "bincount", "one_hot", "count_nonzero"), _constant(NOT_NEGATIVE)),
    **dict.fromkeys(("reciprocal",), lambda x: divide(interval(1, 1), x)),
    **dict.fromkeys(("sum", "nansum", "cumsum"), sums),
    **dict.fromkeys(("prod", "cumprod", "lp_pool1d", "lp_pool2d", "lp_pool3d"), powers),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), lambda x: with_zero(x)),  # its padding
    **dict.fromkeys(("hardsigmoidme", "hard_sigmoid"), _constant(FRACTION)),
    "logsigmoid": _constant(interval(-np.inf, 0)),
}
"""Rules for functions of one tensor, by the name of the function, or of a module's class in small letters."""

_PASSING = {
    *("permute", "transpose", "t", "reshape", "view", "view_as", "flatten", "unflatten", "contiguous"),
    *("movedim", "moveaxis", "squeeze", "unsqueeze", "to", "type_as", "float", "double", "half", "bfloat16"),
    *("clone", "swapaxes", "swapdims", "detach", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
    *("split", "chunk", "unbind", "tensor_split", "getitem", "get", "narrow", "select", "index_select"),
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "drop_path", "mean", "amax", "amin", "max", "min"),
    *("median", "quantile", "topk", "sort", "take", "gather"),
    *("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "expand"),
    *("adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "boolean_dispatch"),
    *("expand_as", "repeat", "repeat_interleave", "tile", "roll", "flip", "broadcast_to", "unfold", "cpu"),
    *("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"),
    *("diagonal", "tril", "triu", "swap", "nan_to_num", "item", "native_channel_shuffle", "rot90"),
}
"""Functions whose results are values of the first tensor, means of them, or 0."""
_NEW_ORDER = {"channel_shuffle", "native_channel_shuffle", "pixel_shuffle", "pixel_unshuffle", "roll", "flip"}
_NEW_ORDER |= {"movedim", "moveaxis", "topk", "sort", "gather", "take", "index_select"}


def keeps_channels(name: str) -> bool:
    """Whether a step keeps the order of the channels, whatever happens to the channel dim."""
    return name not in _NEW_ORDER


def passes(name: str) -> bool:
    """Whether a function's results lie where its first tensor does."""
    return name in _PASSING


def unary(name: str) -> Callable[[Interval], Interval] | None:
    """The rule of a function of one tensor, or None."""
    return _UNARY.get(name)


def of_module(module: nn.Module, x: Interval) -> Interval:
    """Bounds of a module's results for values from `x`; not for layers."""
    kind: Any = known_class(module)
    known: Any = module
    name = kind.__name__.lower()
    if isinstance(module, (nn.Hardtanh, nn.ReLU6)):
        return clamp(x, float(known.min_val), float(known.max_val))
    if isinstance(module, nn.Threshold):
        return threshold(x, float(known.threshold), float(known.value))
    if isinstance(module, nn.modules.padding._ConstantPadNd):
        return union([x, interval(float(known.value), float(known.value))]) if known.value else with_zero(x)
    if isinstance(module, nn.Upsample):
        return ANYWHERE if known.mode == "bicubic" else x
    if isinstance(module, (nn.AlphaDropout, nn.FeatureAlphaDropout)):
        return ANYWHERE  # in training
    if name == "starrelu":
        return _star_relu(known)
    if (rule := unary(name)) is not None:
        return rule(x)
    inside = fused_activation(module)
    return ANYWHERE if inside is None else of_module(inside, ANYWHERE)


def with_zero(x: Interval) -> Interval:
    """With 0 added, as padding and dropout do."""
    return Interval(np.minimum(x.low, 0), np.maximum(x.high, 0))


def scaled_up(x: Interval) -> Interval:
    """With 0 and all multiples above 1 added, as dropout does."""
    return Interval(np.where(x.low >= 0, 0.0, -np.inf), np.where(x.high <= 0, 0.0, np.inf))


def threshold(x: Interval, limit: float, value: float) -> Interval:
    """Bounds after nn.Threshold: x where it is above `limit`, else `value`."""
    return Interval(np.minimum(np.maximum(x.low, limit), value), np.maximum(x.high, value))


def _star_relu(module: Any) -> Interval:
    """Scale * relu(x)^2 + bias: by their current values, although both may be learnt."""
    values = []
    for name in ("scale", "bias"):
        tensor: Any = getattr(module, name, None)
        readable = isinstance(tensor, Tensor) and not tensor.is_meta
        values.append(float(tensor.detach().min()) if readable else 0.0)
    return interval(values[1] if values[0] >= 0 else -np.inf, np.inf)
