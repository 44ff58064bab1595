"""Plans: which layers, why, and what is said about each."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from engine_nets import DataDependent, Excited, ResNetLike, Shared, UNet
from torch import nn

from binarize.errors import ConfigError, FormatError, TraceError
from binarize.graph import LayerPlan, Plan, Policy, plan

IMAGE = torch.zeros(2, 3, 32, 32)


def rows(made: Plan) -> dict[str, LayerPlan]:
    return {row.name: row for row in made.rows}


def test_policy_keeps_stem_and_classifier_and_says_why() -> None:
    seen = rows(plan(ResNetLike(), example_inputs=IMAGE))
    assert not seen["stem"].converted
    assert "stem" in seen["stem"].reason
    assert not seen["fc"].converted
    assert "final" in seen["fc"].reason
    assert {name for name, row in seen.items() if row.converted} == {
        "block1.conv1", "block1.conv2", "down", "block2.conv1", "block2.conv2", "mix",
    }  # fmt: skip


def test_rows_tell_bypass_norm_activation_and_sum() -> None:
    seen = rows(plan(ResNetLike(), example_inputs=IMAGE))
    assert seen["block1.conv1"].bypass == "identity"
    assert "takes over bn1" in seen["block1.conv1"].norm
    assert "RPReLU" in seen["block1.conv1"].activation
    assert seen["block1.conv2"].residual == "outer sum dropped"
    assert seen["down"].bypass == "CFB mixed"
    assert seen["down"].norm == "fresh BatchNorm"
    assert seen["mix"].bypass == "CFB mixed"
    assert seen["mix"].in_shape == (2, 24, 8, 8)
    assert seen["mix"].out_shape == (2, 32, 8, 8)


def test_every_replaced_activation_is_in_a_row() -> None:
    """Also those behind a sum, and behind a layer that stays float: the stem's."""
    made = plan(timm.create_model("resnet10t"), example_inputs=IMAGE)
    named = {name: str(row.activation) for name, row in rows(made).items() if "->" in str(row.activation)}
    assert named["conv1.0"] == named["layer2.0.conv2"] == "ReLU -> RPReLU"
    assert "layer2.0.downsample.1" not in named
    assert len(named) == sum(swap.to == "activation" for swap in made.swaps) == 11
    assert "RPReLU" in str(made).partition("conv1.3")[0]


@pytest.mark.parametrize(
    ("cin", "cout", "stride", "expected"),
    [
        (8, 8, 1, "identity"),
        (8, 8, 2, "pool"),
        (8, 24, 1, "CFB up"),
        (8, 20, 2, "CFB mixed"),
        (8, 3, 1, "CFB down"),
    ],
)
def test_bypass_kinds(cin: int, cout: int, stride: int, expected: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, cin, 1), nn.Conv2d(cin, cout, 3, stride, 1), nn.Conv2d(cout, 2, 1))
    assert rows(plan(net, example_inputs=IMAGE))["1"].bypass == expected


def test_method_without_bypass_has_none_and_keeps_sums() -> None:
    made = plan(ResNetLike(), "bnn", example_inputs=IMAGE)
    assert {row.bypass for row in made.converted} == {"none"}
    assert not any(edit.action == "drop" for edit in made.edits)


def test_squeeze_excite_stays_float_and_keeps_its_sum() -> None:
    made = plan(Excited(), example_inputs=IMAGE)
    seen = rows(made)
    assert seen["reduce"].reason == "squeeze-excite gate"
    assert seen["expand"].reason == "squeeze-excite gate"
    assert seen["conv"].converted
    assert not any(edit.action == "drop" for edit in made.edits)
    assert seen["conv"].bypass == "none"
    assert "sum" in seen["conv"].bypass_reason


def test_residual_keep_leaves_sums_and_bypasses() -> None:
    made = plan(ResNetLike(), "bidense", residual="keep", example_inputs=IMAGE)
    assert not any(edit.action == "drop" for edit in made.edits)
    assert all(row.bypass != "none" for row in made.converted)


class Context(nn.Module):
    """The image's mean beside a map, as in an ASPP, or as a factor of it."""

    def __init__(self, gate: bool) -> None:
        super().__init__()
        self.gate = gate
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.mean = nn.Conv2d(8, 8, 1)
        self.mix = nn.Conv2d(8 if gate else 16, 8, 1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        mean = self.mean(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        return self.head(self.mix(x * mean if self.gate else torch.cat([x, mean], 1)))


@pytest.mark.parametrize(("gate", "reason"), [(False, "on a pooled vector"), (True, "squeeze-excite gate")])
def test_the_context_of_an_aspp_is_no_gate(gate: bool, reason: str) -> None:
    assert rows(plan(Context(gate), example_inputs=IMAGE))["mean"].reason == reason


def test_a_shape_in_place_of_example_inputs() -> None:
    with pytest.raises(ConfigError, match=r"not a shape: torch.rand\(1, 3, 32, 32\)"):
        plan(Excited(), example_inputs=(1, 3, 32, 32))


def test_pyramid_pooling_is_no_gate() -> None:
    net = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3, 4))
    upernet = __import__("binarize").networks.upernet("resnet18", num_classes=5)
    seen = rows(plan(upernet, example_inputs=torch.zeros(2, 3, 64, 64)))
    assert all(seen[f"psp.branches.{i}.conv"].converted for i in range(4))
    assert not seen["head.classifier"].converted
    assert net is not upernet


def test_keep_and_only_by_glob_and_by_module() -> None:
    kept = rows(plan(ResNetLike(), example_inputs=IMAGE, policy=Policy(keep=("block1", "mi?"))))
    assert {n for n, r in kept.items() if r.reason == "kept by name"} == {
        "block1.conv1",
        "block1.conv2",
        "mix",
    }
    only = rows(plan(ResNetLike(), example_inputs=IMAGE, policy=Policy(only=("block2.*",))))
    assert {n for n, r in only.items() if r.converted} == {"block2.conv1", "block2.conv2"}


def test_first_and_last() -> None:
    nothing = rows(plan(ResNetLike(), example_inputs=IMAGE, policy=Policy(first=0, last=0)))
    assert all(row.converted for row in nothing.values())
    two = rows(plan(ResNetLike(), example_inputs=IMAGE, policy=Policy(first=2, last=2)))
    assert not two["block1.conv1"].converted
    assert not two["mix"].converted
    assert two["block2.conv1"].converted


@pytest.mark.parametrize("options", [{"keep": ("blokc1.*",)}, {"only": ("layer9",)}])
def test_glob_without_a_match_is_an_error(options: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(ConfigError, match="matches none of the 8 layers"):
        plan(ResNetLike(), example_inputs=IMAGE, policy=Policy(**options))


@pytest.mark.parametrize("bad", [{"keep": "layer1"}, {"first": -1}, {"last": 1.5}])
def test_policy_refuses_wrong_values(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Policy(**bad)  # type: ignore[arg-type]


def test_no_layer_to_convert() -> None:
    with pytest.raises(ConfigError, match="no convolution or linear"):
        plan(nn.Sequential(nn.ReLU()))
    with pytest.raises(ConfigError, match="none of the 2 layers"):
        plan(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)))


def test_fields_of_the_policy_are_no_options_of_a_method() -> None:
    with pytest.raises(ConfigError, match=r"option of bnn 'keep'.*policy=binarize\.Policy\(keep=\['0'\]\)"):
        plan(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)), "bnn", keep=["0"])


def test_unknown_method_and_option() -> None:
    with pytest.raises(ConfigError, match="did you mean 'bidense'"):
        plan(ResNetLike(), "bidens")
    with pytest.raises(ConfigError, match="did you mean 'granularity'"):
        plan(ResNetLike(), "bidense", granularty="layer")
    with pytest.raises(ConfigError, match="one of 'channel', 'group', 'layer'"):
        plan(ResNetLike(), "bidense", granularity="pixel")


def test_model_that_does_not_run() -> None:
    with pytest.raises(TraceError, match="example input"):
        plan(ResNetLike(), example_inputs=torch.zeros(1, 7, 32, 32))


def test_plan_survives_json_and_is_frozen() -> None:
    made = plan(ResNetLike(), "reactnet", example_inputs=IMAGE, policy=Policy(keep=("mix",)))
    assert Plan.from_dict(json.loads(json.dumps(made.as_dict()))) == made
    with pytest.raises(AttributeError):
        made.model = "other"  # type: ignore[misc]


def test_table_fits_80_columns_without_colour() -> None:
    text = str(plan(timm.create_model("resnet18"), example_inputs=torch.zeros(1, 3, 64, 64)))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\x1b" not in text
    assert "19 of 21 layers" in text.replace("\n", " ")


def test_planning_leaves_the_model_untouched() -> None:
    net = ResNetLike().train()
    net.block1.eval()
    before = copy.deepcopy(net.state_dict())
    flags = [module.training for module in net.modules()]
    plan(net, example_inputs=IMAGE)
    assert [module.training for module in net.modules()] == flags
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any("forward" in module.__dict__ for module in net.modules())


def test_untraceable_module_is_converted_part_by_part() -> None:
    made = plan(DataDependent(), example_inputs=IMAGE)
    seen = rows(made)
    assert seen["gate.conv"].converted
    assert seen["block.conv2"].residual == "outer sum dropped"
    assert "cannot be rewritten" in seen["gate.conv"].residual
    assert seen["gate.conv"].bypass == "none"  # the sum that cannot go is its bypass
    assert any("gate" in note for note in made.notes)


def test_shared_layer_is_said_to_be_shared() -> None:
    seen = rows(plan(Shared(), example_inputs=IMAGE))
    assert seen["smooth"].converted
    assert "shared" in seen["smooth"].reason


def test_transposed_convolution_and_concatenation() -> None:
    seen = rows(plan(UNet(), example_inputs=IMAGE))
    assert seen["up"].kind == "conv_transpose2d"
    assert seen["up"].bypass == "CFB down"


def test_linear_only_network_and_guessed_inputs() -> None:
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    seen = rows(plan(net))
    assert [row.converted for row in seen.values()] == [False, True, False]
    assert seen["2"].site_kind == "token"


def test_pointwise_linear_of_convnext_and_tokens_of_vit() -> None:
    convnext = rows(plan(timm.create_model("test_convnext"), example_inputs=torch.zeros(1, 3, 64, 64)))
    mlp = [row for name, row in convnext.items() if "mlp.fc" in name and row.kind == "linear"]
    assert mlp
    assert all(row.converted and row.site_kind == "pointwise" for row in mlp)
    vit = rows(plan(timm.create_model("test_vit")))
    tokens = [row for name, row in vit.items() if name.startswith("blocks.")]
    assert all(row.converted and row.site_kind == "token" for row in tokens)


WRONG = [None, 1.5, "x", [], [1], [[1]], [[float("inf"), 1]]]


def test_plans_that_are_wrong_anywhere_are_refused_or_can_be_shown() -> None:
    """In place of each value of a plan, values of other types and forms."""

    class Functions(nn.Module):
        """With an edit of its forward."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)
            self.act = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(nn.functional.relu(self.b(self.act(self.a(x)))))

    made = plan(Functions(), "bidense", example_inputs=torch.zeros(1, 3, 8, 8)).as_dict()
    assert all(made[name] for name in ("rows", "swaps", "edits", "outputs", "inputs"))
    made |= {"rows": made["rows"][1:2], "edits": made["edits"][:1]}
    refused = 0
    for path in _places(made):
        for value in WRONG:
            changed = copy.deepcopy(made)
            where = changed
            for key in path[:-1]:
                where = where[key]
            where[path[-1]] = value
            try:
                read = Plan.from_dict(changed)
            except FormatError:
                refused += 1
                continue
            assert str(read)
            assert json.dumps(read.as_dict())
    assert refused > 200


def _places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from _places(item, (*path, key))


@pytest.mark.parametrize("part", ["rows", "swaps", "edits", "outputs"])
def test_what_is_not_a_plan_s_entry_is_named(part: str) -> None:
    made = plan(ResNetLike(), example_inputs=torch.zeros(1, 3, 32, 32)).as_dict()
    with pytest.raises(FormatError, match=r"plan: .*; expected what Plan\.as_dict\(\) gives"):
        Plan.from_dict({**made, part: [[1]]})
