"""Slips of the counter behind the printed operations of BiDense, which the convention `paper` repeats.

The authors' script (see `binarize.accounting.paper`) counts UPerNet on ConvNeXt by hand and mistakes some
layers for others. `honest` has none of these slips. Sizes are what a slip changes in OPs at 480x480, in M,
for the float networks / the four methods that BiDense is compared with / BiDense.

  - Fusion is counted as one more smoothing convolution, 96 -> 96 channels instead of 384 -> 96, as a loop
    variable is used again behind its loop: -7166 / -112 to -137 / -134. This is why the float rows print
    288.4 G and not 295.3 G.
  - The branches of pyramid pooling are counted behind the upsampling, at 15x15 instead of 1, 2, 4 and 6 bins
    a side: +249 / +4 to +8 / +8.
  - Norms of the laterals are counted one level finer, an index off by one: +3 (not without such norms).
  - The activation in a ConvNeXt block counts as the GELU that it replaces, 7 per element, also where it is a
    PReLU or Maxout, which count 2 elsewhere: 0 / +197 (BNN, which keeps GELU, 0) / +197.
  - The four methods are counted with the norms of the float ConvNeXt, one per block: those behind its two
    pointwise layers are missing, -98, and that of a transition is in front of it, at the higher resolution,
    +2 (not BiSRNet, whose transitions have none). BiDense is counted with a norm behind every layer: these 98
    M of the printed difference between it and the four are not a difference between the networks.
  - The bypass around the smoothing convolution is not counted in the four methods (-3), nor that of BiSRNet's
    units at transitions (-1); BiDense's are.

The decoder's slips are repeated in every UPerNet, the encoder's if it is a ConvNeXt of timm; other networks
are counted by the rules on kinds of layers alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from binarize.accounting.paper_ops import first_binary_layer
from binarize.accounting.paper_rules import Item, ItemKind
from binarize.accounting.tally import Tally
from binarize.layers import AdaBinSign, Redistribution, ShiftedSignQuantizer, SignSTE, StepSTE


@dataclass(frozen=True, kw_only=True)
class Slip:
    """Work that the authors' counter counts as something else: one of the four actions at the end.

    Attributes:
        where: pattern of paths; it means the layers inside, too.
        kinds: of the items in question.
        others: only in networks of the four methods that BiDense is compared with.
        each: operations per element to count instead, 0 to count nothing.
        at: path of the layer at whose output positions to count instead.
        like: path of the layer whose items of these kinds to count instead.
        of_input: count per element of the layer's input instead.
        call: which call of `at` or `like`, the last one being -1.
    """

    where: str
    kinds: tuple[ItemKind, ...]
    others: bool = False
    each: int | None = None
    at: str = ""
    like: str = ""
    of_input: bool = False
    call: int = 0


_CONVOLUTION: tuple[ItemKind, ...] = ("product", "quantizer", "bypass")
_BLOCK = "encoder.stages_*.blocks.*"
_TRANSITION = "encoder.stages_*.downsample.*"

DECODER = (
    Slip(where="psp.branches.*", kinds=(*_CONVOLUTION, "norm", "activation"), at="psp.bottleneck"),
    Slip(where="fpn.laterals.0", kinds=("norm",), at="fpn.smooth", call=-1),
    Slip(where="fpn.laterals.1", kinds=("norm",), at="fpn.smooth", call=-2),
    Slip(where="fpn.laterals.2", kinds=("norm",), at="fpn.smooth", call=-3),
    Slip(where="fpn.smooth", kinds=("bypass",), others=True, each=0),
    Slip(where="fpn.fusion", kinds=_CONVOLUTION, like="fpn.smooth", call=-1),
)
"""In `binarize.networks.UPerNet`."""

ENCODER = (
    Slip(where=f"{_BLOCK}.mlp.act", kinds=("activation",), each=7),
    Slip(where=f"{_BLOCK}.mlp.fc?", kinds=("norm",), others=True, each=0),
    Slip(where=_TRANSITION, kinds=("norm",), others=True, of_input=True),
    Slip(where=f"{_TRANSITION}.units.*", kinds=("bypass",), others=True, each=0),
)
"""In its encoder, if that is a ConvNeXt of timm."""

_MARKS_DECODER = ("psp.branches", "psp.bottleneck", "fpn.laterals", "fpn.smooth", "fpn.fusion")
_MARKS_ENCODER = ("encoder.stages_0.blocks.0.conv_dw", "encoder.stages_0.blocks.0.mlp.act")
_OTHERS = (SignSTE, StepSTE, ShiftedSignQuantizer, AdaBinSign, Redistribution)


def apply_slips(tally: Tally, items: list[Item]) -> list[Item]:
    """The operations as the authors' counter has them.

    Args:
        tally: of any network; one that is not a UPerNet keeps its items.
        items: its operations by the rules on kinds of layers.
    """
    first = first_binary_layer(tally)
    is_other = first is not None and isinstance(first.quantizer, _OTHERS)
    slips: tuple[Slip, ...] = ()
    if all(path in tally.modules for path in _MARKS_DECODER):
        slips = DECODER
        if all(path in tally.modules for path in _MARKS_ENCODER):
            slips += ENCODER
    for slip in slips:
        if is_other or not slip.others:
            items = _apply(slip, items)
    return items


def _apply(slip: Slip, items: list[Item]) -> list[Item]:
    meant = [item for item in items if item.kind in slip.kinds and _is_in(item.layer, slip.where)]
    if not meant:
        return items
    if slip.like:
        path, layer = meant[0].path, meant[0].layer
        copies = [_nth_call(items, slip.like, kind, slip.call) for kind in slip.kinds]
        others = [item for item in items if item not in meant]
        return [*others, *(replace(item, path=path, layer=layer) for item in copies if item is not None)]
    return [_mend(slip, item, items) if item in meant else item for item in items]


def _mend(slip: Slip, item: Item, items: list[Item]) -> Item:
    if slip.each is not None:
        return replace(item, each=slip.each)
    source = _nth_call(items, slip.at or item.layer, "product", slip.call)
    if source is None:
        return item
    if slip.of_input:
        return replace(item, elements=source.inputs)
    return replace(item, elements=item.elements // item.positions * source.positions)


def _nth_call(items: Iterable[Item], where: str, kind: ItemKind, call: int) -> Item | None:
    found = [item for item in items if item.kind == kind and _is_in(item.layer, where)]
    return found[call] if -len(found) <= call < len(found) else None


def _is_in(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}.*")
