"""Float layers replaced by binary ones; weights that layers share stay shared."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from binarize.graph.plan import Plan
from binarize.graph.rewrite.absorbed_norm import take_over
from binarize.graph.rewrite.module_slots import Places
from binarize.layers import BinaryLayer
from binarize.methods.base import Method
from binarize.methods.build import build
from binarize.methods.float_layer import own_form, site_of
from binarize.methods.forms import Form


def swap_layers(
    plan: Plan,
    model: nn.Module,
    method: Method,
    places: Places,
    taken_out: dict[str, nn.Module],
    forms: dict[str, Form],
) -> None:
    """Replace the float layer of each converted row by its binary layer.

    Args:
        plan: with the rows.
        model: to change.
        method: of the plan.
        places: where the modules of `model` are held.
        taken_out: float layers that were taken out of their own forwards, by path.
        forms: of layers with a forward of their own, by path, as far as they are known.
    """
    ties: dict[int, list[nn.Module]] = {}
    for row in plan.converted:
        place: Any = model.get_submodule(row.name)
        layer: Any = taken_out.get(row.name, place)
        form = forms.get(row.name) or own_form(layer)
        context: Any = {"nonnegative": row.nonnegative, **dict(row.context)}
        site = site_of(layer, kind=row.site_kind or None, form=form, **context)  # type: ignore[arg-type]
        built = build(layer, method, site, bypass=row.bypass != "none", form=form)
        if row.absorbs is not None:
            take_over(built, model.get_submodule(row.absorbs), layer)
        for earlier in ties.setdefault(id(layer.weight), []):
            _tie(built, earlier)
        ties[id(layer.weight)].append(built)
        if layer is place:
            places.replace(layer, built)
        else:
            place._modules[place.binary_name] = built


def _tie(built: nn.Module, earlier: nn.Module) -> None:
    """Share the pieces of one latent weight between two layers that are built from the same pieces."""
    layers, others = ([m for m in one.modules() if isinstance(m, BinaryLayer)] for one in (built, earlier))
    if [_cut(layer) for layer in layers] != [_cut(other) for other in others]:
        return  # the plan has a note
    for layer, other in zip(layers, others, strict=True):
        layer.weight = other.weight


def _cut(layer: BinaryLayer) -> tuple[type[nn.Module], torch.Size]:
    return type(layer), layer.weight.shape
