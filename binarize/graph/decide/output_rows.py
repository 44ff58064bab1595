"""From a draft to what its plan says of the network's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import fx

from binarize.graph.decide.draft import Draft
from binarize.graph.decide.outputs import Output, shaping_function
from binarize.graph.output_plan import OutputPlan


def output_rows(draft: Draft) -> Iterator[OutputPlan]:
    """One entry for each output, in the order of the network's result."""
    flow = draft.flow
    for output in draft.position.outputs.found:
        final = () if output.features else tuple(name for name, own in output.last.items() if own)
        yield OutputPlan(
            name=output.name,
            shape=flow.shape(output.node),
            features=output.features,
            final=final,
            kept=tuple(name for name in final if name not in draft.sites),
            functions=tuple(_named(draft, output.steps)),
            changed=tuple(_named(draft, _changed(draft, output))),
        )


def _named(draft: Draft, steps: Iterable[fx.Node]) -> Iterator[str]:
    yield from dict.fromkeys(name for step in steps if (name := shaping_function(draft.flow, step)))


def _changed(draft: Draft, output: Output) -> Iterator[fx.Node]:
    """The activations of an output that the method's own stand in for."""
    for step in output.steps:
        swap = draft.swaps.get(str(step.target)) if step.op == "call_module" else None
        edit = draft.edits.get((step.meta["owner"], step.meta["level"] or ""))
        replaced = swap is not None and (swap.to in ("activation", "inner_act") or not swap.own)
        if replaced or (edit is not None and edit.action == "activation"):
            yield step
