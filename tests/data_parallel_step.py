"""What each process of a data-parallel test does; a module that spawned processes can import by name."""

from __future__ import annotations

from pathlib import Path

import torch
from engine_nets import ResNetLike
from torch import nn

import binarize
from binarize.methods.lqnet import LearntLevels


def fit_bases(rank: int, world: int, folder: str) -> None:
    """Three steps of a quantizer with learnt levels on this process's batches; its basis goes to `folder`."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", world)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    try:
        quantizer = LearntLevels(2, signed=True)
        for batch in torch.load(f"{folder}/batches.pt"):
            quantizer(batch[rank])
        torch.save(quantizer.basis, Path(folder) / f"rank{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def train_step(rank: int, world: int, folder: str) -> None:
    """One step on this process's own batch; leaves the gradients and new parameters in `folder`."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", world)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    try:
        torch.manual_seed(rank)  # other start values and batches per process: DDP has to bring them together
        model = binarize.apply(ResNetLike(), "bidense", example_inputs=torch.zeros(2, 3, 32, 32)).train()
        parallel = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(parallel.parameters(), 0.1)
        parallel(torch.randn(2, 3, 32, 32)).square().mean().backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        optimizer.step()
        state = {name: p.detach() for name, p in model.named_parameters()}
        torch.save((gradients, state), Path(folder) / f"rank{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()
