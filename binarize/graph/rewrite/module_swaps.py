"""Norms, activations and layer scale that are modules: replaced according to the plan."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from binarize.errors import RewriteError
from binarize.graph.hooks import take_hooks
from binarize.graph.plan import Swap
from binarize.graph.rewrite.module_slots import Places
from binarize.graph.trace.roles import fused_activation, fused_drop
from binarize.layers.norm import batch_norm
from binarize.layers.normed import put_norm_in_front
from binarize.methods.base import ActivationSite, Method


def swap_module(model: nn.Module, swap: Swap, method: Method, places: Places) -> None:
    """Replace the module that `swap` names.

    Raises:
        RewriteError: the plan names a replacement that is not known here.
    """
    old: Any = model.get_submodule(swap.path)
    reference = reference_of(model, swap.path)
    if swap.to == "identity":
        new: nn.Module = nn.Identity()
    elif swap.to == "batch_norm":
        new = batch_norm(swap.channels, dim=swap.dim, spatial=swap.spatial)
    elif swap.to == "input_norm":
        norm = batch_norm(swap.channels, dim=swap.dim, spatial=swap.spatial)
        put_norm_in_front(old, norm.to(reference.device, reference.dtype).train(old.training))
        return
    elif swap.to == "activation":
        new = new_activation(swap, method)
    elif swap.to in ("inner_act", "no_inner_act"):
        inner: nn.Module = nn.Identity() if swap.to == "no_inner_act" else new_activation(swap, method)
        take_hooks(inner, old.act)
        old.act = inner.to(reference.device, reference.dtype).train(old.training)
        return
    elif swap.to in ("unfuse", "drop_act"):
        own, drop = fused_activation(old), fused_drop(old)
        act = own if swap.own else (None if swap.to == "drop_act" else new_activation(swap, method))
        if act is not None and own is not None and act is not own:
            take_hooks(act, own)
        parts = [part for part in (drop, act) if part is not None]
        new = nn.Identity() if not parts else parts[0] if len(parts) == 1 else nn.Sequential(*parts)
    else:
        raise RewriteError(f"{swap.path}: unknown replacement {swap.to!r}; the plan is from another version.")
    places.replace(old, new.to(reference.device, reference.dtype).train(old.training))


def reference_of(model: nn.Module, path: str) -> torch.Tensor:
    """A float parameter of the module at `path` or of the nearest module around it: its device and dtype."""
    while True:
        for parameter in model.get_submodule(path).parameters():
            if parameter.dtype.is_floating_point:
                return parameter
        if not path:
            return torch.empty(0)
        path = path.rpartition(".")[0]


def new_activation(swap: Swap, method: Method) -> nn.Module:
    """The method's activation where `swap` says.

    Raises:
        RewriteError: the method has none.
    """
    site = ActivationSite(
        channels=swap.channels,
        dim=swap.dim,
        spatial=swap.spatial,
        spatial_between=swap.spatial_between,
        removes_sign_information=swap.removes_sign_information,
    )
    factory = method.activation(site)
    if factory is None:
        raise RewriteError(f"{swap.path}: {method.name} has no activation of its own; plan again.")
    return factory()
