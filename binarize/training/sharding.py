"""Parts of the network in every process: torch's FSDP2, and tensors that are whole or split.

Binary layers need their whole weight: scales and signs are statistics of it. Each is a unit of its own, whose
weight is gathered just before it runs; all other parameters are one unit, gathered for the whole step.
Parameters that are single numbers (AdaBin's alpha and beta) cannot be split: every process holds them.
"""

from __future__ import annotations

import atexit
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from binarize.errors import ConfigError
from binarize.layers import BinaryLayer
from binarize.training.distributed import all_sum, flag

_WANTED = "ACCELERATE_USE_FSDP"
_UNKNOWN = {
    "FSDP_OFFLOAD_PARAMS": "parameters stay on the device",
    "FSDP_ACTIVATION_CHECKPOINTING": "maps are kept for the backward pass",
}
_OTHERS = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}


@dataclass(frozen=True)
class Sharding:
    """How processes share a network.

    Attributes:
        reshard: binary layers let go of their gathered weight between forward and backward pass.
    """

    reshard: bool = True


def wanted() -> Sharding | None:
    """What accelerate's environment says of splitting the network; None where every process holds all of it.

    Raises:
        ConfigError: it asks for FSDP's first version, for an option of FSDP that is not offered here, or for
            DeepSpeed, Megatron-LM or a parallelism config.
    """
    for variable, name in _OTHERS.items():
        if flag(variable):
            raise ConfigError(
                f"train: accelerate is set to {name} ({variable}={os.environ[variable]}), which is not "
                "offered here. Choose plain multi-GPU or FSDP 2 in `accelerate config`, or start it with "
                "`torchrun --nproc-per-node N -m binarize train ...`."
            )
    if not flag(_WANTED):
        return None
    if (version := os.environ.get("FSDP_VERSION", "2")) != "2":
        raise ConfigError(
            f"train: accelerate is set to version {version} of FSDP (FSDP_VERSION={version}); expected 2: "
            "`accelerate launch --use_fsdp --fsdp_version 2`, or fsdp_version: 2 in its configuration."
        )
    for variable, instead in _UNKNOWN.items():
        if flag(variable):
            raise ConfigError(
                f"train: accelerate's environment says {variable}={os.environ[variable]}, which is not "
                f"offered here: {instead}. Set it to false."
            )
    # an answer to version 1's question (FULL_SHARD and the like) is no answer to this one
    given = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower()
    return Sharding(reshard=given not in ("false", "0", "no"))


@contextmanager
def left_to_us() -> Iterator[None]:
    """Hide the wish from accelerate, whose own wrapping needs a GPU and knows nothing of binary layers."""
    value = os.environ.pop(_WANTED, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[_WANTED] = value


def shard(net: nn.Module, sharding: Sharding, device: torch.device, world: int) -> None:
    """Split all parameters along their first dimension, in place; the network is moved to the device.

    Args:
        net: the network, with the same values in all processes.
        sharding: how.
        device: this process's.
        world: how many processes there are.
    """
    net.to(device=device).to(memory_format=torch.contiguous_format)  # FSDP takes no other
    mesh = init_device_mesh(device.type, (world,))
    # Caches of torch keep the mesh to the end, and with it the group that `distributed.leave` lets go. The
    # attribute is torch's own: without it, a thread of gloo may again outlive the interpreter.
    atexit.register(getattr(mesh, "_pg_registry", {}).clear)
    single = {p for p in net.parameters() if p.dim() == 0}
    owners = Counter(id(p) for module in net.modules() for p in module._parameters.values() if p is not None)
    for module in list(net.modules()):
        # a parameter of several modules stays with what is gathered for the whole step
        if isinstance(module, BinaryLayer) and all(owners[id(p)] == 1 for p in module.parameters()):
            module.register_forward_hook(_owned)
            again = sharding.reshard
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
    split = sum((local(g).square().sum() for g in gradients if isinstance(g, DTensor)), zero)
    whole_ones = sum((g.square().sum() for g in gradients if not isinstance(g, DTensor)), zero)
    scale = (most / ((all_sum(split) + whole_ones).sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        local(gradient).mul_(scale)


def _owned(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    # FSDP's hook on a view is lost when the next layer writes into it, and with it the gathering in backward
    return output.clone() if output._is_view() else output


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that is split, in the same memory; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that is split; any other as it is. All processes have to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed(value: Tensor, like: Tensor) -> Tensor:
    """A copy of a whole tensor on the device, of the dtype, in the memory format and split as another one."""
    if isinstance(like, DTensor):
        value = value.to(like.device, like.dtype)
        return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(like).copy_(value)
