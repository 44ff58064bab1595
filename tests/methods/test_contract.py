"""Every registered method keeps the contract; a broken one is caught; third parties can register."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import binarize
from binarize.errors import ConfigError
from binarize.functional import ScaledSign, SteSign
from binarize.layers import LayerRecipe, LevelForm, Quantizer, ScheduledSign, SignForm, SignSTE, Site
from binarize.layers.recipe import METHODS
from binarize.methods import BiDense, Method
from binarize.methods.irnet import IRSign
from binarize.methods.lqnet import Basis, LearntLevels, LQWeights
from binarize.testing import ContractError, check_method


def has_table_form(name: str) -> bool:
    return any(field.name == "form" for field in fields(binarize.methods.get(name)))


@pytest.mark.parametrize("name", binarize.methods.names())
def test_registered_methods_keep_the_contract(name: str) -> None:
    check_method(name)


@pytest.mark.parametrize("ablation", range(1, 9))
@pytest.mark.parametrize("granularity", ["channel", "group", "layer"])
def test_ablations_keep_the_contract(ablation: int, granularity: str) -> None:
    check_method(BiDense.create(ablation=ablation, granularity=granularity))


@pytest.mark.parametrize("name", [name for name in binarize.methods.names() if has_table_form(name)])
def test_table_form_keeps_the_contract(name: str) -> None:
    check_method(binarize.methods.create(name, form="table"))


@dataclass(frozen=True, kw_only=True)
class Given(Method):
    """A method whose parts a test gives."""

    name: ClassVar[str] = "given"
    paper: ClassVar[str] = "none"
    parts: ClassVar[dict[str, Any]] = {}

    def recipe(self, site: Site) -> LayerRecipe:
        return LayerRecipe(**{"quantizer": SignSTE, "weight_rule": ScaledSign(), **self.parts})


Make = Callable[..., Method]


@pytest.fixture
def method_of(monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a method of the parts of its layers, known by name until the test ends."""

    def make(**parts: Any) -> Method:
        kind = type("Made", (Given,), {"parts": parts, "__doc__": "Made by a test.", "__module__": __name__})
        kind = dataclass(frozen=True, kw_only=True)(kind)
        monkeypatch.setitem(METHODS._entries, "given", kind)
        return kind()

    return make


@dataclass(frozen=True)
class Rounded(ScaledSign):
    """Three values, not two."""

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return torch.round(x * 20).clamp(-1, 1), ()

    def rebuild(self, x: Tensor, stats: tuple[Tensor, ...], *params: Tensor) -> Tensor:
        return self.quantize(x)[0]


class Soft(Quantizer):
    """Says that it is binary, but has a value of 0 as well."""

    def __init__(self) -> None:
        super().__init__()
        self.rule = Rounded()


class Halved(nn.Module):
    """Not as wide as the float layer's output."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., ::2]


@dataclass(frozen=True)
class Stated(SteSign):
    """Its formula has the gradient of clamp(x, -reach, reach); the rule's own is that of reach 1."""

    reach: float = 1.0

    def formula(self, x: Tensor, *params: Tensor) -> Tensor:
        value, surrogate = torch.where(x >= 0, 1.0, -1.0).to(x.dtype), x.clamp(-self.reach, self.reach)
        return value.detach() + surrogate - surrogate.detach()


def tenth(progress: float) -> float:
    return 0.1 + progress


class Forgetful(ScheduledSign):
    """Follows training, but keeps its number where no checkpoint finds it."""

    def __init__(self) -> None:
        super().__init__(IRSign())
        self.t = 0.1

    def rule_parameters(self) -> tuple[Tensor, ...]:
        return (torch.tensor(self.t),)

    def follow_training(self, progress: float) -> None:
        self.t = tenth(progress)


class Boastful(SignSTE):
    """Says that it computes sign(x + 1)."""

    def sign_form(self) -> SignForm:
        return SignForm(shift=torch.ones(()))


FALSE_CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "weights of two values": ({"weight_rule": Rounded()}, "must have two values per filter"),
    "activations of two values": ({"quantizer": Soft}, "activations: must have two values per sample and"),
    "a block of the float layer's shape": (
        {"inner": Halved},
        r"conv 3x3: must give \(3, 8, 9, 7\) as the float layer does",
    ),
    "the gradient that its formula states": (
        {"weight_rule": Stated(reach=2.0)},
        "weights: Stated: must have the gradient of its formula",
    ),
    "a schedule that checkpoints restore": (
        {"quantizer": Forgetful},
        "must be restored by its state dict in the midst of training",
    ),
    "the sign that it computes": ({"quantizer": Boastful}, r"what Boastful\.sign_form says"),
}
"""What a method claims, the parts of its layers that make the claim false, and what the contract answers."""

TRUE_CLAIMS: dict[str, dict[str, Any]] = {
    "the gradient that its formula states": {"weight_rule": Stated(reach=1.0)},
    "a schedule that checkpoints restore": {"quantizer": partial(ScheduledSign, IRSign(), t=tenth)},
}


@pytest.mark.parametrize("claim", FALSE_CLAIMS)
def test_contract_catches_a_false_claim(claim: str, method_of: Make) -> None:
    parts, answer = FALSE_CLAIMS[claim]
    with pytest.raises(ContractError, match=answer):
        check_method(method_of(**parts))


@pytest.mark.parametrize("claim", TRUE_CLAIMS)
def test_contract_is_kept_where_the_claim_is_true(claim: str, method_of: Make) -> None:
    check_method(method_of(**TRUE_CLAIMS[claim]))


def test_third_party_registers_by_decorator() -> None:
    @binarize.register_method
    @dataclass(frozen=True, kw_only=True)
    class Mine(Method):
        """Signs."""

        name: ClassVar[str] = "mine-for-this-test"
        paper: ClassVar[str] = "none"
        scaled: bool = True

        def recipe(self, site: Site) -> LayerRecipe:
            return LayerRecipe(quantizer=SignSTE, weight_rule=ScaledSign() if self.scaled else SteSign())

    try:
        assert "mine-for-this-test" in binarize.methods.names()
        check_method("mine-for-this-test")
        layer = binarize.binary_layer(nn.Conv2d(4, 4, 3), "mine-for-this-test", scaled=False)
        assert set(layer.binary_weight().unique().tolist()) <= {-1.0, 1.0}
        with pytest.raises(ConfigError, match="already registered"):

            @binarize.register_method
            @dataclass(frozen=True, kw_only=True)
            class Other(Method):
                name: ClassVar[str] = "mine-for-this-test"
                paper: ClassVar[str] = "none"
    finally:
        METHODS._entries.pop("mine-for-this-test")


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="did you mean 'granularity'"):
        BiDense.create(granularty="layer")
    with pytest.raises(ConfigError, match="expected an integer"):
        BiDense.create(ablation="two")
    with pytest.raises(ConfigError, match="0 to 8"):
        BiDense.create(ablation=9)
    with pytest.raises(ConfigError, match="leave one of the two out"):
        BiDense.create(ablation=6, scale="mad")
    assert binarize.methods.get("adabin").parse("t", "3") == 3
    assert binarize.methods.get("adabin").parse("authors_filter_size", "true") is True
    with pytest.raises(ConfigError, match="a finite number"):
        binarize.methods.get("adabin").parse("t", "sharp")


def test_options_of_method_objects_are_checked_where_they_are_used() -> None:
    wrong: Any = "blocks"
    with pytest.raises(ConfigError, match="expected one of 'channel', 'group', 'layer'"):
        binarize.binary_layer(nn.Conv2d(4, 4, 1), BiDense(granularity=wrong))


def test_layers_refuse_what_they_cannot_hold() -> None:
    with pytest.raises(ConfigError, match="Conv3d"):
        binarize.binary_layer(nn.Conv3d(3, 4, 1))
    with pytest.raises(ConfigError, match="weight"):
        binarize.binary_layer(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1)))
    with pytest.raises(ConfigError, match="already"):
        binarize.binary_layer(binarize.layers.BinaryConv2d(3, 4, 1))
    with pytest.raises(ConfigError, match="one weight"):
        binarize.binary_layer(nn.Conv2d(4, 4, 1, groups=4), "adabin")


@dataclass(frozen=True)
class FiveLevels(LQWeights):
    """Says that it has two bits, but has five values."""

    def quantize(self, x: Tensor, *params: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return torch.round(x * 20).clamp(-2, 2), ()


@dataclass(frozen=True)
class OtherSigns(LQWeights):
    """Its planes are not those that its weights are the sum of."""

    def signs(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        positive, scale = super().signs(x, *params)
        return ~positive, scale


@dataclass(frozen=True, kw_only=True)
class OfTwoBits(Given):
    """Made of parts, with weights and activations of two bits."""

    name: ClassVar[str] = "two-bits"
    parts: ClassVar[dict[str, Any]] = {}
    said: ClassVar[tuple[int, int]] = (2, 2)

    @property
    def bits(self) -> tuple[int, int]:
        return self.said

    def recipe(self, site: Site) -> LayerRecipe:
        parts = {"quantizer": SignSTE, "weight_rule": LQWeights(2), **self.parts}
        return LayerRecipe(weight_state=partial(Basis, 2, site), **parts)


def two_bits(**parts: Any) -> Method:
    said = parts.pop("said", (2, 2))
    kind = type("Made", (OfTwoBits,), {"parts": parts, "said": said, "__module__": __name__})
    return dataclass(frozen=True, kw_only=True)(kind)()


def test_contract_catches_five_values_of_two_bits() -> None:
    with pytest.raises(ContractError, match="at most 4 values per filter in its binary weights; got 5"):
        check_method(two_bits(weight_rule=FiveLevels(2)))


def test_contract_catches_planes_that_are_not_what_is_computed() -> None:
    with pytest.raises(ContractError, match=r"OtherSigns\.signs: must give binary weights whose sum is"):
        check_method(two_bits(weight_rule=OtherSigns(2)))


def test_contract_catches_more_bits_than_the_method_says() -> None:
    with pytest.raises(ContractError, match=r"no more bits .* than the method says, \(1, 1\); got \(2, 1\)"):
        check_method(two_bits(said=(1, 1)))


class WrongLevels(LearntLevels):
    """Says another basis than that which it computes with."""

    def level_form(self) -> LevelForm:
        return LevelForm(2 * self.basis, True)


class TwoBitsOfThree(LearntLevels):
    """Says that it has two bits, but has eight values."""

    @property
    def planes(self) -> int:
        return 2


def test_contract_catches_levels_that_are_not_what_is_computed() -> None:
    with pytest.raises(ContractError, match=r"what WrongLevels\.level_form says"):
        check_method(two_bits(quantizer=partial(WrongLevels, 2, signed=True)))
    with pytest.raises(ContractError, match="activations: must have at most 4 values per sample"):
        check_method(two_bits(quantizer=partial(TwoBitsOfThree, 3, signed=True)))
