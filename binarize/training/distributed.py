"""Sums over all processes, inside the graph: what a batch decides must not depend on how it is spread.

Losses and BatchNorm see the whole batch, and dropout draws for it. Every process then has the gradient of the
whole loss with regard to its own copy, times the number of processes; the mean that data-parallel training
takes makes it right.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, distributed, nn

from binarize.errors import ConfigError
from binarize.layers.norm import ChannelLastBatchNorm
from binarize.training.process_group import joined

_CHANNEL_DROPS = {nn.Dropout1d: 3, nn.Dropout2d: 4, nn.Dropout3d: 5}
_SAMPLE_DROPS = ("DropPath", "StochasticDepth")  # of timm and of torchvision
_KNOWN = (nn.modules.batchnorm._BatchNorm.forward, ChannelLastBatchNorm.forward)


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        grad = grad.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(grad)
        return grad


def all_sum(x: Tensor) -> Tensor:
    """The sum of all processes' `x`, of one shape; `x` itself in a single one."""
    if joined() and distributed.get_world_size() > 1:
        return _AllSum.apply(x)  # type: ignore[no-any-return]
    return x


def synchronize_norms(model: nn.Module) -> None:
    """Let every BatchNorm of the model see all processes' images in training.

    PyTorch's SyncBatchNorm refuses the CPU, and changes classes that files name; this changes no class.

    Raises:
        ConfigError: a class of BatchNorm whose forward is not known here.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if type(module).forward not in _KNOWN and not isinstance(module, BatchNormAct2d):
                raise ConfigError(
                    f"{name} is a {type(module).__name__}: its statistics cannot be those of all processes. "
                    "Train in one process, or use nn.BatchNorm2d."
                )
            module.__dict__["forward"] = partial(_synchronized, module)


def share_drops(model: nn.Module, rank: int, world: int) -> None:
    """Let every dropout of the model draw for the whole batch, of which this process takes its part.

    With the same seed in all processes, an image is then treated as it would be in a single one. That holds
    for modules whose first dimension is the batch. Dropout outside of these modules (in functions, in
    attention, alpha dropout) draws the same numbers in every process, each for its own images.

    Args:
        model: the network.
        rank: which process this is.
        world: of how many, which all have as many images.
    """
    for module in model.modules():
        elements = type(module) is nn.Dropout
        if elements or type(module) in _CHANNEL_DROPS or type(module).__name__ in _SAMPLE_DROPS:
            module.__dict__["forward"] = partial(_dropped, module, rank, world)


def _dropped(module: Any, rank: int, world: int, x: Tensor) -> Tensor:
    rest = _CHANNEL_DROPS.get(type(module))
    share = module.p if hasattr(module, "p") else module.drop_prob
    if not module.training or not share or x.dim() < 2 or (rest is not None and x.dim() != rest):
        return type(module).forward(module, x)  # type: ignore[no-any-return]
    shape = [world * len(x), *x.shape[1:]]
    if type(module) is not nn.Dropout:
        kept = 1 if rest is None else 2  # one number for a sample, or for each of its channels
        shape[kept:] = [1] * (x.dim() - kept)
    # random numbers are drawn in the order of memory
    order = sorted(range(x.dim()), key=lambda d: -x.stride(d))
    ones = torch.empty_permuted(shape, order, dtype=x.dtype, device=x.device).fill_(1)
    mask = type(module).forward(module, ones)
    own = mask[rank * len(x) : (rank + 1) * len(x)].clone()  # or the gradient would hold all of it
    return x.mul_(own) if getattr(module, "inplace", False) else x * own


def _synchronized(norm: Any, x: Tensor) -> Tensor:
    if not norm.training:
        return type(norm).forward(norm, x)  # type: ignore[no-any-return]
    last = type(norm).forward is ChannelLastBatchNorm.forward
    if last:
        x = x.movedim(-1, 1)
    dims = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    wide = x.float()
    own = wide.sum(dims)
    total, n = all_sum(torch.stack([own, torch.full_like(own, x.numel() / x.shape[1])]))
    mean = total / n
    # in a second pass: E[x^2] - E[x]^2 loses digits where the mean is large
    centred = wide - mean.view(shape)
    variance = all_sum(centred.square().sum(dims)) / n
    if norm.track_running_stats and norm.running_mean is not None:
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            momentum = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean.to(norm.running_mean), momentum)
            unbiased = variance * (n / (n - 1).clamp_min(1))
            norm.running_var.lerp_(unbiased.to(norm.running_var), momentum)
    y = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        y = y * norm.weight.view(shape) + norm.bias.view(shape)
    y = y.to(x.dtype)
    if last:
        y = y.movedim(1, -1)
    for part in ("drop", "act"):  # timm's norms with an activation
        if isinstance(module := getattr(norm, part, None), nn.Module):
            y = module(y)
    return y
