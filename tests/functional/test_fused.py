"""Training by kernels gives what torch's operators give, and gives way to them where they have to be seen."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from engine_nets import ResNetLike
from torch import Tensor, nn

import binarize
from binarize import native
from binarize.functional import DabRule, ScaledSign, fused
from binarize.functional.activations import ShiftedSign
from binarize.layers import BiasPReLU, BinaryConv2d, Maxout, RPReLU
from binarize.layers.activations import ChannelPReLU
from binarize.native import training as kernels

pytestmark = pytest.mark.skipif(not native.available(), reason="the native kernels are not built")
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@contextmanager
def torch_only() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "usable", lambda *tensors: False)
        yield


@contextmanager
def counted(names: list[str]) -> Iterator[None]:
    """Note the kernels that are called."""
    with pytest.MonkeyPatch.context() as patch:
        call = kernels._call

        def noted(name: str, *arguments: Any) -> None:
            names.append(name)
            call(name, *arguments)

        patch.setattr(kernels, "_call", noted)
        yield


def step(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, and the gradients of the input and of all parameters."""
    torch.manual_seed(4)  # of dropout
    module, x = copy.deepcopy(module), x.detach().clone().requires_grad_()
    y = module(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    (y * weights.to(y.dtype)).sum().backward()
    return [one for one in (y.detach(), x.grad, *(p.grad for p in module.parameters())) if one is not None]


def agree(got: list[Tensor], wanted: list[Tensor]) -> None:
    for p, q in zip(got, wanted, strict=True):
        assert (p - q).abs().max() <= 1e-4 * (q.abs().max() + 0.1)


def scattered(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(2)
    for p in module.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=generator)
    return module


CONVS = {
    "bidense": {},
    "bidense layer": {"granularity": "layer"},
    "bidense group": {"granularity": "group", "groups": 2},
    "bidense mad": {"scale": "mad"},
    "bidense b": {"threshold": "b"},
    "reactnet": {},
    "bnn": {},
    "bireal": {},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", CONVS)
@pytest.mark.parametrize(("kernel", "outputs"), [(3, 40), (1, 80), (1, 12)])
def test_layers_train_as_in_torch(method: str, kernel: int, outputs: int, layout: Any) -> None:
    torch.manual_seed(0)
    options = CONVS[method]
    conv = BinaryConv2d(
        40, outputs, kernel, padding=kernel // 2, method=method.split()[0], norm=True, **options
    )
    conv = scattered(conv).to(memory_format=layout)
    x = torch.randn(2, 40, 9, 7).contiguous(memory_format=layout)
    names: list[str] = []
    with counted(names):
        got = step(conv, x)
    assert names
    with torch_only():
        wanted = step(conv, x)
    agree(got, wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", [RPReLU, BiasPReLU, Maxout])
@pytest.mark.parametrize("last", [False, True])
def test_activations_train_as_in_torch(activation: Any, layout: Any, last: bool) -> None:
    module = scattered(activation(12, dim=-1 if last else 1))
    x = torch.randn(2, 12, 9, 7, generator=torch.Generator().manual_seed(3))
    x = x.movedim(1, -1).contiguous() if last else x.contiguous(memory_format=layout)
    names: list[str] = []
    with counted(names):
        got = step(module, x)
    assert names == ["bz_train_pieces", "bz_train_pieces_backward"]
    agree(got, step(module.double(), x.double()))  # autograd's gradients, in float64


def test_a_network_trains_as_in_torch() -> None:
    torch.manual_seed(0)
    net = binarize.networks.upernet("test_convnext", num_classes=3, width=16)
    model = binarize.apply(net, "bidense", example_inputs=torch.zeros(1, 3, 64, 64)).train()
    model = model.to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    names: list[str] = []
    with counted(names):
        got = step(model, images)
    assert {name.removeprefix("bz_train_") for name in names} == {
        "dab", "dab_backward", "signs", "pieces", "pieces_backward", "bypass", "bypass_backward",
    }  # fmt: skip
    again = step(model, images)
    assert all(torch.equal(p, q) for p, q in zip(got, again, strict=True))  # resumed trainings repeat


def test_evaluation_keeps_the_operators() -> None:
    conv = BinaryConv2d(8, 8, 3, padding=1, method="bidense").eval()
    names: list[str] = []
    with counted(names), torch.no_grad():
        RPReLU(8)(conv(torch.randn(1, 8, 5, 5)))
    assert not names


@pytest.mark.parametrize("module", [RPReLU(4), Maxout(4)])
def test_gradients_of_gradients(module: nn.Module) -> None:
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    found = []
    for one, where in ((module, x), (copy.deepcopy(module).double(), x.double())):
        leaf = where.clone().requires_grad_()
        (first,) = torch.autograd.grad(one(leaf).square().sum(), leaf, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [leaf, *one.parameters()]))
    agree([g.double() for g in found[0]], list(found[1]))


def test_gradients_of_gradients_of_a_module_used_twice() -> None:
    """A parameter that the input depends on counts once for each use."""
    module, x = scattered(RPReLU(4)), torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    found = []
    for one, where in ((module, x), (copy.deepcopy(module).double(), x.double())):
        leaves = [where.clone().requires_grad_(), *one.parameters()]
        first = torch.autograd.grad(one(one(leaves[0])).square().sum(), leaves, create_graph=True)
        found.append([*first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves)])
    agree([g.double() for g in found[0]], found[1])


def bypass(x: Tensor) -> Tensor:
    y = fused.add_channel_bypass(x, x.new_zeros(2, 9, 3, 3).contiguous(memory_format=torch.channels_last))
    assert y is not None
    return y


BATCHED: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "rprelu": lambda: RPReLU(4),
    "bypass": lambda: bypass,
    "bidense": lambda: BinaryConv2d(4, 6, 3, padding=1, method="bidense", norm=True),
    "bidense product": lambda: BinaryConv2d(4, 6, 1, method="bidense", norm=True),
    "reactnet": lambda: BinaryConv2d(4, 4, 3, padding=1, method="reactnet", norm=True),
    "bnn": lambda: BinaryConv2d(4, 4, 1, method="bnn", norm=True),
}


@pytest.mark.parametrize("name", BATCHED)
def test_batches_of_gradients(name: str) -> None:
    """As Jacobians are computed with vectorize=True."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = BATCHED[name]()(x)
    many = torch.randn(3, *y.shape)
    (got,) = torch.autograd.grad(y, x, many, is_grads_batched=True, retain_graph=True)
    wanted = torch.stack([torch.autograd.grad(y, x, one, retain_graph=True)[0] for one in many])
    agree([got], [wanted])


def test_gradients_of_the_bypass_gradients() -> None:
    x = torch.randn(2, 6, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    base = torch.zeros(2, 9, 3, 3).contiguous(memory_format=torch.channels_last)
    y = fused.add_channel_bypass(x, base)
    assert y is not None
    (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
    wanted = x.detach().double().requires_grad_()
    other = torch.autograd.grad(
        binarize.functional.channel_bypass(wanted, 9).pow(3).sum(), wanted, create_graph=True
    )[0]
    agree([torch.autograd.grad(first.sum(), x)[0].double()], [torch.autograd.grad(other.sum(), wanted)[0]])


def jvp(module: nn.Module, x: Tensor) -> Any:
    return torch.func.jvp(module, (x,), (torch.ones_like(x),))


def autocast(module: nn.Module, x: Tensor) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return module(x)


WAYS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "vmap": lambda module, x: torch.func.vmap(module)(x.unsqueeze(0)),
    "jvp": jvp,
    "grad": lambda module, x: torch.func.grad(lambda v: module(v).sum())(x),
    "autocast": autocast,
    "fx": lambda module, x: torch.fx.symbolic_trace(module)(x),
    "jit": lambda module, x: torch.jit.trace(module, x, check_trace=False)(x),
    "float64": lambda module, x: copy.deepcopy(module).double()(x.double()),
    "meta": lambda module, x: copy.deepcopy(module).to("meta")(x.to("meta")),
    "gaps": lambda module, x: module(torch.cat([x, x], 3)[..., :3]),
    "negated": lambda module, x: module(torch._neg_view(x)),
    "of MKL-DNN": lambda module, x: ChannelPReLU(4)(x.to_mkldnn()),
    "empty": lambda module, x: module(x[:0]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_where_operators_have_to_be_seen(way: str) -> None:
    module, x = RPReLU(4), torch.randn(2, 4, 3, 3)
    names: list[str] = []
    with counted(names):
        WAYS[way](module, x)
    assert not names


def test_rules_that_the_kernels_do_not_know_stay() -> None:
    x = torch.randn(2, 8, 4, 4)
    rule = DabRule(scale="learned")
    assert fused.fused_rule(rule, x) is rule
    assert fused.fused_rule(ScaledSign(), x) is not rule
    assert fused.fused_rule(ScaledSign(), x[:, ::2]) == ScaledSign()


def test_numbers_that_are_not_one_per_channel_stay_with_torch() -> None:
    x, one, each = torch.randn(2, 8, 4, 4), torch.ones(1, 1, 1, 1), torch.ones(1, 8, 1, 1)
    rule, shifted = DabRule(), ShiftedSign()
    assert fused.fused_rule(rule, x, each, each, each) is not rule
    for params in ((one, each, each), (each, one, each), (each, each, one), (each, each, torch.ones(8))):
        assert fused.fused_rule(rule, x, *params) is rule
    assert fused.fused_rule(shifted, x, each) is not shifted
    assert fused.fused_rule(shifted, x, one) is shifted
    with pytest.raises(RuntimeError, match="size"):  # as in evaluation
        RPReLU(8)(torch.randn(2, 8, 4))


@pytest.mark.parametrize("method", binarize.methods.names())
def test_a_network_gives_the_same_bits_with_gradients_and_without(method: str) -> None:
    """Sums of signs are often 0: with scales of another rounding, the next quantizer would flip such signs.

    The statistics of DAB are sums of the map's values: there the rounding may differ.
    """
    torch.manual_seed(0)
    net = binarize.apply(ResNetLike(), method, example_inputs=torch.zeros(1, 3, 32, 32)).eval()
    for layout in LAYOUTS:
        x = torch.randn(2, 3, 32, 32).to(memory_format=layout)
        with torch.no_grad():
            wanted = net(x)
        tolerance = {"rtol": 1e-4, "atol": 1e-5} if method == "bidense" else {"rtol": 0.0, "atol": 0.0}
        torch.testing.assert_close(net(x), wanted, **tolerance)


@pytest.mark.parametrize("kernel", [1, 3])
def test_gradients_of_weights_lie_as_the_weights_do(kernel: int) -> None:
    conv = BinaryConv2d(6, 9, kernel, method="bnn").to(memory_format=torch.channels_last)
    conv(torch.randn(2, 6, 5, 5).contiguous(memory_format=torch.channels_last)).sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.stride() == conv.weight.stride()


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_training_is_compiled_in_one_graph(kernel: int) -> None:
    layer = binarize.binary_layer(nn.Conv2d(4, 4, kernel, padding=kernel // 2), "bidense").train()
    x = torch.randn(2, 4, 5, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    (grad,) = torch.autograd.grad(compiled(x).square().sum(), x)
    (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
    torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "method",
    [
        name if name == "recu" else pytest.param(name, marks=pytest.mark.slow)
        for name in binarize.methods.names()
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_method_trains_in_one_graph(method: str) -> None:
    """In several graphs a network is slower than without compilation, or torch's autograd stops."""
    layer = binarize.binary_layer(nn.Conv2d(4, 6, 3, padding=1), method).train()
    x = torch.randn(2, 4, 5, 5)
    layer(x)  # what starts from the first batch has started
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    (grad,) = torch.autograd.grad(compiled(x.requires_grad_()).square().sum(), x)
    assert grad.isfinite().all()
