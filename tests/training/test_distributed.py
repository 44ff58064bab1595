"""BatchNorm over all processes, in a single one: the library's own."""

from __future__ import annotations

import atexit
import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import small_net
import torch
from timm.layers import BatchNormAct2d, DropPath
from torch import nn
from torchvision.ops import StochasticDepth

from binarize import recipes
from binarize.errors import ConfigError
from binarize.layers.norm import ChannelLastBatchNorm
from binarize.training.distributed import share_drops, synchronize_norms
from binarize.training.environment import on_cpu
from binarize.training.loop import train
from binarize.training.process_group import destroy_group_at_exit


def test_the_group_is_destroyed_after_a_good_end_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_end: list[Callable[[], None]] = []
    monkeypatch.setattr(atexit, "register", at_end.append)
    monkeypatch.setattr(atexit, "unregister", lambda f: at_end.remove(f) if f in at_end else None)
    destroy_group_at_exit()
    assert not at_end  # there is no group
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        destroy_group_at_exit()
        train(recipes.validate(small_net.values(epochs=1), "a test"), tmp_path / "run")
        assert len(at_end) == 1
        with pytest.raises(ConfigError, match="holds a run already"):
            train(recipes.validate(small_net.values(epochs=1), "a test"), tmp_path / "run")
        assert not at_end
        destroy_group_at_exit()
        at_end.pop()()
        assert not torch.distributed.is_initialized()
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


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
    ("drop", "shape"),
    [
        (nn.Dropout(0.3), (6, 5)),
        (nn.Dropout(0.3, inplace=True), (6, 5, 4, 3)),
        (nn.Dropout1d(0.3), (6, 5, 4)),
        (nn.Dropout2d(0.3), (6, 5, 4, 3)),
        (nn.Dropout3d(0.3), (6, 5, 4, 3, 2)),
        (DropPath(0.5), (6, 5, 4, 3)),
        (StochasticDepth(0.5, "row"), (6, 5, 4)),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_parts_of_a_batch_are_dropped_as_the_whole(
    drop: nn.Module, shape: tuple[int, ...], last: bool
) -> None:
    x = torch.rand(shape) + 1
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    torch.manual_seed(0)
    whole = drop(x.clone())
    assert 0 < (whole == 0).float().mean() < 1
    parts = []
    for rank in range(3):
        own = nn.Sequential(copy.deepcopy(drop))
        share_drops(own, rank, 3)
        torch.manual_seed(0)
        parts.append(own(x[2 * rank : 2 * rank + 2]))
        torch.testing.assert_close(own.eval()(x), x)
    torch.testing.assert_close(torch.cat(parts), whole)


def test_dropout_in_place_and_of_nothing() -> None:
    drops = nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Dropout2d(0.0), DropPath(0.0))
    share_drops(drops, 0, 2)
    x = torch.ones(4, 3, 5, 5)
    drops[0](x)
    assert 0 < (x == 0).float().mean() < 1
    state = torch.get_rng_state()
    torch.testing.assert_close(drops[2](drops[1](x)), x)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn where nothing is dropped


def test_a_gpu_is_left_alone_where_accelerate_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    for value, expected in (("1", True), ("true", True), ("0", False), (None, False)):
        monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
        if value is not None:
            monkeypatch.setenv("ACCELERATE_USE_CPU", value)
        assert on_cpu() == expected
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert on_cpu()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "perhaps")
    with pytest.raises(ConfigError, match="ACCELERATE_USE_CPU='perhaps'; expected 0 or 1"):
        on_cpu()
