"""What all tests share: few threads, no network, a fixed seed, a small custom network."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest
import torch
from torch import Tensor, nn

BESIDE_OTHERS = "PYTEST_XDIST_WORKER" in os.environ
if BESIDE_OTHERS:  # threads that wait for each other's cores take far longer; for processes that tests start
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may depend on the network; read when timm is imported
os.environ["ACCELERATE_USE_CPU"] = "1"  # the same bits again are promised there only

hypothesis.settings.register_profile(
    "no deadline", deadline=None
)  # how long an example takes depends on the machine
hypothesis.settings.load_profile("no deadline")

# Tests of minutes come first, or the last of them would run alone.
LONGEST = {
    "test_every_family_passes",
    "test_kernels_under_sanitizers",
    "test_kernels_of_avx512_on_avx2",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.name not in LONGEST)


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> Iterator[None]:
    """Small tensors gain nothing from many threads, and tests may run beside each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if BESIDE_OTHERS else min(2, before))
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class SmallNet(nn.Module):
    """A stem, two convolutions with a residual add, a classifier."""

    def __init__(self, width: int = 16, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def pass_through() -> Iterator[None]:
    """The method `test_pass_through` of `pass_through.py`."""
    from pass_through import registered

    with registered():
        yield


@pytest.fixture
def small_net() -> nn.Module:
    return SmallNet()
