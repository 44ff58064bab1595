"""Quantizers and binary weights against values that the authors' implementations computed."""

from __future__ import annotations

import pytest
import torch
from golden_data import assert_matches, assert_near, case_names, load_case

from binarize.functional import ApproxSign, Geometry, ScaledSign, binary_dense, quantize
from binarize.layers import DAB, ApproxSignQuantizer
from binarize.methods.bit import Elastic

DAB_NAMES = {"alpha": "a", "k": "k", "b": "b"}
WEIGHT_CASES = {
    "bwconv/3x3": Geometry((1, 1), (1, 1), (1, 1)),
    "bwconv/2x2s2": Geometry((2, 2), (0, 0), (1, 1)),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", case_names("dab2d/"))
def test_dab(name: str, layout: torch.memory_format) -> None:
    case = load_case(name)
    assert_matches(DAB(case.x.shape[1]).to(memory_format=layout), case, DAB_NAMES)


@pytest.mark.parametrize("name", case_names("dab2d/"))
def test_dab_on_channels_last_tensors(name: str) -> None:
    case = load_case(name)
    module = DAB(case.x.shape[1], dim=-1).double()
    with torch.no_grad():
        for theirs, mine in DAB_NAMES.items():
            module.get_parameter(mine).copy_(case.params[theirs].reshape(-1))
    x = case.x.movedim(1, -1).contiguous().requires_grad_()
    y = module(x)
    y.backward(case.gy.movedim(1, -1))
    assert_near(y.detach().movedim(-1, 1), case.y, "y")
    assert_near(x.grad.movedim(-1, 1), case.gx, "gx")
    for theirs, mine in DAB_NAMES.items():
        assert_near(module.get_parameter(mine).grad, case.grads[theirs], mine)


def test_dab_scale_is_one_where_a_is_zero() -> None:
    case = load_case("dab2d/alpha0")
    assert not case.params["alpha"].any()
    module = DAB(case.x.shape[1])
    assert_matches(module, case, DAB_NAMES)
    assert module(case.x).abs().eq(1).all()


def test_approx_sign() -> None:
    case = load_case("approxsign/grid")
    zero = case.x == 0
    assert zero.sum() == 1
    # The authors' sign has a third value at 0; here it is +1, so that one bit holds it. Gradients agree.
    expected = torch.where(zero, 1.0, case.y)
    for apply in (ApproxSignQuantizer(), lambda x: quantize(ApproxSign(), x)):
        x = case.x.clone().requires_grad_()
        y = apply(x)
        y.backward(case.gy)
        assert torch.equal(y, expected)
        assert_near(x.grad, case.gx, "gx")
        assert x.grad[case.x.abs() == 1].eq(0).all()


@pytest.mark.parametrize("name", WEIGHT_CASES)
def test_scaled_weights_on_a_float_input(name: str) -> None:
    case = load_case(name)
    x = case.x.clone().requires_grad_()
    weight = case.params["weight"].clone().requires_grad_()
    y = binary_dense(x, weight, None, weight_rule=ScaledSign(), geometry=WEIGHT_CASES[name])
    y.backward(case.gy)
    assert_near(y.detach(), case.y, "y")
    assert_near(x.grad, case.gx, "gx")
    assert_near(weight.grad, case.grads["weight"], "weight")


def test_elastic_binarization() -> None:
    case = load_case("official/bit_elastic_signed")
    alpha = case.params["alpha"].clone().requires_grad_()
    x = case.x.clone().requires_grad_()
    y = quantize(Elastic(), x, alpha, torch.zeros(x.shape[-1], dtype=torch.double))
    y.backward(case.gy)
    assert_near(y.detach(), case.y, "y")
    assert_near(x.grad, case.gx, "gx")
    assert_near(alpha.grad, case.grads["alpha"], "alpha")


def test_activations_of_group_net() -> None:
    case = load_case("official/groupnet_QA")
    x = case.x.clone().requires_grad_()
    y = quantize(ApproxSign(), x)
    y.backward(case.gy)
    assert_near(y.detach(), case.y, "y")
    assert_near(x.grad, case.gx, "gx")


def test_every_weight_case_is_tested() -> None:
    assert sorted(WEIGHT_CASES) == case_names("bwconv/")
