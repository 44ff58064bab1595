"""A part of the network in every process: torch's FSDP2.

Binary layers need their whole weight: scales and signs are statistics of it. Each is a unit of its own, whose
weight is gathered just before it runs; all other parameters are one unit, gathered for the whole step.
Parameters that are single numbers (AdaBin's alpha and beta) cannot be split: every process holds them.
"""

from __future__ import annotations

import atexit
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from binarize.graph.model_copy import copied
from binarize.layers import BinaryLayer
from binarize.training.distributed import all_sum
from binarize.training.dtensor import gathered, is_split, local_part
from binarize.training.environment import ShardingSettings


class Shards:
    """The `Strategy` of processes that each hold a part of every weight.

    Args:
        net: the network, with the same values in all processes. It is split in place and moved to the device.
        accelerator: that knows the processes.
        settings: how it is split.
    """

    def __init__(self, net: nn.Module, accelerator: Accelerator, settings: ShardingSettings) -> None:
        self.net = self.model = net
        self.standalone = copied(net)  # holds whole weights on the CPU
        self._accelerator, self._world = accelerator, accelerator.num_processes
        _shard(net, settings, accelerator.device, self._world)

    def wrap(self) -> None:
        """FSDP needs no wrapper of data-parallel training."""
        self.model = self._accelerator.prepare_model(self.net, evaluation_mode=True)

    def reduce_gradients(self) -> None:
        """The mean over processes of whole parameters' gradients; FSDP takes that of the split ones."""
        for parameter in self.net.parameters():
            if parameter.grad is not None and not is_split(parameter):
                distributed.all_reduce(parameter.grad)
                parameter.grad /= self._world

    def clip_gradients(self, most: float) -> None:
        """See `Strategy`. torch's own function does not take split and whole parameters together."""
        _clip(self.net.parameters(), most)

    @contextmanager
    def whole_network(
        self, average: Mapping[str, Tensor] | None, device: torch.device, *, wanted: bool = True
    ) -> Iterator[nn.Module]:
        """A copy of the network, into which the weights of all processes are gathered."""
        self._gather(average or {}, wanted)
        try:
            yield self.standalone.to(device)
        finally:
            self.standalone.to("cpu")  # training needs the memory for its maps

    def _gather(self, average: Mapping[str, Tensor], wanted: bool) -> None:
        """Copy the weights one by one: all of them together may not fit the device."""
        # A module with two names is twice in a state, and once among the parameters, as in the average.
        whole = self.standalone
        targets = [(whole.state_dict(), self.net.state_dict()), (dict(whole.named_parameters()), average)]
        with torch.no_grad():
            for own, given in targets:
                for name, tensor in given.items():
                    found = gathered(tensor)
                    if wanted:
                        own[name].copy_(found)


def _shard(net: nn.Module, settings: ShardingSettings, device: torch.device, world: int) -> None:
    """Split all parameters along their first dimension, in place; the network is moved to the device."""
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


def _owned(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    # FSDP's hook on a view is lost when the next layer writes into it, and with it the gathering in backward
    return output.clone() if output._is_view() else output


def _clip(parameters: Iterable[nn.Parameter], most: float) -> None:
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    zero = torch.zeros((), device=gradients[0].device)
    split = sum((local_part(g).square().sum() for g in gradients if is_split(g)), zero)
    whole = sum((g.square().sum() for g in gradients if not is_split(g)), zero)
    scale = (most / ((all_sum(split) + whole).sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        local_part(gradient).mul_(scale)
