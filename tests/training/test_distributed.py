"""BatchNorm over all processes, in a single one: the library's own."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import small_net
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from binarize import recipes
from binarize.errors import ConfigError
from binarize.layers.norm import ChannelLastBatchNorm
from binarize.training.distributed import refuse_sharding, synchronize_norms
from binarize.training.loop import train


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(5), nn.BatchNorm2d(5, momentum=None), nn.BatchNorm2d(5, affine=False), BatchNormAct2d(5)],
)
def test_the_same_as_batch_norm(norm: nn.Module) -> None:
    torch.manual_seed(0)
    own = copy.deepcopy(norm)
    synchronize_norms(own)
    for _ in range(3):
        x = (3 + 2 * torch.randn(4, 5, 6, 7)).requires_grad_()
        y = x.detach().clone().requires_grad_()
        a, b = norm(x), own(y)
        torch.testing.assert_close(a, b)
        grad = torch.randn_like(a)
        torch.testing.assert_close(
            torch.autograd.grad(a, x, grad), torch.autograd.grad(b, y, grad), atol=1e-5, rtol=1e-4
        )
    for (name, p), q in zip(norm.state_dict().items(), own.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, msg=name)
    norm.eval()
    own.eval()
    torch.testing.assert_close(norm(x), own(x))


def test_channels_last_and_classes_that_are_not_known() -> None:
    norm = ChannelLastBatchNorm(5)
    own = copy.deepcopy(norm)
    synchronize_norms(own)
    x = 3 + torch.randn(2, 6, 7, 5)
    torch.testing.assert_close(norm(x), own(x))
    torch.testing.assert_close(norm.running_var, own.running_var)

    class Strange(nn.BatchNorm2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * 2

    with pytest.raises(ConfigError, match="0 is a Strange"):
        synchronize_norms(nn.Sequential(Strange(3)))


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("ACCELERATE_USE_FSDP", "FSDP"),
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "a parallelism config"),
    ],
)
def test_a_network_is_not_split(
    variable: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "false")
    refuse_sharding()
    monkeypatch.setenv(variable, "true")
    recipe = recipes.validate(small_net.values(epochs=1), "a test")
    with pytest.raises(ConfigError, match=rf"set to {name} \({variable}=true\).*torchrun"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
