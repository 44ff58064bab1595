"""Networks in public styles convert, train and stay what they were; rewritten forwards compute the same."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import custom_nets
import pytest
import timm
import torch
from comparing import outputs_of, relative_difference, unlike_fresh
from custom_nets import NETS
from torch import Tensor, nn

import binarize
from binarize.errors import TraceError
from binarize.graph.rewrite.generated_forward import install
from binarize.graph.trace.module_graph import for_both_modes
from binarize.graph.trace.recorder import record
from binarize.layers import BinaryLayer

pytestmark = pytest.mark.usefixtures("pass_through")

# What is said about the networks that are not converted as a whole: layers kept for another reason than their
# place, and modules that keep their forward as it is.
KEPT = {
    "DynamicControl": {"valued.dark": "unused"},
    "Losses": {"auxiliary": "unused"},
    "Mixed3D": {"down.1": "layer", "up": "layer", "merge": "layer"},
    "Signatures": {"direct": "layer", "plain.skip": "unused"},
}
PART_BY_PART = {
    "DynamicControl": {"DynamicControl", "shaped", "valued"},
    "ConvLSTM": {"ConvLSTM", "cells.0", "cells.1"},
    "InPlace": {"painted"},
    "Signatures": {"plain", "listed"},
    "Stateful": {"Stateful", "stores", "collects", "dense.0", "dense.1"},
    "Drawn": {"frozen", "blocks.0", "blocks.1", "blocks.2", "blocks.3"},
}
# Networks that are one forward which differs in training, or made of forwards that all stay as they are.
NOT_REWRITTEN = {"DynamicControl", "Losses", "ConvLSTM", "Stateful"}
NOT_EXPORTED = {"DynamicControl"}


@pytest.fixture(params=NETS, ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> type[nn.Module]:
    return request.param


def build(make: type[nn.Module]) -> nn.Module:
    return unlike_fresh(make())


def example(make: type[nn.Module]) -> Tensor:
    return torch.randn(NETS[make][0])


def test_plan_says_what_is_kept_and_why(make: type[nn.Module]) -> None:
    made = binarize.plan(build(make), example_inputs=example(make))
    kept = {row.name: row for row in made.rows if not row.converted}
    assert all(row.reason and row.kept_by for row in kept.values())
    assert {n: r.kept_by for n, r in kept.items() if r.kept_by != "policy"} == KEPT.get(make.__name__, {})
    parts = {note.partition(":")[0] for note in made.notes if "converted part by part" in note}
    assert parts == PART_BY_PART.get(make.__name__, set())


def test_conv3d_is_kept_and_named() -> None:
    made = binarize.plan(custom_nets.Mixed3D(), example_inputs=example(custom_nets.Mixed3D))
    rows = {row.name: row for row in made.rows}
    for name, kind in (("down.1", "Conv3d"), ("merge", "Conv3d"), ("up", "ConvTranspose3d")):
        assert rows[name].reason == f"{kind} has no binary replacement"
    assert {name for name, row in rows.items() if row.converted} == {"flat.0.0", "flat.1.0"}


def test_functional_convolutions_are_counted() -> None:
    made = binarize.plan(custom_nets.FunctionalConvs(), example_inputs=torch.zeros(custom_nets.IMAGE))
    assert "3 convolutions or linear maps are called as functions and stay float" in made.notes


@pytest.mark.parametrize("method", ["bidense", *(pytest.param(m, marks=pytest.mark.slow) for m in
                                    ("bnn", "reactnet", "adabin", "bisrnet"))])  # fmt: skip
def test_converts_and_trains(make: type[nn.Module], method: str) -> None:
    net = build(make).train()
    model = binarize.apply(net, method, example_inputs=example(make))
    torch.manual_seed(7)  # so that both leave the same blocks out
    seen = gradients(net, example(make))
    torch.manual_seed(7)
    ours = gradients(model, example(make))
    layers = {name: m for name, m in model.named_modules() if isinstance(m, BinaryLayer)}
    assert layers
    for name in layers:
        if f"{name}.weight" in seen:  # a layer may be left out by chance, or computed without gradients
            assert torch.isfinite(ours[f"{name}.weight"]).all(), name


def gradients(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Of a loss that sees every output, by parameter."""
    torch.manual_seed(8)
    outputs = outputs_of(net(x))
    torch.stack([(output * torch.randn_like(output)).mean() for output in outputs]).sum().backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def test_passing_through_changes_nothing(make: type[nn.Module]) -> None:
    net = build(make)
    model = binarize.apply(net, "test_pass_through", example_inputs=example(make))
    for shape in NETS[make]:
        for training in (False, True):
            assert_same(net, model, torch.randn(shape), training=training)


def assert_same(net: nn.Module, model: nn.Module, x: Tensor, *, training: bool = False) -> None:
    """Same structure, same numbers; neither of the two is changed."""
    results = []
    for each in (net, model):
        torch.manual_seed(11)
        results.append(copy.deepcopy(each).train(training)(x.clone()))
    expected, seen = results
    assert type(seen) is type(expected)
    if isinstance(expected, dict):
        assert list(seen) == list(expected)
    for a, b in zip(outputs_of(expected), outputs_of(seen), strict=True):
        assert relative_difference(b, a) < 1e-5


def test_copies_files_and_other_sizes(make: type[nn.Module], tmp_path: Path) -> None:
    net = build(make)
    model = binarize.apply(net, example_inputs=example(make)).eval()
    path = binarize.save(model, tmp_path / "net.safetensors")
    twins = (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), binarize.load(path, model=net))
    for shape in NETS[make]:
        x = torch.randn(shape)
        expected = outputs_of(model(x))
        assert all(torch.isfinite(t).all() for t in expected)
        for twin in twins:
            for a, b in zip(expected, outputs_of(twin(x)), strict=True):
                assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_exports_where_the_float_network_does(make: type[nn.Module]) -> None:
    net, x = build(make).eval(), example(make)
    model = binarize.apply(net, example_inputs=x).eval()
    if make.__name__ in NOT_EXPORTED:
        with pytest.raises(Exception, match=r"data-dependent|control flow|cond"):
            torch.export.export(net, (x,))
        return
    torch.export.export(net, (x,))
    program = torch.export.export(model, (x,)).module()
    expected = outputs_of(copy.deepcopy(model)(x))
    for a, b in zip(expected, outputs_of(program(x)), strict=True):
        assert relative_difference(b, a) < 1e-5


# -- rewriting itself -----------------------------------------------------------------------------------


def rewrite_all(net: nn.Module, x: Tensor) -> tuple[nn.Module, set[str]]:
    """A copy in which every forward that can be is rewritten as it was; and the paths of those."""
    recording = record(net, (x,))
    result = copy.deepcopy(net)
    done = set()
    for path, level in recording.module_graphs.items():
        try:
            graph = for_both_modes(net.get_submodule(path), level).graph
        except TraceError:
            continue
        install(result.get_submodule(path), graph)
        done.add(path)
    return result, done


def test_rewritten_forwards_compute_the_same(make: type[nn.Module]) -> None:
    """In both modes, with the same gradients."""
    net = build(make)
    rewritten, done = rewrite_all(net, example(make))
    assert bool(done) == (make.__name__ not in NOT_REWRITTEN)
    for shape in NETS[make]:
        for training in (False, True):
            assert_same(net, rewritten, torch.randn(shape), training=training)
    net.train()
    rewritten.train()
    x = example(make)
    torch.manual_seed(3)
    expected = gradients(net, x)
    torch.manual_seed(3)
    seen = gradients(rewritten, x)
    assert seen.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(seen[name], gradient, rtol=1e-4, atol=1e-6 + 1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("block", ["steps", "aliased"])
def test_steps_in_place_stay(block: str) -> None:
    _, done = rewrite_all(custom_nets.InPlace(), torch.zeros(custom_nets.IMAGE))
    assert block in done
    net = build(custom_nets.InPlace)
    model = binarize.apply(net, "bidense", residual="keep", example_inputs=torch.zeros(custom_nets.IMAGE))
    model(torch.randn(custom_nets.IMAGE))
    assert int(model.steps.seen) == 1
    assert type(model.steps.relu) is nn.ReLU  # a module in its stead would work on nothing


def test_ordered_dicts_and_named_tuples_stay() -> None:
    net = build(custom_nets.HRNet).eval()
    rewritten, done = rewrite_all(net, torch.zeros(custom_nets.IMAGE))
    assert {"", "neck", "head"} <= done
    assert type(rewritten(torch.zeros(custom_nets.IMAGE))) is custom_nets.Scores
    maps = {"fine": torch.zeros(1, 8, 8, 8), "coarse": torch.zeros(1, 16, 4, 4)}
    assert type(rewritten.neck(maps)) is OrderedDict


TIMM: dict[str, tuple[int, ...]] = {
    "resnet18": (3, 64, 64),
    "mobilevit_xxs": (3, 64, 64),
    "levit_128s": (3, 224, 224),
    "swin_tiny_patch4_window7_224": (3, 224, 224),
    "hrnet_w18_small": (3, 64, 64),
    "dla34": (3, 64, 64),
    "fastvit_t8": (3, 64, 64),
    "coat_lite_tiny": (3, 224, 224),
    "selecsls42": (3, 64, 64),
    "densenet121": (3, 64, 64),
    "dpn48b": (3, 64, 64),
    "pvt_v2_b0": (3, 64, 64),
    "maxvit_rmlp_pico_rw_256": (3, 256, 256),
    "edgenext_xx_small": (3, 64, 64),
    "res2net50d": (3, 64, 64),
    "xcit_nano_12_p16_224": (3, 224, 224),
    "crossvit_9_240": (3, 240, 240),
    "cspresnet50": (3, 64, 64),
    "volo_d1_224": (3, 224, 224),
    "nextvit_small": (3, 64, 64),
}
QUICK = ("resnet18",)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TIMM])
def test_rewritten_timm_models_compute_the_same(name: str) -> None:
    options: dict[str, Any] = {"drop_path_rate": 0.1} if name in ("fastvit_t8", "pvt_v2_b0") else {}
    net = unlike_fresh(timm.create_model(name, num_classes=10, **options))
    x = torch.randn(2, *TIMM[name])
    rewritten, done = rewrite_all(net, x[:1])
    assert done
    for training in (False, True):
        assert_same(net, rewritten, x, training=training)


# -- small causes of large differences ------------------------------------------------------------------


class Asks(nn.Module):
    """Adds up what it is given: a tensor or several."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(8, 8, 1)

    def forward(self, x: Any) -> Tensor:
        if isinstance(x, Tensor):
            x = (x, x)
        return self.inner(x[0]) + x[1]


class Named(nn.Module):
    """Holds a block whose class has the name of a step that is known."""

    class LayerScale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) * 0.5

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.final = nn.Conv2d(3, 8, 1), self.LayerScale(), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.final(self.block(self.stem(x)))


def test_a_forward_that_asks_for_types_gets_true_answers() -> None:
    asks = unlike_fresh(Asks())
    for given, rewritten in ((torch.randn(2, 8, 4, 4), True), ([torch.randn(2, 8, 4, 4)] * 2, True)):
        net = nn.Sequential(asks).eval()
        recording = record(net, (given,))
        assert ("0" in recording.module_graphs) is rewritten
        copied = copy.deepcopy(asks)
        install(copied, for_both_modes(asks, recording.module_graphs["0"]).graph)
        assert torch.equal(copied(given), asks(given))


def test_blocks_that_are_called_like_a_step_are_looked_into() -> None:
    made = binarize.plan(Named(), example_inputs=torch.zeros(1, 3, 8, 8))
    assert [row.name for row in made.converted] == ["block.conv"]


def of_values(change: Callable[[Any], Any]) -> str:
    """Why a module whose forward is `change` keeps it, or nothing."""

    class Block(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return change(x)

    net = nn.Sequential(nn.Conv2d(3, 3, 1), Block())
    recording = record(net, (torch.zeros(1, 3, 4, 4),))
    if "1" not in recording.module_graphs:
        return recording.opaque["1"]
    try:
        for_both_modes(net[1], recording.module_graphs["1"])
    except TraceError as error:
        return str(error)
    return ""


def _power(x: Tensor) -> Tensor:
    x **= 2
    return x


def _without_gradients(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 2


def _asks_a_result(x: Tensor) -> Tensor:
    y = x.max(1)
    return y[0] if isinstance(y, tuple) else y


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_power, "in-place operator"),
        (_without_gradients, "switches gradients off"),
        (_asks_a_result, "asks for the type"),
        (lambda x: x if torch.rand(1) > 2 else x * float(torch.rand(())), ""),
    ],
)
def test_forwards_that_a_graph_cannot_hold_are_kept(change: Callable[[Any], Any], reason: str) -> None:
    said = of_values(change)
    assert said
    assert reason in said
