"""Activations in files: the same gradients, and no file left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import binarize
from binarize.coverage import Subject, check, spill
from binarize.coverage.spill import saved_in_files


@pytest.mark.parametrize(("least", "beyond"), [(1, 0), (1, 30_000), (1 << 20, 0), (1, None)])
def test_gradients_are_the_same(
    least: int, beyond: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill, "_LARGE", least)
    float_net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    images = torch.randn(2, 3, 24, 20)
    net = binarize.apply(float_net, "bidense", example_inputs=images)
    net(images).square().mean().backward()
    expected = [p.grad for p in net.parameters()]
    net.zero_grad()
    with saved_in_files(beyond, str(tmp_path)):
        loss = net(images).square().mean()
        left = [p for p in tmp_path.rglob("*") if p.is_file()]
    loss.backward()
    assert left == []
    assert list(tmp_path.iterdir()) == []
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        assert gradient is not None
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)


@pytest.mark.slow
def test_a_check_with_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[int] = []
    create = torch.from_file

    def counted(*args: Any, size: int, **kwargs: Any) -> torch.Tensor:
        files.append(size)
        return create(*args, size=size, **kwargs)

    monkeypatch.setattr("torch.from_file", counted)
    monkeypatch.setattr(spill, "_LARGE", 1000)
    subject = Subject(name="test_resnet")
    assert check(subject).status == "pass"
    assert files == []
    record = check(subject, activations=100_000)
    assert record.status == "pass", record.reason
    assert len(files) > 10


@pytest.mark.parametrize("beyond", [None, 10**9])
def test_a_tensor_changed_in_place_is_still_an_error(beyond: int | None) -> None:
    x = torch.ones(3, requires_grad=True)
    with saved_in_files(beyond):
        y = x.exp()
        z = y.sum()
        with torch.no_grad():
            y.mul_(2)
    with pytest.raises(RuntimeError, match="modified"):
        z.backward()
