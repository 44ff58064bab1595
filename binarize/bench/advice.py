"""Why a packed network is not faster than its float counterpart, and what would help."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import nn

from binarize.bench.measure import AROUND, BETWEEN, Bench
from binarize.native.library import available
from binarize.runtime import PackedLayer, deployed_layers
from binarize.runtime.kernel_support import is_depthwise, per_channel, why_not_per_channel
from binarize.runtime.program.timing import PACKED

_WORD = 64
"""Signs in a word of the kernels: fewer channels fill a part of it."""

_MUCH = 0.25
"""The least share of the time that is mentioned."""


def slower_than(found: Bench) -> list[str]:
    """Names of the baselines that take less time than the packed network, the first variant."""
    first, *others = found.times
    return [name for name in others if found.median(name) < found.median(first)]


def advice(found: Bench, packed: nn.Module) -> list[str]:
    """What would make the packed network faster, a sentence or two each; empty if no baseline is faster.

    Args:
        found: its times.
        packed: the network.
    """
    if not slower_than(found):
        return []
    layers = list(deployed_layers(packed).values())
    text = [*_computed_by_torch(layers), *_scales(layers), *_shapes(layers), *_float_parts(found)]
    return text or [
        "What is packed gains most on wide layers and large maps: a larger image (--size), more channels or "
        "several images at once (--batch) make it faster."
    ]


def _computed_by_torch(layers: list[PackedLayer]) -> Iterator[str]:
    reasons = Counter(reason for layer in layers if (reason := layer.why_by_torch()))
    exact = {layer.options.exact_scales for layer in layers}
    specs = {layer.spec for layer in layers} if available() else set()
    by_scales = {why_not_per_channel(spec, exact_scales=e) for spec in specs for e in exact}
    for reason, count in reasons.most_common(2):
        text = f"{count} of {len(layers)} packed layers are computed by torch, not by the kernels: {reason}."
        if not available():
            text += " `binarize doctor` says why; with a C++ compiler, install the package again."
        elif reason in by_scales:
            text += " granularity=layer needs no such scales (convert with --set, train with method.options)."
        yield text


def _scales(layers: list[PackedLayer]) -> Iterator[str]:
    found = [layer for layer in layers if per_channel(layer.spec) and layer.why_by_torch() is None]
    if not found:
        return
    text = f"{len(found)} of {len(layers)} packed layers have a scale per channel inside their sums: "
    if any(layer.options.exact_scales for layer in found):
        text += "without exact_scales (--exact-scales) they are rounded and take about half the time; "
    yield text + "a scale per layer (granularity=layer, then train) is the fastest."


def _shapes(layers: list[PackedLayer]) -> Iterator[str]:
    alone = sum(is_depthwise(layer.spec) for layer in layers)
    if alone > _MUCH * len(layers):
        yield (
            f"{alone} of {len(layers)} packed layers are depthwise: they have few products, and one bit "
            "hardly makes them faster. Keep them in float (--keep)."
        )
    dense = [layer.spec for layer in layers if not is_depthwise(layer.spec)]
    narrow = sum(spec.in_channels // spec.groups < _WORD for spec in dense)
    if dense and narrow > len(dense) / 2:
        yield (
            f"{narrow} of {len(dense)} dense packed layers have fewer than {_WORD} input channels and fill a "
            "part of each word of 64 signs: wider layers gain more."
        )


def _float_parts(found: Bench) -> Iterator[str]:
    total = sum(found.kinds.values())
    if not total:
        return
    between = found.kinds.get(BETWEEN, 0.0)
    around = found.kinds.get(AROUND, 0.0)
    rest = (BETWEEN, AROUND)
    left = {kind: ms for kind, ms in found.kinds.items() if not kind.startswith(PACKED) and kind not in rest}
    if sum(left.values()) > _MUCH * total:
        parts = ", ".join(f"{kind} {ms:.1f} ms" for kind, ms in list(left.items())[:3])
        share = sum(left.values()) / total
        yield f"{share:.0%} of the packed network's time is in parts that stayed float: {parts}."
    if between > _MUCH * total:
        yield (
            f"{between / total:.0%} of its time is Python between the modules, which does not depend on the "
            "image: a larger image, or several at once (--batch), hides it."
        )
    if around > _MUCH * total:
        yield (
            f"{around / total:.0%} of its time is spent around the steps of its program, mostly in Python: a "
            "larger image, or several at once (--batch), hides it."
        )
