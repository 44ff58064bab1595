"""From a finished draft to the rows of its plan: one per layer, one per output."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from torch import fx, nn

from binarize.functional.bypass import bypass_kind
from binarize.graph.decide.draft import Draft, SiteDraft
from binarize.graph.decide.outputs import Output, shaping_function
from binarize.graph.model_copy import weight_shape
from binarize.graph.plan import LayerPlan, OutputPlan
from binarize.graph.plan_sentences import Code, Statement, joined
from binarize.layers.recipe import chosen_bypass
from binarize.methods.bypasses import has_units


def layer_rows(draft: Draft, layers: dict[str, nn.Module]) -> tuple[LayerPlan, ...]:
    """One entry for each layer, in the order of the run."""
    order = {name: draft.flow.order[nodes[0]] for name, nodes in draft.flow.calls.items()}
    names = sorted(layers, key=lambda name: order.get(name, len(draft.flow.nodes)))
    return tuple(_row(draft, name, layers[name]) for name in names)


def _row(draft: Draft, name: str, module: nn.Module) -> LayerPlan:
    nodes = draft.flow.calls.get(name, [])
    row = LayerPlan(
        name=name,
        kind=_kind_name(module),
        in_shape=nodes[0].meta["input_shape"] if nodes else (),
        out_shape=draft.flow.shape(nodes[0]) if nodes else (),
        weight_shape=weight_shape(module) or (),
    )
    site = draft.sites.get(name)
    if site is None:
        kept_by, reason = draft.kept[name]
        norm, activation = draft.kept_norms.get(name, ""), draft.kept_activations.get(name, "")
        return dataclasses.replace(row, reason=reason, kept_by=kept_by, norm=norm, activation=activation)
    return dataclasses.replace(
        row,
        converted=True,
        reason=Statement(Code.SHARED) if len(nodes) > 1 else "",
        bypass=_bypass_name(draft, site),
        bypass_reason=site.bypass_reason,
        norm=joined(site.norm),
        activation=site.activation,
        residual=site.residual,
        site_kind=site.kind,
        context=tuple(site.context.items()),
        absorbs=site.absorbs,
        nonnegative=site.nonnegative,
        activations=site.values,
    )


def _bypass_name(draft: Draft, site: SiteDraft) -> str:
    seen = site.site()
    if not site.bypass:
        return "none"
    if has_units(draft.method, seen):
        return "units"
    kind = bypass_kind(seen.in_channels, seen.out_channels)
    if kind == "identity":
        return "pool" if any(s > 1 for s in seen.stride) and not seen.transposed else "identity"
    twice = seen.out_channels == 2 * seen.in_channels and chosen_bypass(draft.method) == "duplicate"
    return "duplicate" if twice else f"CFB {kind}"


def _kind_name(module: nn.Module) -> str:
    if isinstance(module, nn.Linear):
        return "linear"
    conv: Any = module
    names = {"Conv1d": "conv1d", "Conv2d": "conv2d", "Conv3d": "conv3d"}
    base = next((text for cls, text in names.items() if isinstance(module, getattr(nn, cls))), "")
    base = base or f"conv_transpose{len(conv.kernel_size)}d"
    if conv.groups > 1:
        base = f"dw {base}" if conv.groups == conv.in_channels else f"grouped {base}"
    return base


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
    """The activations of an output that are replaced by the method's own."""
    for step in output.steps:
        swap = draft.swaps.get(str(step.target)) if step.op == "call_module" else None
        edit = draft.edits.get((step.meta["owner"], step.meta["step"] or ""))
        replaced = swap is not None and (swap.to in ("activation", "inner_act") or not swap.own)
        if replaced or (edit is not None and edit.action == "activation"):
            yield step
