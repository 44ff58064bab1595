"""Loading draws no start values, and nothing of what is built depends on that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import binarize
from binarize.files import create_timm
from binarize.files.build_contexts import WithoutStartValues


def test_parameters_are_not_filled_and_everything_else_is() -> None:
    with WithoutStartValues():
        weight = nn.Parameter(torch.full((4, 4), 3.0))
        for fill in (nn.init.kaiming_uniform_, nn.init.normal_):
            assert fill(weight) is weight
        with torch.no_grad():
            weight.normal_()
        assert torch.equal(weight, torch.full((4, 4), 3.0))
        assert torch.empty(100).normal_().std() > 0.5
        assert nn.init.ones_(torch.zeros(2)).sum() == 2
    with torch.no_grad():
        assert weight.normal_().std() > 0


def test_a_file_is_loaded_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = binarize.apply(create_timm("test_vit"), "bidense")
    path = binarize.save(model, tmp_path / "model.safetensors", source=model.binarize_spec)  # type: ignore[arg-type]
    left: list[bool] = []

    class Spy(WithoutStartValues):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            random = getattr(func, "__name__", "") in ("kaiming_uniform_", "uniform_", "normal_")
            target = args[0] if args else (kwargs or {}).get("tensor")
            before = target.clone() if random and isinstance(target, nn.Parameter) else None
            result = super().__torch_function__(func, types, args, kwargs)
            if before is not None:
                left.append(torch.equal(before.nan_to_num(), target.nan_to_num()))
            return result

    monkeypatch.setattr("binarize.files.float_network.WithoutStartValues", Spy)
    again = binarize.load(path)
    assert len(left) > 10
    assert all(left)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
