"""The convention `honest`: figures against formulas written out here, and the model left alone."""

from __future__ import annotations

import copy
import json
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import binarize
from binarize.accounting import summaries, summary
from binarize.accounting.record import record
from binarize.accounting.report import _bytes
from binarize.errors import ConfigError, TraceError
from binarize.layers import BinaryConv2d, BinaryConvTranspose2d, BinaryLinear


class Odd(nn.Module):
    """One conv of every sort, a functional one, products, attention, an unused layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False)
        self.up = nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1, groups=2)
        self.kernel = nn.Parameter(torch.randn(6, 4, 1, 1))
        self.linear = nn.Linear(6, 10)
        self.unused = nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.depthwise(self.conv(x)))  # (N, 4, H, W)
        x = F.conv2d(x, self.kernel).flatten(2).transpose(1, 2)  # (N, H W, 6)
        x = F.scaled_dot_product_attention(x, x, x) + (x @ x.transpose(1, 2)) @ x
        return self.linear(x)


def rows(result: object) -> dict[str, object]:
    return {layer.name: layer for layer in result.layers}


def test_macs_of_every_operation() -> None:
    result = summary(Odd(), (16, 12))
    found = {name: layer.float_macs for name, layer in rows(result).items()}
    assert found["conv"] == 8 * 8 * 6 * 3 * 9
    assert found["depthwise"] == 8 * 8 * 6 * 25
    assert found["up"] == 8 * 8 * 6 * (4 // 2) * 16
    tokens = 16 * 12
    products = 2 * tokens * tokens * 6
    assert found[""] == tokens * 4 * 6 + 2 * products  # functional conv, attention, two matrix products
    assert found["linear"] == tokens * 6 * 10
    assert result.float_macs == sum(n for n in found.values() if n is not None)
    assert result.binary_macs == 0


def test_what_did_not_run_is_said() -> None:
    result = summary(Odd(), (16, 12))
    assert [item.name for item in result.uncounted] == ["unused"]
    assert rows(result)["unused"].float_macs is None
    assert rows(result)["unused"].float_params == 56
    assert "unused: its parameters were not used in the run" in str(result)


class Exotic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(torch.fft.fft(x).real)[0]


def test_what_has_no_rule_is_said() -> None:
    result = summary(Exotic(), (torch.randn(7, 2, 6),))
    reasons = {item.name: item.reason for item in result.uncounted}
    assert "fft" in reasons[""]
    assert "rnn" in reasons["rnn"]
    assert rows(result)["rnn"].float_macs is None


@torch.library.custom_op("binarize_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.binarize_tests.twice(x)


def test_custom_operations_are_said() -> None:
    # without a rule for shapes, so that it needs a run with data too
    (item,) = summary(Custom(), (torch.ones(2, 2),)).uncounted
    assert item.reason == "no rule counts the custom operation binarize_tests::twice"


class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Linear(4, 2)
        self.large = nn.Linear(4, 20)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.small(x) if x.sum() < 1 else self.large(x)


def test_data_dependent_models_are_run_with_data() -> None:
    x = torch.ones(3, 4)
    assert summary(DataDependent(), (x,)).float_macs == 3 * 4 * 20
    assert summary(DataDependent(), (-x,)).float_macs == 3 * 4 * 2


def test_parameters_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.second = nn.Linear(6, 6, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(self.first(x)))

    result = summary(Tied(), (torch.ones(1, 6),))
    assert result.float_params == 42
    assert result.float_macs == 3 * 36
    assert result.uncounted == ()


def test_multi_head_attention() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    result = summary(Block(), (torch.ones(2, 10, 16),))
    assert result.float_macs == 2 * (10 * 16 * 48 + 2 * 10 * 10 * 16 + 10 * 16 * 16)
    assert result.uncounted == ()


@pytest.mark.parametrize(("size", "images"), [(24, 1), ((24, 24), 1), ((3, 24, 24), 1), ((2, 3, 24, 24), 2)])
def test_input_sizes(size: object, images: int, small_net: nn.Module) -> None:
    result = summary(small_net, size)
    assert result.inputs == ((images, 3, 24, 24),)
    assert result.float_macs == images * (12 * 12 * 16 * 27 + 12 * 12 * 16 * 144 + 6 * 6 * 32 * 144 + 32 * 5)


def test_channels_come_from_the_first_convolution() -> None:
    assert summary(nn.Conv2d(1, 2, 3), 8).inputs == ((1, 1, 8, 8),)


@pytest.mark.parametrize("size", [(8,), (1, 3, 8, 8, 8), (3, 8, -8), "8x8", (8.0, 8.0)])
def test_bad_input_sizes(size: object) -> None:
    with pytest.raises(ConfigError, match="input_size"):
        summary(nn.Conv2d(3, 2, 3), size)


def test_bad_convention() -> None:
    with pytest.raises(ConfigError, match="did you mean 'honest'"):
        summary(nn.Conv2d(3, 2, 3), 8, "honst")


def state(model: nn.Module) -> tuple[object, ...]:
    flags = [m.training for m in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return flags, hooks, {k: v.clone() for k, v in model.state_dict(keep_vars=False).items()}


def same(first: tuple[object, ...], second: tuple[object, ...]) -> bool:
    return first[:2] == second[:2] and all(torch.equal(v, second[2][k]) for k, v in first[2].items())


class Uncopyable(nn.Module):
    """Cannot be copied, asks for data, changes a buffer, and fails on request."""

    def __init__(self, fail: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fail = fail
        self.register_buffer("runs", torch.zeros(()))

    def __deepcopy__(self, memo: object) -> nn.Module:
        raise RuntimeError("no copies")

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        x = self.norm(self.conv(x))
        if self.fail and float(x.sum()) == float(x.sum()):
            raise ValueError("on purpose")
        return x


@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("copyable", [True, False])
def test_the_model_is_left_alone(fail: bool, copyable: bool) -> None:
    model = Uncopyable(fail).train()
    model.norm.eval()
    if copyable:
        model.__class__ = type("Copyable", (Uncopyable,), {"__deepcopy__": _copied})
    before = state(model)
    if fail:
        with pytest.raises(TraceError, match="on purpose"):
            summary(model, 8)
    else:
        assert summary(model, 8).float_macs == 36 * 4 * 27
    assert same(before, state(model))


def _copied(self: Uncopyable, memo: dict[int, object]) -> nn.Module:
    twin = Uncopyable(self.fail)
    twin.load_state_dict(self.state_dict())
    return twin


def test_random_state_is_left_alone() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x) * float(x.sum())

    before = torch.get_rng_state()
    summary(Noisy(), (torch.ones(2),))
    assert torch.equal(before, torch.get_rng_state())


def test_model_without_memory(small_net: nn.Module) -> None:
    expected = summary(small_net, 32)
    assert summary(copy.deepcopy(small_net).to("meta"), 32) == expected


def test_binary_layers() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        BinaryConv2d(8, 12, 3, padding=1, stride=2, method="bidense"),
        BinaryConvTranspose2d(12, 6, 2, stride=2, method="bidense"),
        nn.Flatten(2),
        BinaryLinear(256, 10, method="bidense"),
    )
    result = summary(net, 16)
    by_name = rows(result)
    assert list(by_name) == ["0", "1", "2", "4"]
    assert [by_name[n].binary_params for n in "0124"] == [0, 8 * 12 * 9, 12 * 6 * 4, 2560]
    assert [by_name[n].binary_macs for n in "0124"] == [0, 64 * 12 * 72, 64 * 12 * 6 * 4, 6 * 2560]
    assert [by_name[n].float_macs for n in "0124"] == [256 * 8 * 27, 0, 0, 0]
    # a, k, b per input channel and BN; move, bias, LayerNorm
    assert [by_name[n].float_params for n in "0124"] == [216, 24 + 24, 36 + 12, 256 + 10 + 20]
    assert by_name["1"].packed_bytes == 108 + 4 * (24 + 24)
    assert by_name["4"].packed_bytes == 320 + 4 * (
        256 + 10 + 20 + 10
    )  # LayerNorm cannot take the weights' scale
    assert result.params == pytest.approx(result.binary_params / 32 + result.float_params)
    assert result.ops == pytest.approx(result.binary_macs / 64 + result.float_macs)
    assert result.uncounted == ()


def test_bits_that_packed_layers_share_count_once() -> None:
    net = nn.Sequential(*(nn.Conv2d(8, 8, 1, bias=False) for _ in range(2)), nn.Conv2d(8, 2, 1))
    net[1].weight = net[0].weight
    binary = binarize.apply(
        net, "bnn", policy=binarize.Policy(first=0), example_inputs=torch.rand(1, 8, 4, 4)
    )
    assert summary(binary, (8, 4, 4)).binary_params == 64
    assert summary(binarize.deploy(binary), (8, 4, 4)).binary_params == 64


def test_packed_bytes_of_float_layers() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1, bias=False))
    net.register_buffer("mean", torch.zeros(3))
    net.register_buffer("cache", torch.zeros(99), persistent=False)
    assert summary(net, 8).packed_bytes == 4 * (216 + 8 + 4 * 8 + 40 + 3) + 8  # BatchNorm's counter


def test_odd_numbers_of_bits_are_rounded_up() -> None:
    layer = BinaryConv2d(3, 3, 1, method="bnn", norm=False)
    assert summary(layer, 4).packed_bytes == 2 + 4 * (3 + 3)  # nine weights, a scale and a shift per filter


def test_printed_form(small_net: nn.Module) -> None:
    text = str(summary(binarize.apply(small_net, "bnn"), 64))
    assert max(len(line) for line in text.splitlines()) <= 80
    for part in ("SmallNet on 1x3x64x64", "conv1", "BinaryConv2d", "total", "% of the MACs are binary"):
        assert part in text
    assert "not counted" not in text
    assert re.search(r"packed [0-9.]+ kB of tensors .*in 32 bits [0-9.]+ kB", text.replace("\n", " "))


def test_bytes_are_written_as_by_other_commands() -> None:
    numbers = {999: "999 bytes", 22_544: "22.54 kB", 455_400: "455.4 kB", 6_100_000: "6.100 MB"}
    assert {number: _bytes(number) for number in numbers} == numbers


def test_dict_form(small_net: nn.Module) -> None:
    result = summary(small_net, 64)
    document = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert document["float_params"] == sum(p.numel() for p in small_net.parameters())
    assert sum(layer["float_macs"] for layer in document["layers"]) == document["float_macs"]


def test_float_upernet() -> None:
    with torch.device("meta"):
        net = binarize.networks.upernet("convnext_tiny", num_classes=151)
    result = summary(net, 480)
    assert result.float_params == 39_850_551
    assert round(result.float_macs / 1e9, 3) == 69.334
    by_name = rows(result)
    assert by_name["head.conv"].float_macs == 480 * 480 * 128 * 128 * 9
    assert by_name["fpn.smooth"].float_macs == (120**2 + 60**2 + 30**2) * 96 * 96 * 9
    assert result.uncounted == ()


class Views(nn.Module):
    """A parameter that is a part of another one's memory, and a layer of another name."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.unused = nn.Parameter(torch.rand(80)), nn.Parameter(torch.rand(8))
        self.part = nn.Parameter(self.flat.detach()[:64].view(8, 8).t())
        self.layer = self.again = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(x @ self.part)


@pytest.mark.parametrize("meta", [False, True])
def test_parts_of_other_tensors_layers_of_two_names_and_the_meta_device(meta: bool) -> None:
    net = Views()
    net.layer.to("meta" if meta else "cpu")
    recording = record(net, lambda: (torch.rand(2, 8),))
    assert recording.used == {"part", "layer.weight", "layer.bias"}
    assert net.layer.weight.is_meta == meta
    assert [event.work.kind for event in recording.events if event.work is not None] == ["linear", "linear"]


def test_both_conventions_come_from_one_run_of_the_network():
    runs = 0

    class Net(nn.Sequential):
        def forward(self, x):
            nonlocal runs
            runs += 1
            return super().forward(x)

    net = binarize.apply(Net(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)), "bnn")
    runs = 0
    both = summaries(net, (3, 16, 16))
    of_both = runs
    assert both == {name: binarize.summary(net, (3, 16, 16), name) for name in ("honest", "paper")}
    assert runs == 3 * of_both
