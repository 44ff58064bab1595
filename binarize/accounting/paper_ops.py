"""Which operations of a run the convention `paper` counts; its rules: `binarize.accounting.paper`."""

from __future__ import annotations

from collections.abc import Iterable

from binarize.accounting.paper_rules import PRODUCTS, WHOLE, Item, count_quantizer, items_of, positions_of
from binarize.accounting.record import Event, Recording
from binarize.accounting.tally import Tally
from binarize.layers import BinaryLayer, Bypass


def list_items(tally: Tally, recording: Recording, ends: set[str]) -> list[Item]:
    """The operations of one run, in order, without a head at the resolution of the image.

    Args:
        tally: of the network.
        recording: the run; operations without a rule are added to its `uncounted`.
        ends: paths of float layers that count as binary.
    """
    binary = first_binary_layer(tally)
    events = [event for event in recording.events if _is_counted(tally, event)]
    items: list[Item] = []
    for event in _below_image_resolution(events, recording.input_positions):
        items += items_of(tally, event, binary if event.path in ends else None)
    for path in dict.fromkeys(item.path for item in items):
        module = tally.modules.get(path)
        if isinstance(module, BinaryLayer) and count_quantizer(module.quantizer) is None:
            reason = f"no rule counts the quantizer {type(module.quantizer).__name__}"
            recording.uncounted.append((path, reason))
    return items


def add_up(tally: Tally, items: Iterable[Item]) -> None:
    """Put the operations into the rows of their layers."""
    for item in items:
        if item.binary:
            tally.at(item.path).binary_work += item.each * item.elements
        else:
            tally.at(item.path).float_work += item.each * item.elements


def first_binary_layer(tally: Tally) -> BinaryLayer | None:
    """The first in the order of definition."""
    return next((m for m in tally.modules.values() if isinstance(m, BinaryLayer)), None)


def _is_counted(tally: Tally, event: Event) -> bool:
    """Without the operations inside modules that are counted as one, or that make a binary layer's bits."""
    work = event.work
    if work is None or work.kind in PRODUCTS:
        return True
    module = tally.modules.get(event.path)
    if isinstance(module, Bypass):
        return work.kind == "pool" and not work.window
    if isinstance(module, WHOLE):
        return False
    owner = tally.owner(event.path)
    if not tally.is_binary(owner):
        return True
    part = event.path.removeprefix(f"{owner}.").partition(".")[0]
    return part in ("norm", "inner") and work.kind in ("norm", "activation")


def _below_image_resolution(events: list[Event], image: int) -> list[Event]:
    """The events up to the last layer at fewer positions than the image has, in a network that has any."""
    end = len(events)
    for index in reversed(range(len(events))):
        if _is_a_layer(events[index]) and positions_of(events[index]) < image:
            end = index + 1
            break
    # its bypass, and sums and products of its output, come behind it
    while end < len(events) and not _is_a_layer(events[end]) and positions_of(events[end]) < image:
        end += 1
    return events[:end]


def _is_a_layer(event: Event) -> bool:
    """Not a sum, a product or a mean: these may be of few numbers at any resolution."""
    work = event.work
    return work is not None and work.kind not in ("add", "mul") and work.name != "mean"
