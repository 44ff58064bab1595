"""Loading draws no start values, and nothing of what is built depends on that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

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


SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": [2, 2]}


class _Fills(TorchFunctionMode):
    """Counts the random fills of parameters that take place."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")
        name = getattr(func, "__name__", "")
        if name.endswith(("normal_", "uniform_")) and isinstance(target, nn.Parameter):
            self.count += not target.is_meta
        return func(*args, **kwargs)


@pytest.mark.parametrize(
    ("name", "kwargs", "size"),
    [("test_vit", {}, 160), ("swin_tiny_patch4_window7_224", SWIN, 64)],
    ids=["on the meta device", "in memory, for its attention masks"],
)
def test_a_file_is_loaded_without_them(name: str, kwargs: dict[str, Any], size: int, tmp_path: Path) -> None:
    x = torch.rand(2, 3, size, size)
    model = binarize.apply(create_timm(name, **kwargs), "bidense", example_inputs=x)
    path = binarize.save(model, tmp_path / "model.safetensors", source=model.binarize_spec)  # type: ignore[arg-type]
    with _Fills() as fills:
        create_timm(name, **kwargs)
    assert fills.count > 10
    with _Fills() as fills:
        again = binarize.load(path)
    assert fills.count == 0
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    with torch.no_grad():
        assert torch.equal(again(x), model.eval()(x))
