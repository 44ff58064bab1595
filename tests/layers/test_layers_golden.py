"""Whole binary layers against values that the methods' authors' implementations computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pytest
import torch
from golden_data import GoldenCase, assert_matches, case_names, load_case
from torch import Tensor, nn

from binarize.functional import channel_bypass
from binarize.layers import BinaryConv2d, BinaryLayer, BinaryLinear, Maxout, RPReLU
from binarize.methods import binary_layer


@dataclass(frozen=True)
class Subject:
    """A module of this toolkit beside its reference.

    Attributes:
        build: makes the module.
        names: its names for the reference's parameters and buffers.
        rtol: agreement asked for.
        depart: turns the reference's values into those that a documented departure from it gives.
    """

    build: Callable[[], nn.Module]
    names: Mapping[str, str]
    rtol: float = 1e-9
    depart: Callable[[GoldenCase], GoldenCase] | None = None

    def case(self, name: str) -> GoldenCase:
        """The reference case `name` with the departure applied."""
        return load_case(name) if self.depart is None else self.depart(load_case(name))


BIDENSE = {
    "binarizer.alpha": "quantizer.a",
    "binarizer.k": "quantizer.k",
    "binarizer.b": "quantizer.b",
    "conv.weight": "weight",
    "conv.bias": "bias",
    "norm": "norm",
}
ADABIN = {
    "weight": "weight",
    "binary_a.alpha_a": "quantizer.alpha_a",
    "binary_a.beta_a": "quantizer.beta_a",
}


def bisr_names(conv: str, prelu: str, mine: str) -> dict[str, str]:
    """Names of a BiSRNet unit: its convolution and its RPReLU."""
    return {
        f"{conv}weight": f"{mine}weight",
        f"{conv}move.k": f"{mine}quantizer.k",
        f"{conv}move.b": f"{mine}quantizer.b",
        f"{conv}binary_activation.beta": f"{mine}quantizer.beta",
        f"{prelu}pr_bias0.bias": f"{mine}inner.b0",
        f"{prelu}pr_prelu.weight": f"{mine}inner.weight",
        f"{prelu}pr_bias1.bias": f"{mine}inner.b1",
    }


def bare(method: str, **options: float | bool) -> BinaryConv2d:
    """4 -> 6 channels, 3x3, nothing around the convolution."""
    return BinaryConv2d(4, 6, 3, padding=1, method=method, norm=False, bypass=False, **options)


def ragged() -> BinaryConv2d:
    """BiDense with a bias in front of the norm, as its authors' class offers and its networks do not use."""
    layer = BinaryConv2d(8, 5, 3, padding=1)
    layer.bias = nn.Parameter(torch.zeros(5))
    return layer


def tempered() -> BinaryConv2d:
    """BNext's convolution of a float input."""
    layer = bare("bnext")
    layer.inner = None
    layer.quantizer = nn.Identity()
    return layer


def transition() -> BinaryConv2d:
    return BinaryConv2d(8, 12, 2, stride=2)


def merge_strided(case: GoldenCase) -> GoldenCase:
    """Swap the token bypass 6 -> 9: the authors merge neighbours there, this toolkit strides as in images."""

    def neighbours(x: Tensor) -> Tensor:
        return torch.cat([x, x.unflatten(-1, (3, 2)).mean(-1)], -1)

    x = case.x.clone().requires_grad_()
    difference = channel_bypass(x, 9, -1) - neighbours(x)
    (gradient,) = torch.autograd.grad(difference, x, case.gy)
    return replace(case, y=case.y + difference.detach(), gx=case.gx + gradient)


SUBJECTS = {
    "bidense_conv/dw7_train": Subject(lambda: BinaryConv2d(6, 6, 7, padding=3, groups=6), BIDENSE),
    "bidense_conv/expand_train": Subject(lambda: BinaryConv2d(4, 16, 1), BIDENSE),
    "bidense_conv/ragged_8_5_train": Subject(ragged, BIDENSE),
    "bidense_conv/ragged_8_5_eval": Subject(ragged, BIDENSE),
    "transition/8_12_train": Subject(transition, {f"conv.{name}": mine for name, mine in BIDENSE.items()}),
    "transition/8_12_eval": Subject(transition, {f"conv.{name}": mine for name, mine in BIDENSE.items()}),
    "bilinear/6_9_bypassTrue": Subject(
        lambda: BinaryLinear(6, 9),
        {"weight": "weight", "bias": "bias", "move.bias": "quantizer.move", "norm": "norm"},
        depart=merge_strided,
    ),
    "hist/bnn/conv3": Subject(lambda: bare("bnn", bias=True), {"weight": "weight", "bias": "bias"}),
    "hist/react/conv3": Subject(
        lambda: bare("reactnet"), {"weight": "weight", "move.bias": "quantizer.beta"}
    ),
    "hist/adabin/conv3": Subject(lambda: bare("adabin"), ADABIN, 1e-7),
    "hist/bisr/conv3": Subject(lambda: bare("bisrnet"), bisr_names("", "", "")),
    "hist/bisr/down": Subject(
        lambda: binary_layer(nn.Conv2d(4, 8, 3, stride=2, padding=1), "bisrnet"),
        bisr_names("biconv_1.", "rprelu1.", "units.0.") | bisr_names("biconv_2.", "rprelu2.", "units.1."),
    ),
    "official/reactnet_resnet_block": Subject(
        lambda: nn.Sequential(BinaryConv2d(4, 4, 3, padding=1, method="reactnet"), RPReLU(4)),
        {
            "move0.bias": "0.quantizer.beta",
            "binary_conv.weight": "0.weight",
            "bn1": "0.norm",
            "move1.bias": "1.b0",
            "prelu.weight": "1.weight",
            "move2.bias": "1.b1",
        },
    ),
    "official/adabin_conv_t3": Subject(lambda: bare("adabin", k=1.0, t=3.0), ADABIN, 1e-7),
    "official/adabin_maxout": Subject(lambda: Maxout(4), {"pos_scale": "p", "neg_scale": "q"}, 1e-7),
    "official/bisr_conv": Subject(
        lambda: BinaryConv2d(4, 4, 3, padding=1, method="bisrnet"),
        bisr_names("", "relu.", "")
        | {"move0.k": "quantizer.k", "move0.b": "quantizer.b", "binary_conv.weight": "weight"},
    ),
}


def at_progress(**numbers: float) -> Callable[[GoldenCase], GoldenCase]:
    """Adds what the reference holds as constants and this toolkit in buffers."""

    def with_buffers(case: GoldenCase) -> GoldenCase:
        given = {name: torch.tensor(value, dtype=torch.double) for name, value in numbers.items()}
        return replace(case, buffers={**case.buffers, **given})

    return with_buffers


SUBJECTS |= {
    "bibench/xnor": Subject(
        lambda: bare("xnor", input_norm=False, activation_scale=True, centre=False, scale_gradient=False),
        {"weight": "weight"},
    ),
    "bibench/bireal": Subject(lambda: bare("bireal"), {"weight": "weight"}),
    "official/irnet_conv": Subject(
        lambda: bare("irnet"),
        {"weight": "weight", "ta": "quantizer.t", "tw": "weight_state.t"},
        1e-7,
        at_progress(ta=0.1, tw=0.1),
    ),
    "bibench/recu": Subject(
        lambda: bare("recu"),
        {"weight": "weight", "alpha": "weight_state.alpha", "tau": "weight_state.tau"},
        1e-7,
    ),
    "official/reste_conv_o2": Subject(
        lambda: bare("reste"),
        {"weight": "weight", "oa": "quantizer.o", "ow": "weight_state.o"},
        depart=at_progress(oa=2.0, ow=2.0),
    ),
    "official/bbcu_conv": Subject(
        lambda: BinaryConv2d(4, 4, 3, padding=1, method="bbcu"),
        {
            "binary_conv.weight": "weight",
            "move0.bias": "quantizer.beta",
            "relu.pr_bias0.bias": "inner.b0",
            "relu.pr_prelu.weight": "inner.weight",
            "relu.pr_bias1.bias": "inner.b1",
        },
    ),
    "official/bnext_conv_T0.3_train": Subject(
        tempered, {"weight": "weight", "temperature": "weight_state.temperature"}, 1e-7
    ),
}
CONVOLUTIONS = [name for name in SUBJECTS if not name.startswith(("bilinear", "official/adabin_maxout"))]


def test_every_case_is_tested() -> None:
    elsewhere = ("dab2d/", "approxsign/", "bwconv/", "cfb/", "official/bit_elastic", "official/groupnet_QA")
    assert sorted(SUBJECTS) == [name for name in case_names() if not name.startswith(elsewhere)]


@pytest.mark.parametrize("name", SUBJECTS)
def test_agrees_with_the_authors(name: str) -> None:
    subject = SUBJECTS[name]
    assert_matches(subject.build(), subject.case(name), subject.names, rtol=subject.rtol)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_agrees_with_the_quantizer_run_on_its_own(name: str) -> None:
    """A hook on the quantizer makes the layer call it as a module instead of fusing it."""
    subject = SUBJECTS[name]
    module = subject.build()
    calls = []
    for layer in module.modules():
        if isinstance(layer, BinaryLayer):
            layer.quantizer.register_forward_hook(lambda *_: calls.append(1))
    assert_matches(module, subject.case(name), subject.names, rtol=subject.rtol)
    assert calls


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_agrees_in_channels_last_memory(name: str) -> None:
    subject = SUBJECTS[name]
    case = subject.case(name)
    case = replace(case, x=case.x.to(memory_format=torch.channels_last))
    module = subject.build().to(memory_format=torch.channels_last)
    assert_matches(module, case, subject.names, rtol=subject.rtol)
