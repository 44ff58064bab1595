"""Parts of the network in every process: torch's FSDP2, and tensors that are whole or split.

Binary layers need their whole weight: scales and signs are statistics of it. Each is a unit of its own, whose
weight is gathered just before it runs; all other parameters are one unit, gathered for the whole step.
Parameters that are single numbers (AdaBin's alpha and beta) cannot be split: every process holds them.
"""

from __future__ import annotations

import atexit
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from binarize.layers import BinaryLayer
from binarize.training.distributed import all_sum
from binarize.training.dtensor import local_part
from binarize.training.environment import ShardingSettings


def shard(net: nn.Module, settings: ShardingSettings, device: torch.device, world: int) -> None:
    """Split all parameters along their first dimension, in place; the network is moved to the device.

    Args:
        net: the network, with the same values in all processes.
        settings: how.
        device: this process's.
        world: how many processes there are.
    """
    net.to(device=device).to(memory_format=torch.contiguous_format)  # FSDP takes no other
    mesh = init_device_mesh(device.type, (world,))
    # Caches of torch keep the mesh to the end, and with it the group that `process_group` destroys. The
    # attribute is torch's own: without it, a thread of gloo may again outlive the interpreter.
    atexit.register(getattr(mesh, "_pg_registry", {}).clear)
    single = {p for p in net.parameters() if p.dim() == 0}
    owners = Counter(id(p) for module in net.modules() for p in module._parameters.values() if p is not None)
    for module in list(net.modules()):
        # a parameter of several modules stays with what is gathered for the whole step
        if isinstance(module, BinaryLayer) and all(owners[id(p)] == 1 for p in module.parameters()):
            module.register_forward_hook(_owned)
            again = settings.reshard
            fully_shard(module, mesh=mesh, reshard_after_forward=again, ignored_params=single)
    fully_shard(net, mesh=mesh, ignored_params=single)


def share_gradients(parameters: Iterable[nn.Parameter], world: int) -> None:
    """The mean over processes of whole parameters' gradients, as FSDP takes it of those that are split."""
    for parameter in parameters:
        if parameter.grad is not None and not isinstance(parameter, DTensor):
            distributed.all_reduce(parameter.grad)
            parameter.grad /= world


def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> None:
    """Scale all gradients so that their common norm is at most that; as torch does, which takes no mixture.

    Args:
        parameters: split and whole ones.
        most: the largest norm.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    zero = torch.zeros((), device=gradients[0].device)
    split = sum((local_part(g).square().sum() for g in gradients if isinstance(g, DTensor)), zero)
    whole_ones = sum((g.square().sum() for g in gradients if not isinstance(g, DTensor)), zero)
    scale = (most / ((all_sum(split) + whole_ones).sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        local_part(gradient).mul_(scale)


def _owned(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    # FSDP's hook on a view is lost when the next layer writes into it, and with it the gathering in backward
    return output.clone() if output._is_view() else output
