"""The convention `honest`: each parameter once, and all multiply-accumulates that a run performs.

Parameters: every one once, however often it is used and whether or not it is frozen; the latent weights
of binary layers are of one bit, or of the K that their method gives them, all others of 32; of packed layers,
the bits and floats that they hold.
Work: the multiply-accumulates of every convolution, linear map, matrix product and attention that one run
performs, functional ones included, with groups respected and padded positions counted; those that a binary
layer does itself are binary: with weights of K and activations of M bits, K M for each product. So are the
two products of binary attention. Elementwise arithmetic, normalization and interpolation are not
multiply-accumulates and are not counted.
"""

from __future__ import annotations

from torch import nn

from binarize.accounting.record import Recording
from binarize.accounting.report import LayerCount, Uncounted
from binarize.accounting.tally import Tally
from binarize.layers import BinaryLayer


def count_honestly(
    model: nn.Module, recording: Recording
) -> tuple[tuple[LayerCount, ...], tuple[Uncounted, ...]]:
    """The layers of `model` as counted by this convention, and what could not be counted."""
    tally = Tally(model)
    for path, _, parameter, binary in tally.parameters():
        if binary:
            tally.at(path).binary_params += parameter.numel() * tally.bits(path)[0]
        else:
            tally.at(path).float_params += parameter.numel()
    tally.add_packed_layers()
    for event in recording.events:
        if event.work is not None and event.work.macs:
            if tally.is_binary(event.path):
                tally.at(event.path).binary_work += event.work.macs * products_of(tally, event.path)
            else:
                tally.at(event.path).float_work += event.work.macs
    uncounted = find_uncounted(tally, recording)
    tally.add_packed_bytes()
    return tally.layers(), uncounted


def products_of(tally: Tally, path: str) -> int:
    """Products of bits in each product of a binary layer; a packed layer does them one by one."""
    weight, activation = tally.bits(path)
    return weight * activation if isinstance(tally.modules.get(path), BinaryLayer) else 1


def find_uncounted(tally: Tally, recording: Recording) -> tuple[Uncounted, ...]:
    """Missing in the totals: operations without a rule, and modules whose parameters no operation read."""
    found: dict[tuple[str, str], None] = {}
    for path, reason in recording.uncounted:
        tally.at(path).unknown = True
        found[tally.owner(path), reason] = None
    idle: dict[str, bool] = {}
    for path, name, _, _ in tally.parameters():
        owner = tally.owner(path)
        idle[owner] = idle.get(owner, True) and f"{path}.{name}".lstrip(".") not in recording.used
    for path in (p for p, unused in idle.items() if unused):
        tally.at(path).unknown = True
        found[path, "its parameters were not used in the run"] = None
    return tuple(Uncounted(name=path, reason=reason) for path, reason in found)
