"""The values of a converted network before its first training step: mean, variance, bypassed signals.

A static estimate in training mode: norms give mean 0 and variance 1, bypasses and sums add both up,
activations have the moments of a normal distribution's. Channels and the terms of sums are taken as
independent, maps as noise of some smoothness. Deviations in front of final layers are met within 15 % on
most networks for dense prediction, within a third on nearly all.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import fx, nn

from binarize.graph.decide.draft import Draft, SiteDraft
from binarize.graph.decide.sign_rules import name_of
from binarize.methods.bypasses import composes

_AVERAGED = 0.4
"""The share of the variance that average pooling by a stride of 2 keeps (0.25 of noise, 1 of flat maps)."""
_INTERPOLATED = 0.6
"""The share that linear interpolation keeps."""
_SLOPE = 0.25
"""Initial slope below 0 of the methods' own activations."""
_DIVIDE = {"div", "truediv", "idiv", "itruediv", "divide", "true_divide"}
_INVERT = {"rsqrt", "reciprocal"}
_LARGEST = 1e30
"""The limit of estimates: products of products grow without bound in a network without norms."""


class Signal(NamedTuple):
    """What is known of the values at a step.

    Attributes:
        mean: expected, over channels, positions and samples.
        var: likewise.
        load: how many bypassed signals are added up in it since the last norm; 0 behind a layer without
            bypass, a float layer or a norm.
    """

    mean: float
    var: float
    load: int

    @property
    def deviation(self) -> float:
        """The square root of the variance."""
        return math.sqrt(self.var)


NORMED = Signal(0.0, 1.0, 0)


def signal_at(draft: Draft, node: fx.Node, before: dict[fx.Node, Signal]) -> Signal:
    """The signal that `node` gives, from those of the steps before it; never beyond what floats hold."""
    signal = _signal(draft, node, before)
    mean = min(max(signal.mean, -_LARGEST), _LARGEST)
    return signal._replace(mean=mean, var=min(signal.var, _LARGEST**2))


def _signal(draft: Draft, node: fx.Node, before: dict[fx.Node, Signal]) -> Signal:
    flow = draft.flow
    sources = flow.sources(node)
    if not sources:
        return NORMED
    x, role = before[sources[0]], flow.role(node)
    site = draft.site_at(node)
    if site is not None:
        return _layer(draft, x, site)
    if flow.is_layer(node):
        return Signal(0.0, (x.var + x.mean**2) / 3, 0)  # torch's initialization
    edit = draft.edits.get((node.meta.get("owner", ""), node.meta.get("step") or ""))
    if edit is not None and edit.action in ("drop", "identity"):
        kept = node.args[edit.keep if edit.action == "drop" else 0]
        return before[kept] if isinstance(kept, fx.Node) else x
    terms = terms_of(draft, node)
    if len(terms) > 1:
        return _added([before[term] for term in terms])
    if role == "norm":
        return x if draft.norms.get(node) in ("absorbed", "removed") else NORMED
    if role == "act":
        own = edit is None and str(node.target) not in draft.swaps
        return _rectified(x, 0.0 if own else _SLOPE)
    if role == "gate":
        return Signal(0.5, 0.04, 0)
    if role == "mul" and len(sources) == 2:
        return _quotient(draft, node, before) or _product(x, before[sources[1]])
    if role == "cat":
        return _side_by_side(draft, node, [before[source] for source in sources])
    if role == "drop":
        rate = _rate(draft, node)
        return x._replace(var=x.var + rate / (1 - rate) * (x.var + x.mean**2))
    if role in ("pool", "upsample"):
        return _resized(draft, node, x)
    return x._replace(load=0) if role in ("matmul", "attention") else x


def terms_of(draft: Draft, node: fx.Node) -> list[fx.Node]:
    """The maps that a step adds up: of an addition, or of a sum over maps that were stacked for it."""
    flow = draft.flow
    sources = flow.sources(node)
    if flow.role(node) == "add":
        return sources
    name = getattr(node.target, "__name__", "")
    stacked = len(sources) == 1 and getattr(sources[0].target, "__name__", "") == "stack"
    if name == "sum" and stacked and len(flow.shape(node)) < len(flow.shape(sources[0])):
        return flow.sources(sources[0])
    return []


def _layer(draft: Draft, x: Signal, site: SiteDraft) -> Signal:
    seen = site.site()
    recipe = site.recipe(draft.method)
    units = composes(draft.method, seen) and recipe.weight_rule.scaled  # others have a norm inside
    fresh = NORMED if not units and recipe.norm != "none" else Signal(0.1, 0.25, 0)
    if not site.bypass:
        return fresh
    var = x.var
    if site.strided() and not seen.transposed:
        var *= _AVERAGED
    merged = seen.in_channels // seen.out_channels
    if merged > 1:
        var /= merged
    return Signal(x.mean + fresh.mean, var + fresh.var, max(x.load, 1))


def _added(terms: list[Signal]) -> Signal:
    return Signal(sum(t.mean for t in terms), sum(t.var for t in terms), sum(t.load for t in terms))


def _product(x: Signal, y: Signal) -> Signal:
    squares = (x.var + x.mean**2) * (y.var + y.mean**2)
    return Signal(x.mean * y.mean, max(squares - (x.mean * y.mean) ** 2, 0.0), max(x.load, y.load))


def _quotient(draft: Draft, node: fx.Node, before: dict[fx.Node, Signal]) -> Signal | None:
    """The signal of x / y or x * rsqrt(y), normalized if y comes from x (a norm written out); else None."""
    x, y = draft.flow.sources(node)
    if name_of(node) not in _DIVIDE:
        if name_of(x) in _INVERT:
            x, y = y, x
        elif name_of(y) not in _INVERT:
            return None
    signal, square = before[x], before[x].var + before[x].mean ** 2
    origins = {x, *_computed_from(draft, x, 2)}
    if square == 0 or not origins & _computed_from(draft, y, 6):
        return signal  # the size of the divisor is not known
    return Signal(signal.mean / math.sqrt(square), signal.var / square, 0)


def _computed_from(draft: Draft, node: fx.Node, steps: int) -> set[fx.Node]:
    """The maps that `node` is computed from some steps before, without passing a layer."""
    found: set[fx.Node] = set()
    edge = {node}
    for _ in range(steps):
        edge = {source for at in edge if not draft.flow.is_layer(at) for source in draft.flow.sources(at)}
        found |= edge
    return found


def _side_by_side(draft: Draft, node: fx.Node, parts: list[Signal]) -> Signal:
    dim = draft.flow.channel_dim.get(node)
    shapes = [draft.flow.shape(source) for source in draft.flow.sources(node)]
    sizes = [shape[dim] if dim is not None and dim < len(shape) else 1 for shape in shapes]
    total = sum(sizes) or 1
    mean = sum(part.mean * n for part, n in zip(parts, sizes, strict=True)) / total
    squares = sum((part.var + part.mean**2) * n for part, n in zip(parts, sizes, strict=True)) / total
    return Signal(mean, max(squares - mean**2, 0.0), max(part.load for part in parts))


def _rectified(x: Signal, slope: float) -> Signal:
    """Moments of max(x, slope x) for normal x."""
    s = max(x.deviation, 1e-6)
    z = x.mean / s
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    share = 0.5 * (1 + math.erf(z / math.sqrt(2)))
    above = x.mean * share + s * density
    squares = (x.mean**2 + s * s) * share + x.mean * s * density
    mean = above + slope * (x.mean - above)
    squares += slope**2 * (x.mean**2 + s * s - squares)
    return Signal(mean, max(squares - mean**2, 0.0), x.load)


def _resized(draft: Draft, node: fx.Node, x: Signal) -> Signal:
    flow = draft.flow
    module = flow.module(node)
    name = type(module).__name__ if module is not None else str(getattr(node.target, "__name__", ""))
    before, after = flow.positions(flow.sources(node)[0]) or 1, flow.positions(node) or 1
    if flow.role(node) == "upsample":
        mode = str(getattr(module, "mode", None) or node.kwargs.get("mode") or "nearest")
        smooth = after > before and mode.endswith(("linear", "cubic"))
        return x._replace(var=x.var * _INTERPOLATED) if smooth else x
    if "max" in name.lower():
        return x._replace(mean=x.mean + x.deviation, var=0.8 * x.var)
    if after >= before:
        return x
    halvings = math.log(before / after, 4)
    return x._replace(var=x.var * _AVERAGED ** min(halvings, 2))


def _rate(draft: Draft, node: fx.Node) -> float:
    """How many values a dropout sets to 0; 0 for those that drop whole samples."""
    module = draft.flow.module(node)
    if module is None:
        name = getattr(node.target, "__name__", "")
        given = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
        rate = given if "dropout" in name else 0.0
    else:
        rate = module.p if isinstance(module, nn.modules.dropout._DropoutNd) else 0.0
    return min(float(rate), 0.9) if isinstance(rate, (int, float)) else 0.0
