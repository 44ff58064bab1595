"""Convolution and linear subclasses with a forward of their own: binary by what that forward computes."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import binarize
from binarize.errors import ConfigError, RewriteError
from binarize.layers import BinaryConv2d, BinaryConvTranspose2d, BinaryLayer
from binarize.methods.float_layer import own_form
from binarize.methods.forms import computed
from binarize.runtime import configure

C = 8


class StaticSame(nn.Conv2d):
    """A child pads for one image size, as in the EfficientNets of two libraries."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.static_padding = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.static_padding(x)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class DynamicSame(nn.Conv2d):
    """Pads by the size of the input, and only where there is something to pad."""

    def forward(self, x: Tensor) -> Tensor:
        totals = []
        for n, k, s, d in zip(x.shape[2:], self.kernel_size, self.stride, self.dilation, strict=True):
            totals.append(max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0))
        high, wide = totals
        if high > 0 or wide > 0:
            x = F.pad(x, [wide // 2, wide - wide // 2, high // 2, high - high // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Padded(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


class Reflected(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.weight, self.bias, self.stride)


class Causal(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, ((self.kernel_size[0] - 1) * self.dilation[0], 0)))


class OtherStride(nn.Conv2d):
    """What it computes with is not what its attributes say."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, stride=2, padding=1, groups=self.groups)


class Transposed(nn.ConvTranspose2d):
    """Leaves its own output padding out."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.weight, self.bias, self.stride, self.padding)


class ByProduct(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class Standardized(nn.Conv2d):
    """Qiao et al.'s own code: deviation without bias, eps outside of the root."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        deviation = weight.view(len(weight), -1).std(dim=1).view(-1, 1, 1, 1) + 1e-5
        return F.conv2d(x, weight / deviation, self.bias, self.stride, self.padding)


PLAIN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "static": (lambda: StaticSame(C, C, 3, 2), (2, C, 10, 8)),
    "static depthwise": (lambda: StaticSame(C, 2 * C, 3, 2, groups=C), (2, C, 9, 8)),
    "dynamic": (lambda: DynamicSame(C, C, 3, 2), (2, C, 9, 8)),
    "dynamic dilated": (lambda: DynamicSame(C, C, 3, dilation=2, groups=2), (2, C, 9, 8)),
    "padded": (lambda: Padded(C, 4, 3), (2, C, 9, 8)),
    "reflected": (lambda: Reflected(C, C, 3), (2, C, 9, 8)),
    "causal": (lambda: Causal(C, C, 3, dilation=2), (2, C, 9)),
    "stride": (lambda: OtherStride(C, C, 3), (2, C, 9, 8)),
    "transposed": (lambda: Transposed(C, 4, 3, 2, 1, output_padding=1), (2, C, 5, 4)),
    "product": (lambda: ByProduct(C, 4), (2, 5, C)),
    "product without bias": (lambda: ByProduct(C, 4, bias=False), (2, 5, C)),
    "standardized": (lambda: Standardized(C, C, 3, padding=1), (2, C, 9, 8)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_the_form_computes_what_the_forward_does(name: str) -> None:
    torch.manual_seed(0)
    make, shape = PLAIN[name]
    layer: Any = make()
    before = copy.deepcopy(layer.state_dict())
    state = torch.get_rng_state()
    form = own_form(layer)
    assert form is not None
    assert torch.equal(state, torch.get_rng_state())
    x = torch.randn(shape)
    torch.testing.assert_close(computed(layer, form, x), layer(x))
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    with torch.device("meta"):
        assert own_form(make()) == form  # files are rebuilt without data


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("method", ["bidense", "bnn"])
def test_binary_layers_of_that_form_keep_the_shape_and_pack(name: str, method: str) -> None:
    torch.manual_seed(0)
    make, shape = PLAIN[name]
    layer, x = make(), torch.randn(shape)
    built = binarize.binary_layer(layer, method).eval()
    y = built(x)
    assert y.shape == layer(x).shape
    packed = binarize.deploy(nn.Sequential(built), exact_scales=True)
    torch.testing.assert_close(packed(x), y, rtol=1e-4, atol=1e-4)


def test_padded_positions_are_none_of_the_two_values() -> None:
    torch.manual_seed(0)
    layer, x = StaticSame(C, C, 3, 2), torch.randn(2, C, 10, 8)
    built: Any = binarize.binary_layer(layer, "bnn", norm=False)
    signs = F.pad(torch.sign(x), (0, 1, 0, 1))
    assert torch.equal(built(x), F.conv2d(signs, torch.sign(layer.weight), layer.bias, stride=2))
    mirrored: Any = binarize.binary_layer(Reflected(C, C, 3), "bnn", norm=False)
    signs = torch.sign(F.pad(x, (1, 1, 1, 1), mode="reflect"))
    torch.testing.assert_close(mirrored(x), F.conv2d(signs, torch.sign(mirrored.weight), mirrored.bias))


class Masked(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * (self.weight > 0), self.bias)


class Clamps(nn.Conv2d):
    """Changes its weight when it is called."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data.clamp_(-0.01, 0.01)
        return super().forward(x)


class Demodulated(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.rsqrt(self.weight.square().sum())


class Twice(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(super().forward(x))


class Noisy(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.randn_like(x) if self.training else x)


class Equalized(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * 0.1, self.bias)


class BySize(nn.Conv2d):
    """Pads large inputs only."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1)) if x.shape[-1] > 40 else x)


STRANGE = [Masked, Clamps, Demodulated, Twice, Noisy, Equalized, BySize]


@pytest.mark.parametrize("cls", STRANGE, ids=lambda cls: cls.__name__)
def test_what_no_layer_can_represent_stays_float(cls: type[nn.Conv2d]) -> None:
    model = net(cls(C, C, 3, padding=1))
    weight = model[3].weight.detach().clone()
    row = rows(model)["3"]
    assert not row.converted
    assert row.kept_by == "layer"
    written = "its weight is written by the forward of 3"
    assert row.reason.startswith(
        written if cls is Clamps else f"{cls.__name__} has a forward of its own that "
    )
    assert torch.equal(model[3].weight, weight)
    with pytest.raises(ConfigError, match="forward of its own"):
        binarize.binary_layer(cls(C, C, 3, padding=1))


# -- forwards that do more ------------------------------------------------------------------------------


class Wrapper(nn.Conv2d):
    """Norm and activation inside, an assertion about empty inputs: as in detectron2."""

    def __init__(self, *args: Any, norm: Any = None, activation: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            with warnings.catch_warnings(record=True):
                if x.numel() == 0 and self.training:
                    assert not isinstance(self.norm, nn.SyncBatchNorm)
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


class Block(nn.Conv2d):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pad = nn.ReflectionPad2d(1)
        self.bn = nn.BatchNorm2d(self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(super().forward(self.pad(x))))


class Scaled(nn.Conv2d):
    """Its bias is added behind a factor."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return self._conv_forward(x, self.weight, None) * 0.5 + self.bias.view(1, -1, 1, 1)


class Adapted(nn.Conv2d):
    """Takes a second argument, as layers for low-rank adapters do."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.adapter = None

    def forward(self, hidden_states: Tensor, scale: float = 1.0) -> Tensor:
        y = super().forward(hidden_states)
        return y if self.adapter is None else y + scale * self.adapter(hidden_states)


class Times(nn.Module):
    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5 + self.bias.view(1, -1, 1, 1)


def net(layer: nn.Module) -> nn.Sequential:
    """The layer between a float stem and a float head, with converted layers beside it."""
    front = [nn.Conv2d(3, C, 3, padding=1), nn.BatchNorm2d(C), nn.ReLU()]
    return nn.Sequential(*front, layer, nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), nn.ReLU(), nn.Conv2d(C, 5, 1))


def rows(model: nn.Module, method: str = "bidense") -> dict[str, Any]:
    made = binarize.plan(model, method, example_inputs=torch.zeros(1, 3, 16, 16))
    return {row.name: row for row in made.rows}


def plain(layer: Any, **kwargs: Any) -> nn.Conv2d:
    """One of torch's own with the same numbers."""
    conv = nn.Conv2d(C, C, 3, **kwargs)
    conv.load_state_dict({name: layer.state_dict()[name] for name in conv.state_dict()})
    return conv


def seeded(model: nn.Module, method: str, x: Tensor) -> nn.Module:
    """Converted, with parameters that methods draw being the same each time."""
    torch.manual_seed(2)
    return binarize.apply(model, method, example_inputs=x)


def wrapped() -> tuple[nn.Module, nn.Module]:
    layer: Any = Wrapper(C, C, 3, padding=1, bias=False, norm=nn.BatchNorm2d(C), activation=F.relu)
    return layer, nn.Sequential(plain(layer, padding=1, bias=False), copy.deepcopy(layer.norm), nn.ReLU())


def bare() -> tuple[nn.Module, nn.Module]:
    layer = Wrapper(C, C, 3, stride=2, padding=1, norm=nn.GroupNorm(2, C), activation=nn.ReLU())
    return layer, nn.Sequential(plain(layer, stride=2, padding=1), copy.deepcopy(layer.norm), nn.ReLU())


def block() -> tuple[nn.Module, nn.Module]:
    layer = Block(C, C, 3)
    conv = plain(layer, padding=1, padding_mode="reflect")
    return layer, nn.Sequential(conv, copy.deepcopy(layer.bn), nn.ReLU())


def scaled() -> tuple[nn.Module, nn.Module]:
    layer: Any = Scaled(C, C, 3, padding=1)
    conv = nn.Conv2d(C, C, 3, padding=1, bias=False)
    conv.weight.data.copy_(layer.weight)
    return layer, nn.Sequential(conv, Times(layer.bias.detach().clone()))


def adapted() -> tuple[nn.Module, nn.Module]:
    layer = Adapted(C, C, 3, padding=1)
    return layer, plain(layer, padding=1)


@pytest.mark.parametrize("method", ["bidense", "bisrnet"])
@pytest.mark.parametrize("pair", [wrapped, bare, block, scaled, adapted], ids=lambda pair: pair.__name__)
def test_a_forward_that_does_more_is_converted_as_its_parts_are(
    pair: Any, method: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    own, parts = pair()
    model, same = net(own), net(parts)
    for a, b in zip((model[0], model[4], model[7]), (same[0], same[4], same[7]), strict=True):
        b.load_state_dict(a.state_dict())
    x = torch.randn(2, 3, 16, 16)
    assert rows(model, method)["3"].converted
    binary, expected = (seeded(m, method, x) for m in (model, same))
    y = binary.train()(x)
    torch.testing.assert_close(y, expected.train()(x))
    y.square().mean().backward()
    assert all(parameter.grad is not None for parameter in binary.parameters())
    y = binary.eval()(x)
    torch.testing.assert_close(y, expected.eval()(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(copy.deepcopy(binary)(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(binary))(x), y)
    loaded = binarize.load(binarize.save(binary, tmp_path / "m.safetensors"), model=model)
    assert torch.equal(loaded(x), y)
    packed = binarize.deploy(binary, exact_scales=True)
    torch.testing.assert_close(packed(x), y, rtol=1e-4, atol=1e-4)
    path = binarize.save(packed, tmp_path / "p.safetensors", packed=True)
    loaded = configure(binarize.load(path, model=model), exact_scales=True)
    torch.testing.assert_close(loaded(x), packed(x), rtol=1e-4, atol=1e-5)


def test_a_layer_taken_apart_still_answers_as_the_float_layer() -> None:
    torch.manual_seed(0)
    layer, _ = adapted()
    binary = binarize.apply(net(layer), example_inputs=torch.zeros(1, 3, 16, 16))
    taken: Any = binary[3]
    assert repr(taken).startswith("Adapted(")
    assert isinstance(taken.binary, BinaryConv2d)
    assert taken.weight.shape == (C, C, 3, 3)
    assert taken.kernel_size == (3, 3)
    x = torch.randn(1, C, 6, 6)
    assert torch.equal(taken(hidden_states=x), taken(x))
    assert torch.equal(taken(x, scale=2.0), taken(x))  # there is no adapter to scale


def test_a_layer_called_by_the_name_of_its_argument() -> None:
    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.next = nn.Conv2d(3, C, 1), Padded(C, C, 3), nn.Conv2d(C, C, 1)
            self.head = nn.Conv2d(C, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.next(self.conv(x=self.stem(x))))

    x = torch.randn(1, 3, 8, 8)
    binary: Any = binarize.apply(Calls(), example_inputs=x)
    assert isinstance(binary.conv.binary, BinaryConv2d)
    assert binary.conv.binary.padding == (1, 1)
    assert binarize.deploy(binary)(x).shape == (1, 2, 8, 8)


def test_a_layer_that_is_called_twice_is_taken_apart_once() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, C, 1)
            self.conv = Wrapper(C, C, 3, padding=1, norm=nn.BatchNorm2d(C), activation=F.relu)
            self.next, self.head = nn.Conv2d(C, C, 1), nn.Conv2d(C, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.next(self.conv(self.conv(self.stem(x)))))

    x = torch.randn(2, 3, 8, 8)
    binary: Any = binarize.apply(Shared(), example_inputs=x)
    assert sum(isinstance(module, BinaryLayer) for module in binary.conv.modules()) == 1
    assert isinstance(binary.conv.norm, nn.BatchNorm2d)  # each call has its own statistics: it stays
    assert binary(x).shape == (2, 2, 8, 8)


def test_a_stem_with_its_own_forward_stays_as_it_is() -> None:
    layer, _ = wrapped()
    model = nn.Sequential(Wrapper(3, C, 3, norm=nn.BatchNorm2d(C)), layer, nn.Conv2d(C, 5, 1))
    made = {row.name: row for row in binarize.plan(model, example_inputs=torch.zeros(1, 3, 16, 16)).rows}
    assert [made[name].converted for name in ("0", "1", "2")] == [False, True, False]
    assert made["0"].reason == "stem: sees the input"


def test_padding_of_a_transposed_convolution_and_of_another_value_stays_a_step() -> None:
    class Ones(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(F.pad(x, (1, 1, 1, 1), value=1.0), self.weight, self.bias)

    class Up(nn.ConvTranspose2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.pad(super().forward(x), (0, 1, 0, 1))

    torch.manual_seed(0)
    x = torch.randn(1, 3, 8, 8)
    binary: Any = binarize.apply(net(Ones(C, C, 3)), "bnn", example_inputs=x).eval()
    features = torch.randn(1, C, 8, 8)
    inner = binary[3].binary
    assert torch.equal(binary[3](features), inner(F.pad(features, (1, 1, 1, 1), value=1.0)))
    binary = binarize.apply(net(Up(C, C, 3, 2, 1)), "bnn", example_inputs=x).eval()
    inner = binary[3].binary
    assert isinstance(inner, BinaryConvTranspose2d)
    assert torch.equal(binary[3](features), F.pad(inner(features), (0, 1, 0, 1)))


# -- forwards with *args and **kwargs -------------------------------------------------------------------


class Extra(nn.Module):
    """A residual block that passes on what it is given, as those of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C), nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor, *rest: Tensor, use: bool | None = None, **kwargs: Any) -> Tensor:
        y = self.b(F.relu(self.norm(self.a(x))))
        if kwargs.get("mask") is not None:
            y = y * kwargs["mask"]
        for other in rest:
            y = y + other.mean()
        return (y if kwargs.get("plain", False) else 0.5 * y) + x


class Passes(nn.Module):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, C, 1), Extra(), nn.Conv2d(C, 2, 1)
        self.given = args, kwargs

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x), *self.given[0], **self.given[1]))


PASSED: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "none": ((), {}),
    "constants": ((), {"plain": True, "mask": None}),
    "tensors": ((torch.ones(2), torch.zeros(1)), {"mask": torch.full((1,), 2.0)}),
}


@pytest.mark.parametrize("name", PASSED)
def test_blocks_that_take_any_arguments_are_rewritten(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    args, kwargs = PASSED[name]
    model, x = Passes(*args, **kwargs), torch.randn(2, 3, 8, 8)
    made = binarize.plan(model, example_inputs=x)
    assert not any("block" in note for note in made.notes)
    assert "RPReLU" in {row.name: row for row in made.rows}["block.a"].activation
    assert any(edit.owner == "block" for edit in made.edits)
    binary: Any = binarize.apply(model, example_inputs=x).eval()
    y = binary(x)
    loaded: Any = binarize.load(binarize.save(binary, tmp_path / "m.safetensors"), model=model)
    assert torch.equal(loaded(x), y)
    features = torch.randn(1, C, 4, 4)
    binary.block(features, *args, **kwargs, other=None)  # nothing was passed
    with pytest.raises(RewriteError, match="got other=3, the converted forward was made for none"):
        binary.block(features, *args, **kwargs, other=3)
    if name == "tensors":
        with pytest.raises(RewriteError, match="'mask' is missing"):
            binary.block(features, *args)
        with pytest.raises(RewriteError, match="made for a tuple of 2"):
            binary.block(features, *args[:1], **kwargs)
