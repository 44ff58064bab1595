"""Binary layers, composed units and packed layers answer what forwards ask the float layer in their place."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import binarize
from binarize.errors import ConfigError, TrainingError
from binarize.layers import AbsentTensor, DroppedBias
from binarize.methods.bisrnet import BiSRUnits
from binarize.runtime import configure
from binarize.runtime.layer import PackedLayer

METHODS = ["adabin", "bidense", "bisrnet", "bnn", "reactnet"]


class Asks(nn.Module):
    """Asks its layers what T5's blocks, Segment Anything's and others ask, and calls them as they do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, 1, 2, 2, 2)
        self.up = nn.ConvTranspose2d(8, 8, 3, 2, 1, 1)
        self.less = nn.ConvTranspose2d(8, 4, 3, 2, 1, 1, bias=False)
        self.fc, self.head = nn.Linear(4, 8), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        weight: Any = self.conv.weight if hasattr(self.conv, "weight") else None
        if isinstance(weight, Tensor) and weight.dtype != torch.int8:
            x = x.to(weight.dtype).to(weight.device).type_as(weight)
        assert tuple(weight.shape) == (8, 8, 3, 3)
        assert weight.numel() == 576
        assert weight.data.dim() == weight.ndim == 4
        assert not weight.new_zeros(3).any()
        assert torch.zeros_like(weight).shape == weight.shape
        assert isinstance(self.fc.weight, Tensor)
        assert self.fc.weight.size(1) == self.fc.in_features == 4
        geometry = (self.conv.kernel_size, self.conv.stride, self.conv.padding, self.conv.dilation)
        assert geometry == ((3, 3), (1, 1), (2, 2), (2, 2))
        assert (self.conv.groups, self.conv.padding_mode, self.conv.transposed) == (2, "zeros", False)
        assert tuple(self.less.weight.shape) == (8, 4, 3, 3)
        assert (self.less.output_padding, self.less.transposed) == ((1, 1), True)
        x = self.conv(x)
        x = self.up(x, output_size=[2 * x.shape[2], 2 * x.shape[3] - 1])
        x = self.less(x, output_size=(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]))
        return self.head(self.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@torch.no_grad()
def same_layers(model: nn.Module, binary: nn.Module, x: Tensor) -> None:
    """Each layer of `model` gives what that of `binary` does where it stands, called as it is there."""
    calls: dict[str, Any] = {}
    for name in ("conv", "up", "less", "fc"):

        def note(layer: nn.Module, args: Any, kwargs: Any, result: Any, name: str = name) -> None:
            calls[name] = [value.clone() for value in args], kwargs, result

        binary.get_submodule(name).register_forward_hook(note, with_kwargs=True)
    binary(x)
    for name, (args, kwargs, result) in calls.items():
        torch.testing.assert_close(model.get_submodule(name)(*args, **kwargs), result, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_layers_answer_as_the_float_layer_did(method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Asks().eval(), torch.randn(2, 3, 6, 6)
    shape = model(x).shape
    rows = {row.name: row for row in binarize.plan(model, method, example_inputs=x).rows}
    assert all(rows[name].converted for name in ("conv", "up", "less"))
    binary: Any = binarize.apply(model, method, example_inputs=x)
    binary(x).square().mean().backward()
    y = binary.eval()(x)
    assert y.shape == shape
    packed: Any = binarize.deploy(binary, exact_scales=True)
    assert packed(x).shape == shape
    same_layers(packed, binary, x)
    loaded = binarize.load(binarize.save(binary, tmp_path / "m.safetensors"), model=model)
    assert loaded(x).shape == shape
    same_layers(loaded, binary, x)
    path = binarize.save(packed, tmp_path / "p.safetensors", packed=True)
    read: Any = configure(binarize.load(path, model=model), exact_scales=True)
    same_layers(read, binary, x)
    assert read(x).shape == shape
    for deployed in (packed, read):
        assert deployed.conv.bias.shape == (8,)
        assert deployed.less.bias is None
        assert isinstance(deployed.less, BiSRUnits if method == "bisrnet" else PackedLayer)


def test_what_stands_for_a_weight_is_not_computed_with() -> None:
    packed: Any = binarize.deploy(nn.Sequential(binarize.binary_layer(nn.Conv2d(4, 4, 3))))[0]
    assert isinstance(packed.weight, AbsentTensor)
    assert "(4, 4, 3, 3)" in repr(packed.weight)
    with pytest.raises(TrainingError, match=r"mul\(\): the weight and bias of a packed layer"):
        packed.weight * 2
    with pytest.raises(TrainingError, match=r"to\(\)"):
        packed.weight.to(torch.float16)
    with pytest.raises(TrainingError, match="has a shape, a dtype and a device only"):
        torch.nn.functional.conv2d(torch.zeros(1, 4, 5, 5), packed.weight)
    assert packed.double().weight.dtype == torch.float64


def test_units_refuse_an_output_size_that_the_float_layer_would() -> None:
    units = binarize.binary_layer(nn.ConvTranspose2d(8, 4, 3, 2, 1, 1), "bisrnet")
    assert isinstance(units, BiSRUnits)
    x = torch.randn(1, 8, 5, 4)
    assert units(x, output_size=[9, 8]).shape == (1, 4, 9, 8)
    with pytest.raises(
        ConfigError, match=r"output_size=\[12, 8\]: expected sizes from \[9, 7\] to \[10, 8\]"
    ):
        units(x, output_size=[12, 8])


class ReadsBias(nn.Module):
    """Asks a layer's bias and a norm's weight for their dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, padding=1)
        self.norm, self.next, self.head = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        assert self.conv.bias is not None
        x = self.norm(self.conv(self.stem(x).to(self.conv.bias.dtype)))
        return self.head(self.next(x.to(self.norm.weight.dtype)))


@pytest.mark.parametrize("method", METHODS)
def test_a_bias_that_is_read_is_there(method: str) -> None:
    torch.manual_seed(0)
    model, x = ReadsBias(), torch.randn(2, 3, 6, 6)
    nn.init.normal_(model.norm.bias)  # or sums that are 0 would have the sign of a rounding error
    row = {row.name: row for row in binarize.plan(model, method, example_inputs=x).rows}["conv"]
    assert row.converted
    binary, x = binarize.apply(model, method, example_inputs=x).eval().double(), x.double()
    assert isinstance(binary.norm, nn.BatchNorm2d)  # its weight is asked for, so that it stays
    torch.testing.assert_close(binarize.deploy(binary, exact_scales=True)(x), binary(x), rtol=1e-4, atol=1e-4)


class AsksForBias(nn.Module):
    """Branches on whether its layers have a bias, behind a question that tracing cannot answer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc, self.head = nn.Linear(8, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x))
        if not bool(torch.isnan(x).any()) and self.conv.bias is not None and self.fc.bias is not None:
            x = 2 * x[..., : self.conv.bias.shape[0]] + self.fc.bias.new_ones(1)
        return self.head(self.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@pytest.mark.parametrize("method", METHODS)
def test_a_forward_that_cannot_be_traced_sees_the_float_layers_bias(method: str) -> None:
    torch.manual_seed(0)
    model, x = AsksForBias().eval(), torch.randn(2, 3, 6, 6)
    binary: Any = binarize.apply(model, method, example_inputs=x).eval().double()
    model, x = model.double(), x.double()
    assert binary.conv.bias.shape == binary.fc.bias.shape == (8,)
    packed: Any = binarize.deploy(binary)
    torch.testing.assert_close(packed(x), binary(x))
    inputs: dict[nn.Module, Tensor] = {}
    for net in (model, binary, packed):
        net.fc.register_forward_pre_hook(lambda layer, args: inputs.__setitem__(layer, args[0]))
        net.conv.register_forward_hook(lambda *_: x.new_ones(2, 8, 6, 6))
        net(x)
    for net in (model, binary, packed):
        assert inputs[net.fc].eq(3).all()


def test_a_bias_that_the_method_dropped_takes_start_values_and_has_none() -> None:
    layer: Any = binarize.binary_layer(nn.Conv2d(4, 6, 3), "bidense")
    assert isinstance(layer.bias, DroppedBias)
    assert layer.own_bias is None
    assert "bias" not in layer.state_dict()
    nn.init.zeros_(layer.bias)
    nn.init.uniform_(layer.bias, -1, 1)
    nn.init.constant_(layer.bias, 0.5)
    layer.bias.data.fill_(1)
    layer.bias.requires_grad = False
    with pytest.raises(TrainingError, match="are gone"):
        layer.bias + 1
    assert layer.double().bias.dtype == torch.float64
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x))
    assert torch.compile(layer, backend="eager", fullgraph=True)(x).shape == (2, 6, 3, 3)
    assert binarize.binary_layer(nn.Conv2d(4, 6, 3, bias=False), "bidense").bias is None  # type: ignore[union-attr]


class ComputesWithWeights(nn.Module):
    """Returns a penalty of a layer's weight, adds another's bias; of a third it asks what kind it is."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.penalty, self.shift, self.asked = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, float]:
        x = self.penalty(self.stem(x))
        x = self.shift(x) + self.shift.bias.view(1, -1, 1, 1)
        assert self.asked.weight.is_floating_point()
        assert self.asked.weight.detach().dim() == 4
        return self.head(self.asked(x.to(self.asked.weight))), self.penalty.weight.detach().norm().item()


@pytest.mark.parametrize("method", METHODS)
def test_layers_whose_weights_a_forward_computes_with_stay_float(method: str) -> None:
    torch.manual_seed(0)
    model, x = ComputesWithWeights().eval(), torch.randn(2, 3, 6, 6)
    rows = {row.name: row for row in binarize.plan(model, method, example_inputs=x).rows}
    assert [name for name, row in rows.items() if row.converted] == ["asked"]
    assert rows["penalty"].reason.startswith("a forward computes with its weight")
    assert rows["shift"].reason.startswith("a forward computes with its bias")
    binary = binarize.apply(model, method, example_inputs=x).eval()
    packed = binarize.deploy(binary, exact_scales=True)
    torch.testing.assert_close(packed(x)[0], binary(x)[0], rtol=1e-4, atol=1e-4)
    assert packed(x)[1] == model(x)[1]


class NamedArgument(nn.Conv2d):
    """Its forward takes what torch's does not."""

    def forward(self, x: Tensor, *, gain: Tensor) -> Tensor:
        return super().forward(x * gain)


def test_layers_called_with_more_than_an_input() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 8, 1), NamedArgument(8, 8, 3)
            self.next, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.next(self.conv(self.stem(x), gain=x.mean())))

    x = torch.randn(1, 3, 6, 6)
    binary: Any = binarize.apply(Net(), example_inputs=x).eval()
    assert type(binary.conv).__name__ == "OpenedLayer"
    torch.testing.assert_close(binarize.deploy(binary, exact_scales=True)(x), binary(x), rtol=1e-4, atol=1e-4)
