"""What earlier versions pickled is read: module paths, fields and names of arguments that are others now."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import binarize
from binarize.errors import ConfigError, FormatError
from binarize.graph import Plan, Swap
from binarize.methods import BNN, ActivationSite, Method
from binarize.runtime import PackedLayer, configure, report, stored

EARLIER = Path(__file__).parents[1] / "golden" / "earlier.pkl"  # its README says what is in it


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


def test_deployed_networks_pickled_with_the_path_of_earlier_versions() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 1))
    x = torch.randn(1, 3, 8, 8)
    deployed = configure(binarize.deploy(binarize.apply(net, "bidense", example_inputs=x)), threads=1)
    written = pickle.dumps(deployed, protocol=0)
    old = written.replace(b"binarize.runtime.layer\n", b"binarize.runtime.packed\n")
    for name in (b"PackedLayer", b"RuntimeOptions", b"_Made"):
        assert b"binarize.runtime.packed\n" + name in old
    read = pickle.loads(old)
    assert type(read[1]) is PackedLayer
    assert torch.equal(read(x), deployed(x))
    assert read[1].options.threads == 1


def test_policies_pickled_with_the_path_of_earlier_versions() -> None:
    given = binarize.Policy(keep=("head.*",), first=0)
    written = pickle.dumps(given, protocol=0)
    assert b"binarize.graph.decide.policy" in written
    assert pickle.loads(written.replace(b"binarize.graph.decide.policy", b"binarize.graph.policy")) == given


@pytest.fixture(scope="module")
def earlier() -> dict[str, Any]:
    return pickle.loads(EARLIER.read_bytes())


def test_a_plan_that_an_earlier_version_pickled(earlier: dict[str, Any]) -> None:
    plan = earlier["plan"]
    replaced = [swap for swap in plan.swaps if swap.to == "activation"]
    assert [(swap.path, swap.removes_sign_information) for swap in replaced] == [("5", True), ("7", True)]
    assert not any("blinds" in vars(swap) for swap in plan.swaps)
    assert Plan.from_dict(plan.as_dict()) == plan == pickle.loads(pickle.dumps(plan)) == copy.deepcopy(plan)
    assert "2 of 4 layers" in str(plan)
    assert earlier["site"] == ActivationSite(channels=8, removes_sign_information=True)


def test_a_deployed_network_that_an_earlier_version_pickled(earlier: dict[str, Any], tmp_path: Path) -> None:
    deployed = earlier["deployed"]
    assert type(deployed[0]) is nn.Conv2d
    torch.testing.assert_close(deployed(earlier["x"]), earlier["y"], rtol=1e-5, atol=1e-5)
    made = report(deployed)
    assert made.refused == earlier["refused"]
    assert list(made.refused) == ["6"]
    assert made.summary_line() == earlier["summary"]
    assert "1 binary layers stay float" in str(made)
    assert pickle.loads(pickle.dumps(made)) == made
    binarize.save(deployed, tmp_path / "m.safetensors", packed=True, source={"source": "custom"})


@pytest.mark.parametrize("cls", [Swap, ActivationSite])
def test_earlier_names_of_fields(cls: Any) -> None:
    given: dict[str, Any] = {"path": "1", "to": "activation"} if cls is Swap else {"channels": 8}
    made = cls(**given, blinds=True)
    assert made == cls(**given, removes_sign_information=True)
    assert made.blinds is made.removes_sign_information is True
    assert [field.name for field in dataclasses.fields(cls)].count("blinds") == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.blinds = False
    with pytest.raises(ConfigError, match=f"{cls.__name__}: .*blinds.*removes_sign_information"):
        cls(**given, blinds=True, removes_sign_information=False)


def test_a_plan_from_json_with_both_names_is_refused() -> None:
    given = Plan(model="M", method={"name": "bnn"}, policy={}, rows=()).as_dict()
    swap = {"path": "1", "to": "activation", "blinds": True}
    assert Plan.from_dict({**given, "swaps": [swap]}).swaps[0].removes_sign_information
    with pytest.raises(FormatError, match="blinds"):
        Plan.from_dict({**given, "swaps": [{**swap, "removes_sign_information": False}]})


def test_earlier_names_of_arguments(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 1))
    model: Any = binarize.apply(net, "bnn", example_inputs=torch.zeros(1, 3, 8, 8))
    known: Any = stored
    sizes = [made.bytes for made in (known(model, leftovers=torch.float16), stored(model, torch.float16))]
    assert sizes[0] == sizes[1] < stored(model).bytes
    with pytest.raises(ConfigError, match=r"stored: .*leftovers.*float_dtype"):
        known(model, leftovers=torch.float16, float_dtype=torch.float16)
    save: Any = binarize.save
    with pytest.raises(ConfigError, match=r"save: .*leftovers.*float_dtype"):
        save(model, tmp_path / "m.safetensors", packed=True, leftovers="float16", float_dtype="bfloat16")
    assert not list(tmp_path.iterdir())


def test_the_earlier_name_of_a_method_s_remedy_is_overridden_too() -> None:
    class Mine(BNN):
        """A method of another package, written for an earlier version."""

        name: ClassVar[str] = "mine"

        @property
        def against_blindness(self) -> str:
            return f"mine, or {super().against_blindness}"

    class Newer(Mine):
        """One that overrides it by today's name."""

        @property
        def constant_remedy(self) -> str:
            return "newer"

    own = BNN.create(nonlinearity="own")
    assert own.constant_remedy == own.against_blindness != ""
    assert Mine.create(nonlinearity="own").constant_remedy == f"mine, or {own.constant_remedy}"
    assert Newer.create().constant_remedy == Newer.create().against_blindness == "newer"
    assert Method().constant_remedy == Method().against_blindness == ""
