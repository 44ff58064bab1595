"""What earlier versions pickled is read: their module paths lead to where the code lives now."""

from __future__ import annotations

import pickle

import torch
from torch import nn

import binarize


class Padded(nn.Conv2d):
    """A layer with a forward of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu(super().forward(nn.functional.pad(input, (1, 1, 1, 1))))


class Block(nn.Module):
    """An activation that is replaced, in a forward with an argument that is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.padded = nn.Conv2d(8, 8, 3, padding=1), Padded(8, 8, 3)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        y = self.padded(nn.functional.relu(self.conv(x)))
        return y if scale == 1 else y * scale


OLD = {
    b"binarize.graph.rewrite.generated_forward": b"binarize.graph.rewritten",
    b"binarize.graph.rewrite.opened_layer": b"binarize.graph.openings",
    b"binarize.graph.forward_helpers": b"binarize.graph.rewritten",
}


def test_models_pickled_with_the_paths_of_earlier_versions() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 16, 16)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Block(), nn.Conv2d(8, 2, 1))
    binary = binarize.apply(model, "bidense", example_inputs=x).eval()
    written = pickle.dumps(binary, protocol=0)  # names stand in it as lines
    old = written
    for now, before in OLD.items():
        assert now in old
        old = old.replace(now, before)
    torch.testing.assert_close(pickle.loads(old)(x), binary(x), rtol=0, atol=0)


def test_policies_pickled_with_the_path_of_earlier_versions() -> None:
    given = binarize.Policy(keep=("head.*",), first=0)
    written = pickle.dumps(given, protocol=0)
    assert b"binarize.graph.decide.policy" in written
    assert pickle.loads(written.replace(b"binarize.graph.decide.policy", b"binarize.graph.policy")) == given
