"""Activations in files: the same gradients, and no file left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import binarize
from binarize.coverage import check, checks, spill, subjects
from binarize.coverage.spill import saved_in_files


@pytest.mark.parametrize("least", [1, 1 << 20])
def test_gradients_are_the_same(least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "_LARGE", least)
    float_net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    images = torch.randn(2, 3, 24, 20)
    net = binarize.apply(float_net, "bidense", example_inputs=images)
    net(images).square().mean().backward()
    expected = [p.grad for p in net.parameters()]
    net.zero_grad()
    with saved_in_files(str(tmp_path)):
        loss = net(images).square().mean()
        left = [p for p in tmp_path.rglob("*") if p.is_file()]
    loss.backward()
    assert left == []
    assert list(tmp_path.iterdir()) == []
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        assert gradient is not None
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)


def test_a_check_that_memory_cannot_hold_trains_on_one_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches: list[int] = []
    step = checks._Check._train_with

    def full(self: object, model: nn.Module, size: tuple[int, ...], batch: int) -> None:
        batches.append(batch)
        if batch > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        step(self, model, (3, 64, 64), batch)  # type: ignore[arg-type]

    monkeypatch.setattr(checks._Check, "_train_with", full)
    monkeypatch.setattr(spill, "_LARGE", 1)
    record = check(subjects.Subject(name="test_resnet"))
    assert record.status == "pass", record.reason
    assert batches == [16, 2, 1]
