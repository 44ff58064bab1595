"""Reference values of single layers (tests/golden/README.md) and how a module is held against them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "golden"
FILES = (FOLDER / "layers.safetensors", FOLDER / "methods.safetensors")

_GROUPS = {"param": "params", "buffer": "buffers", "grad": "grads", "buffer_after": "buffers_after"}


@dataclass(frozen=True, kw_only=True)
class GoldenCase:
    """One layer's inputs, parameters, outputs and gradients in float64.

    Attributes:
        name: of the case.
        x: input.
        y: output.
        gy: gradient of the output; the loss is sum(y * gy). None where no gradient is stored.
        gx: gradient of the input, or None.
        params: parameters by the reference's names.
        buffers: buffers before the call.
        grads: gradients of `params`.
        buffers_after: buffers after the call; empty if it changes none.
    """

    name: str
    x: Tensor
    y: Tensor
    gy: Tensor | None
    gx: Tensor | None
    params: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    grads: Mapping[str, Tensor]
    buffers_after: Mapping[str, Tensor]

    @property
    def training(self) -> bool:
        """Whether the reference ran in training mode."""
        return not self.name.endswith("_eval")


@cache
def _tensors() -> dict[str, Tensor]:
    return {name: tensor for file in FILES for name, tensor in load_file(file).items()}


def case_names(prefix: str = "") -> list[str]:
    """The names of all cases that start with `prefix`, sorted."""
    return sorted(
        key.removesuffix("/x") for key in _tensors() if key.endswith("/x") and key.startswith(prefix)
    )


def load_case(name: str) -> GoldenCase:
    """The case `name`, its tensors copied, so that a test may change them."""
    single: dict[str, Tensor] = {}
    grouped: dict[str, dict[str, Tensor]] = {group: {} for group in _GROUPS.values()}
    for key, value in _tensors().items():
        if not key.startswith(f"{name}/"):
            continue
        kind, _, rest = key.removeprefix(f"{name}/").partition("/")
        if rest:
            grouped[_GROUPS[kind]][rest] = value.clone()
        else:
            single[kind] = value.clone()
    if not single:
        raise KeyError(f"{name!r} is not in {[file.name for file in FILES]}; it holds {case_names()}")
    return GoldenCase(
        name=name, x=single["x"], y=single["y"], gy=single.get("gy"), gx=single.get("gx"), **grouped
    )


def assert_near(actual: Tensor, expected: Tensor, what: str, *, rtol: float = 1e-9) -> None:
    """Agreement to `rtol` of the element or, near zero, of the tensor's largest; values may be reshaped.

    A tensor of nothing above 1e-9 counts as zero: the gradient of a bias in front of a BatchNorm, for one,
    is zero in exact arithmetic and rounding noise otherwise.
    """
    assert actual.numel() == expected.numel(), f"{what}: {tuple(actual.shape)}, not {tuple(expected.shape)}"
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        actual.reshape(expected.shape),
        expected,
        rtol=rtol,
        atol=rtol * scale if scale > 1e-9 else 1e-9,
        msg=lambda text: f"{what}: {text}",
    )


def assert_matches(
    module: nn.Module, case: GoldenCase, names: Mapping[str, str], *, rtol: float = 1e-9
) -> None:
    """Load `case` into `module`, run both passes and compare everything that is stored.

    Output, input gradient, the gradient of every parameter and every buffer are compared. Parameters of the
    module without a counterpart in the case, or the other way round, fail, so that nothing is passed over.

    Args:
        module: any dtype and mode; it is turned to float64 and the case's mode, and its state is replaced.
        case: what to compare with.
        names: the module's name for each of the reference's names, or for a prefix of several ("norm" for
            "norm.weight", "norm.running_mean"...).
        rtol: relative tolerance.
    """
    module.double().train(case.training)
    state = {_renamed(name, names): value for name, value in {**case.params, **case.buffers}.items()}
    with torch.no_grad():
        own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        assert own.keys() == state.keys()
        for name, tensor in own.items():
            assert tensor.numel() == state[name].numel(), name
            tensor.copy_(state[name].reshape(tensor.shape))

    x = case.x.clone().requires_grad_()
    y = module(x)
    assert y.shape == case.y.shape
    y.backward(case.gy)

    assert_near(y.detach(), case.y, "y", rtol=rtol)
    assert_near(x.grad, case.gx, "gx", rtol=rtol)
    for name, expected in case.grads.items():
        mine = _renamed(name, names)
        assert_near(module.get_parameter(mine).grad, expected, f"gradient of {mine}", rtol=rtol)
    for name, expected in (case.buffers_after or case.buffers).items():
        mine = _renamed(name, names)
        assert_near(module.get_buffer(mine), expected, mine, rtol=rtol)


def _renamed(name: str, names: Mapping[str, str]) -> str:
    if name in names:
        return names[name]
    prefix, _, last = name.rpartition(".")
    return f"{names[prefix]}.{last}"
