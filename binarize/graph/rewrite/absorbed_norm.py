"""Norms that a binary layer takes over from the network, with their parameters and statistics."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from binarize.graph.hooks import without_hooks
from binarize.graph.trace.roles import is_batch_norm
from binarize.layers.norm import batch_norm


def take_over(built: Any, norm: nn.Module, layer: Any) -> None:
    """Give `built` the norm that was behind the float layer, with its statistics."""
    if is_batch_norm(norm):
        taken: Any = built.norm
        if isinstance(norm, nn.SyncBatchNorm):  # its statistics are those of all processes
            taken = built.norm = nn.SyncBatchNorm(norm.num_features, process_group=norm.process_group)
        elif taken is None:  # a method without a norm of its own
            taken = built.norm = batch_norm(layer.out_channels, dim=1, spatial=len(layer.kernel_size))
        for name in ("weight", "bias"):
            taken._parameters[name] = norm._parameters.get(name)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            taken._buffers[name] = norm._buffers.get(name)
        for name in ("eps", "momentum", "affine", "track_running_stats"):
            setattr(taken, name, getattr(norm, name))
        taken.train(norm.training)
        if layer.bias is not None and built.own_bias is None and taken.running_mean is not None:
            # BN(conv + bias) with mean m is BN(conv) with mean m - bias.
            taken.running_mean.sub_(layer.bias.detach().to(taken.running_mean.dtype))
    else:
        built.norm = _twin(norm)


def _twin(module: nn.Module) -> nn.Module:
    """Another object with the same tensors: the original will be replaced wherever it is registered."""
    twin = copy.copy(module)
    twin._parameters = dict(module._parameters)
    twin._buffers = dict(module._buffers)
    return without_hooks(twin)  # the replacement of the original has them
