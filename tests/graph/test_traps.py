"""Forwards in which a trace, or an edit, would silently lose something."""

from __future__ import annotations

import copy
import json
import types
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import binarize
from binarize.graph import Plan, execute
from binarize.layers import BinaryConv2d, BinaryLayer
from binarize.methods import BiDense

C = 8


class Net(nn.Module):
    """A stem, the block in question, a classifier."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, C, 3, padding=1)
        self.b = block
        self.head = nn.Linear(C, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.stem(x)).mean((2, 3)))


def conv() -> nn.Conv2d:
    return nn.Conv2d(C, C, 3, padding=1)


def convert(block: nn.Module, method: Any = "bidense") -> nn.Module:
    return binarize.apply(Net(block), method, example_inputs=torch.zeros(1, 3, 16, 16))


def images(n: int = 2) -> Tensor:
    return torch.randn(n, 3, 16, 16)


class ChildsFlag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop = conv(), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.conv(x), self.drop.p, self.drop.training) + x


@pytest.mark.parametrize("training", [True, False])
def test_a_plan_from_json_does_the_same_whatever_mode_it_was_made_in(training: bool) -> None:
    net = Net(ChildsFlag()).train(training)
    made = binarize.plan(net, "bidense", example_inputs=torch.zeros(1, 3, 16, 16))
    torch.manual_seed(1)
    direct = execute(made, net)
    torch.manual_seed(1)
    read = execute(Plan.from_dict(json.loads(json.dumps(made.as_dict()))), net)
    x = images()
    for mode in (True, False):
        outputs = []
        for model in (direct, read):
            torch.manual_seed(2)
            outputs.append(copy.deepcopy(model).train(mode)(x))
        assert torch.equal(*outputs)
        torch.manual_seed(3)
        again = copy.deepcopy(read).train(mode)(x)
        assert torch.equal(again, outputs[0]) == (not mode)  # dropout draws in training only


class InPlaceOnArgument(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        x += self.conv(x)
        return x


class UsesArgumentAfterwards(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.conv = InPlaceOnArgument(), conv()

    def forward(self, x: Tensor) -> Tensor:
        self.inner(x)
        return self.conv(x)


def test_a_step_on_the_callers_tensor_is_not_dropped() -> None:
    model = convert(UsesArgumentAfterwards()).eval()
    block: Any = model.b
    seen: list[Tensor] = []
    for layer in (block.inner.conv, block.conv):
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    with torch.no_grad():
        model(images())
    assert not torch.equal(*seen)  # what the inner block added is there


class ReadsOldName(nn.Module):
    def __init__(self, functional: bool) -> None:
        super().__init__()
        self.first, self.conv, self.proj = conv(), conv(), conv()
        self.relu = nn.ReLU(inplace=True)
        self.functional = functional

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = F.relu(x, True) if self.functional else self.relu(x)
        return self.conv(y) * self.proj(x)


class ActivationFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.rep = nn.Sequential(nn.ReLU(inplace=True), conv(), nn.BatchNorm2d(C))
        self.skip = conv()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.rep(x) * self.skip(x)


@pytest.mark.parametrize("block", [ReadsOldName(False), ReadsOldName(True), ActivationFirst()])
def test_an_activation_in_place_stays_where_its_tensor_is_read_again(block: nn.Module) -> None:
    model = convert(block).eval()
    seen: list[Tensor] = []
    for name, layer in model.named_modules():
        if isinstance(layer, BinaryLayer) and "first" not in name:
            layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    with torch.no_grad():
        model(images())
    assert len(seen) == 2
    assert torch.equal(*seen)  # one tensor in the float network


@fx.wrap
def half_and_add(x: Tensor, y: Tensor) -> Tensor:
    return F.relu(x * 0.5 + y)


class WrappedFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        return half_and_add(x, self.conv(x))


def test_a_function_of_several_steps_is_not_edited_as_one() -> None:
    model = convert(WrappedFunction()).train()
    model(images(8)).square().sum().backward()
    assert model.b.conv.weight.grad.abs().sum() > 0  # type: ignore[union-attr]


class HeldInLists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = conv(), conv()
        self.laterals = [self.c1, self.c2]
        self.named = {"one": self.c1}

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.laterals:
            x = layer(x)
        return x


def test_layers_in_plain_lists_are_replaced_there_too() -> None:
    model = convert(HeldInLists())
    block: Any = model.b
    assert isinstance(block.c1, BinaryConv2d)
    assert block.laterals == [block.c1, block.c2]
    assert block.named == {"one": block.c1}


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.other = conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.other(x)


def test_forwards_replaced_on_an_instance_are_left_alone() -> None:
    block = Plain()
    block.conv.forward = types.MethodType(lambda self, x: 2 * F.conv2d(x, self.weight, padding=1), block.conv)
    made = binarize.plan(Net(block), "bidense", example_inputs=torch.zeros(1, 3, 16, 16))
    row = next(row for row in made.rows if row.name == "b.conv")
    assert (row.converted, row.kept_by) == (False, "layer")
    assert "replaced on the instance" in row.reason
    block = Plain()
    inner = block.forward
    block.forward = lambda x: 2 * inner(x)  # type: ignore[method-assign]
    with pytest.raises(binarize.errors.ConfigError, match="replaced on the instance"):
        binarize.plan(Net(block), "bidense", example_inputs=torch.zeros(1, 3, 16, 16))


class ChoosesForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.forward = self.forward_twice  # type: ignore[method-assign]

    def forward_twice(self, x: Tensor) -> Tensor:
        return 2 * self.conv(x)


def test_a_forward_that_the_module_chose_itself_goes_on_with_the_copy() -> None:
    model = convert(ChoosesForward()).train()
    assert isinstance(model.b.conv, BinaryConv2d)  # type: ignore[union-attr]
    calls: list[int] = []
    model.b.conv.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    model(images(8))
    assert calls == [1]


class Appends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor, feats: list[Tensor]) -> Tensor:
        y = self.conv(x)
        feats.append(y)
        return y


class KeywordLists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = Appends(), Appends(), conv()

    def forward(self, x: Tensor) -> Tensor:
        feats = [x]
        y = self.b(self.a(x, feats=feats), feats=feats)
        return self.c(sum(feats) + y) + x


class StoresOnChild(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.last: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.conv.last = x
        return self.conv(x) + x


class SwitchesAutocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            y = x.float() @ x.float()
        return self.conv(x) + x + y


class SetsData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.data += 1
        return y + x


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (KeywordLists(), "changes a list"),
        (StoresOnChild(), "stores 'last' on its Conv2d"),
        (SwitchesAutocast(), "switches autocast"),
        (SetsData(), "sets .data of a value"),
    ],
)
def test_what_a_graph_cannot_hold_is_left_as_it_is(block: nn.Module, reason: str) -> None:
    model = convert(block)
    assert any(reason in note for note in model.binarize_plan.notes), model.binarize_plan.notes
    assert not hasattr(block.get_submodule(""), "_binarize_base")
    assert "last" not in getattr(block, "conv", block).__dict__
    model.train()(images(8)).sum().backward()
    assert torch.isfinite(model.eval()(images())).all()


class Asserts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.shape[2] == 16, "only 16")
        return self.conv(x) + x


def test_assertions_stay() -> None:
    model = convert(Asserts())
    assert hasattr(type(model.b), "_binarize_base")  # it was rewritten: the sum went
    model(images())
    with pytest.raises(AssertionError, match="only 16"):
        model(torch.randn(1, 3, 8, 8))


class ReadsNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = conv(), nn.BatchNorm2d(C)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)) * self.bn.weight[:, None, None]


def test_a_norm_whose_tensors_are_read_stays() -> None:
    model = convert(ReadsNorm())
    assert isinstance(model.b.bn, nn.BatchNorm2d)  # type: ignore[union-attr]
    model.train()(images(8)).sum().backward()
    assert "read elsewhere" in next(row.norm for row in model.binarize_plan.rows if row.name == "b.conv")


class Transposes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f1, self.f2 = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.f2(self.f1(x.mT.mT))


def test_views_by_attribute_do_not_cut_the_flow() -> None:
    rows = {row.name: row for row in convert(Transposes()).binarize_plan.rows}
    assert rows["b.f1"].converted
    assert rows["b.f2"].converted


class WithDefault(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor, size: tuple[int, int] = (1, 1)) -> Tensor:
        if size != (1, 1):
            x = F.avg_pool2d(x, size)
        return self.conv(x) + x


def test_the_default_itself_is_accepted_and_other_values_are_not() -> None:
    block = convert(WithDefault()).b
    x = torch.randn(1, C, 4, 4)
    assert block(x, tuple([1, 1])).shape == x.shape  # noqa: C409 - an equal tuple, not the same
    with pytest.raises(binarize.errors.RewriteError, match="made for the default"):
        block(x, (2, 2))


class OddConv(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return 2 * super()._conv_forward(input, weight, bias)


def test_subclasses_with_a_convolution_of_their_own_keep_what_else_it_does() -> None:
    block = Plain()
    block.conv = OddConv(C, C, 3, padding=1)
    odd: Any = convert(block, BiDense()).b.conv
    x = torch.randn(1, C, 4, 4)
    assert torch.equal(odd(x), 2 * odd.binary(x))


def test_a_block_compiled_in_place_is_copied_with_its_own_weights() -> None:
    block = convert(Asserts()).b
    block.compile(backend="eager")
    twin = copy.deepcopy(block)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not torch.equal(twin.eval()(torch.ones(1, C, 16, 16)), block.eval()(torch.ones(1, C, 16, 16)))


class PadsByItsLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(C, 2 * C, 2, stride=2)
        self.up = nn.Conv2d(2 * C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        (height, width), (step, _) = self.down.kernel_size, self.down.stride
        x = F.pad(x, (0, -x.shape[3] % width, 0, -x.shape[2] % height))
        return self.up(self.down(x)) * (1.0 if (step, self.down.out_channels) == (2, 2 * C) else float("nan"))


def test_a_layer_of_several_units_still_says_what_it_replaces() -> None:
    model = convert(PadsByItsLayer(), "bisrnet")
    assert model.b.down.kernel_size == (2, 2)  # type: ignore[union-attr]
    assert torch.isfinite(model(torch.randn(2, 3, 15, 17))).all()


class TwoHeads(nn.Module):
    """Scores of two resolutions, joined: FCN-8s, LR-ASPP."""

    def __init__(self, join: str) -> None:
        super().__init__()
        self.stem, self.body, self.down = conv3(), conv(), nn.Conv2d(C, C, 3, stride=2, padding=1)
        self.low, self.high = nn.Conv2d(C, 5, 1), nn.Conv2d(C, 5, 1)
        self._join = join

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.stem(x)).relu()
        a, b = self.low(y), F.interpolate(self.high(self.down(y).relu()), size=y.shape[2:])
        if self._join == "sum":
            return F.interpolate(a + b, scale_factor=2.0)
        if self._join == "maximum":
            return torch.maximum(a, b)
        if self._join == "mean":
            return torch.stack([a, b]).mean(0)
        return torch.cat([a, b], 1)


def conv3() -> nn.Conv2d:
    return nn.Conv2d(3, C, 3, padding=1)


@pytest.mark.parametrize("join", ["sum", "maximum", "mean", "cat"])
def test_heads_that_are_joined_are_heads(join: str) -> None:
    made = binarize.plan(TwoHeads(join), "bidense", example_inputs=torch.zeros(1, 3, 16, 16))
    assert {row.name for row in made.converted} == {"body", "down"}
    assert {row.reason for row in made.rows if row.name in ("low", "high")} == {
        "final classifier or regressor"
    }


class LastBlock(nn.Module):
    """Features end with a sum too: of a branch and what came past it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = conv3(), conv(), conv()
        self.norm = nn.BatchNorm2d(C)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.stem(x)).relu()
        return self.norm(self.two(x)) + x


def test_a_block_at_the_end_is_no_head() -> None:
    made = binarize.plan(LastBlock(), "bidense", example_inputs=torch.zeros(1, 3, 16, 16))
    assert {row.name for row in made.converted} == {"one", "two"}


def test_a_plan_knows_what_it_was_made_on() -> None:
    made = binarize.plan(LastBlock(), "bidense", example_inputs=torch.zeros(1, 3, 16, 20))
    assert made.inputs == ((1, 3, 16, 20),)
    given = made.as_dict()
    assert Plan.from_dict(given) == made
    del given["inputs"]  # as the first files
    assert Plan.from_dict(given).inputs == ()


class Kept(nn.Module):
    """Keeps a function: of its own modules, of one of its methods, of nothing."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.stem, self.conv, self.head = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 2, 1),
        )
        self.step: Any = self.mix
        if kind == "closure":
            self.step = lambda x: self.conv(x)
        elif kind == "default":
            self.step = lambda x, conv=self.conv: conv(x)
        elif kind == "hook":
            self.seen: list[Tensor] = []
            self.conv.register_forward_hook(lambda module, given, y: self.seen.append(y))
        elif kind == "other":
            self.scale = lambda x: x * len(kind)

    def mix(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.step(F.relu(self.stem(x)))))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("closure", "Kept.step"),
        ("default", "Kept.step"),
        ("hook", "a hook of conv"),
        ("method", ""),
        ("other", ""),
    ],
)
def test_functions_that_hold_modules_of_the_given_model_are_a_warning(kind: str, name: str) -> None:
    notes = binarize.plan(Kept(kind), "bnn", example_inputs=torch.rand(1, 3, 8, 8)).notes
    about = [note for note in notes if "functions are not copied" in note]
    assert [note.split(": ")[1] for note in about] == ([name] if name else [])
