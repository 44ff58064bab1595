"""Whole replicas of a network, behind the interface that they share with split ones."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from binarize.errors import DataError
from binarize.training.averaging import MovingAverage
from binarize.training.replicas import Replicas


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_the_average_stands_in_for_the_weights_until_the_block_ends(net: nn.Module) -> None:
    strategy, average = Replicas(net, Accelerator(cpu=True)), MovingAverage(net)
    own = {name: p.detach().clone() for name, p in net.named_parameters()}
    for tensor in average.tensors.values():
        tensor.fill_(7.0)

    def use() -> None:
        with strategy.whole_network(average.tensors, torch.device("cpu")) as whole:
            assert whole is net
            assert all(bool((p == 7.0).all()) for p in whole.parameters())
            raise DataError

    with pytest.raises(DataError):
        use()
    assert all(torch.equal(p, own[name]) for name, p in net.named_parameters())
    with strategy.whole_network(None, torch.device("cpu")) as whole:
        assert all(torch.equal(p, own[name]) for name, p in whole.named_parameters())


def test_gradients_are_clipped_together(net: nn.Module) -> None:
    strategy = Replicas(net, Accelerator(cpu=True))
    strategy.wrap()
    strategy.model(torch.randn(5, 3)).square().sum().mul(100.0).backward()
    before = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    norm = torch.cat([g.flatten() for g in before]).norm()
    strategy.reduce_gradients()  # a single process has the mean already
    strategy.clip_gradients(0.5)
    for p, gradient in zip(net.parameters(), before, strict=True):
        torch.testing.assert_close(p.grad, gradient * 0.5 / norm, rtol=1e-4, atol=1e-7)
