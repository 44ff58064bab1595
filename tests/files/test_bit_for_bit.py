"""What is loaded computes bit for bit what was saved: in every layer kind, memory format and dtype."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import binarize
from binarize.files import read_header

METHODS = ["adabin", "bidense", "bisrnet", "bnn", "reactnet"]


class Kinds(nn.Module):
    """A layer of each kind, large enough for the libraries' fast paths."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.plain, self.point = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 32, 1)
        self.down, self.depth = nn.Conv2d(32, 32, 2, 2), nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.up, self.wide = nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ConvTranspose2d(16, 16, 2, 2)
        self.mix, self.head = nn.Linear(16, 16), nn.Conv2d(16, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depth(self.down(self.point(self.plain(self.stem(x)))))
        x = self.wide(self.up(x))
        return self.head(self.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@pytest.mark.parametrize("channels_last", [False, True], ids=["usual", "channels_last"])
@pytest.mark.parametrize("method", METHODS)
def test_loaded_is_saved(method: str, channels_last: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = Kinds().to(memory_format=layout)
    model = binarize.apply(net, method, example_inputs=torch.rand(1, 3, 16, 16)).eval()
    images = torch.rand(2, 3, 16, 16).contiguous(memory_format=layout)
    source = {"source": "custom", "class": "t.Kinds"}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        saved, x = copy.deepcopy(model).to(dtype), images.to(dtype)
        loaded = binarize.load(
            binarize.save(saved, tmp_path / f"{dtype}.safetensors", source=source), Kinds()
        )
        for name, tensor in saved.state_dict().items():
            other = loaded.state_dict()[name]
            assert torch.equal(tensor, other), (name, dtype)
            assert tensor.stride() == other.stride(), (name, dtype)
        with torch.no_grad():
            assert torch.equal(saved(x), loaded(x)), dtype


@pytest.mark.parametrize("method", ["bidense", "bisrnet"])
def test_latent_weights_lie_in_the_usual_order(method: str) -> None:
    model = binarize.apply(Kinds(), method, example_inputs=torch.rand(1, 3, 16, 16))
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_packed_files_keep_the_order_of_float_weights(tmp_path: Path) -> None:
    net = Kinds().to(memory_format=torch.channels_last)
    packed = binarize.deploy(binarize.apply(net, "bnn", example_inputs=torch.rand(1, 3, 16, 16)))
    source = {"source": "custom", "class": "t.Kinds"}
    path = binarize.save(packed, tmp_path / "p.safetensors", packed=True, source=source)
    assert read_header(path).strides["head.weight"] == list(packed.head.weight.stride())
    loaded = binarize.load(path, Kinds())
    assert loaded.head.weight.stride() == packed.head.weight.stride()
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(x), packed(x))
