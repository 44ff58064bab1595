"""Norms where bypassed signals have added up: a chain of bypassed layers keeps adding to its input.

Each bypassed layer adds to its input, so that deviation and mean grow along a chain, and double where a sum
of two of them stays. Binary layers then see one sign only, and final layers give scores that saturate. A
BatchNorm is put

- behind a sum that stays and adds up more than two bypassed signals (one sum of two is left alone);
- in front of a float layer without a norm behind it, if the deviation of the map that it sees is expected
  to be nearly three times that of a normalized and rectified one (the paper's UPerNet, 2.8 times, has none).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import fx

from binarize.graph.decide.draft import Draft
from binarize.graph.decide.signal_moments import NORMED, Signal, signal_at, terms_of
from binarize.graph.plan import Edit, Swap
from binarize.graph.plan_sentences import Code, Statement
from binarize.graph.trace.dataflow import LAYOUT
from binarize.methods.bypasses import drops_residual

MOST_SIGNALS = 2
"""Bypassed signals that a sum may hold without a norm: a lateral map and the one from above it."""
MOST_DEVIATION = 2.85 * 0.584
"""In front of a float layer; 0.584 is the deviation of relu(x) for x of mean 0 and variance 1."""


def decide_growth(draft: Draft) -> None:
    """Put norms where signals would grow; in the order of the run, for each changes what comes behind it."""
    if not drops_residual(draft.method):
        return  # the network's own sums must stay as they are
    signals: dict[fx.Node, Signal] = {}
    for node in draft.flow.nodes:
        signals[node] = signal_at(draft, node, signals)
        name = str(node.target)
        if draft.flow.is_layer(node):
            source = draft.flow.source(node)
            if name in draft.kept and source is not None and _saturates(draft, node, source, signals[source]):
                _norm_in_front(draft, node, source, signals[source])
        elif signals[node].load > MOST_SIGNALS and _is_whole_sum(draft, node) and _norm_behind(draft, node):
            signals[node] = NORMED


def growth_notes(draft: Draft) -> Iterator[Statement]:
    """Notes: where sums have a norm now, and where they would need one."""
    if names := ", ".join(dict.fromkeys(draft.sums_normed)):
        count = len(draft.sums_normed)
        if count == 1:
            yield Statement(Code.SUM_NORMED, names, MOST_SIGNALS)
        else:
            yield Statement(Code.SUMS_NORMED, names, count, MOST_SIGNALS)
    if names := ", ".join(dict.fromkeys(draft.sums_growing)):
        yield Statement(Code.SUMS_GROW, names, MOST_SIGNALS)


def _is_whole_sum(draft: Draft, node: fx.Node) -> bool:
    """A sum of maps that stays and is not a term of another one."""
    if len(terms_of(draft, node)) < 2 or _dropped(draft, node):
        return False
    user = next(iter(node.users), None)
    inner = len(node.users) == 1 and user is not None and len(terms_of(draft, user)) > 1
    return not inner or (user is not None and _dropped(draft, user))


def _dropped(draft: Draft, node: fx.Node) -> bool:
    return (node.meta.get("owner", ""), node.meta.get("step") or "") in draft.edits


def _norm_behind(draft: Draft, node: fx.Node) -> bool:
    swap = _batch_norm(draft, node) or _batch_norm(draft, terms_of(draft, node)[0])
    following = draft.flow.only_user(node, LAYOUT)
    if swap is None or (following is not None and draft.flow.role(following) == "norm"):
        return False
    owner, step = node.meta["owner"], node.meta["step"] or ""
    name = draft.free_name(owner, f"{step}_norm")
    where = owner or type(draft.flow.model).__name__
    new = dataclasses.replace(swap, path=name)
    edit = Edit(owner=owner, node=step, action="norm", activation=new)
    if draft.edit(node, edit):
        draft.sums_normed.append(where)
        return True
    draft.sums_growing.append(where)
    return False


def _saturates(draft: Draft, node: fx.Node, source: fx.Node, signal: Signal) -> bool:
    """Whether a float layer's input is a map of bypassed signals that have grown, and no norm follows."""
    flow = draft.flow
    if draft.kept[str(node.target)][0] not in ("policy", "method") or signal.load == 0:
        return False
    following = flow.only_user(node, LAYOUT)
    normed = following is not None and flow.role(following) == "norm"
    if normed or hasattr(flow.module(node), "input_norm"):  # of an earlier conversion
        return False
    return signal.deviation > MOST_DEVIATION and (flow.positions(source) or 1) > 1


def _norm_in_front(draft: Draft, node: fx.Node, source: fx.Node, signal: Signal) -> None:
    path = str(node.target)
    swap = _batch_norm(draft, source)
    if swap is None or path in draft.swaps:
        return
    draft.swaps[path] = dataclasses.replace(swap, path=path, to="input_norm")
    draft.kept_norms[path] = Statement(Code.NORM_ADDED, f"{signal.deviation:.1f}")


def _batch_norm(draft: Draft, node: fx.Node) -> Swap | None:
    """A BatchNorm for a step's map; None if its channels are not known or it has one position."""
    flow = draft.flow
    shape, dim = flow.shape(node), flow.channel_dim.get(node)
    if dim is None or (flow.positions(node) or 1) < 2:
        return None
    last = dim == len(shape) - 1 and (dim != 1 or len(shape) == 2)
    if not last and (dim != 1 or not 3 <= len(shape) <= 5):
        return None
    return Swap(path="", to="batch_norm", channels=shape[dim], dim=-1 if last else 1, spatial=len(shape) - 2)
