"""Checks for methods of third parties: `check_method` is the contract that all built-in ones pass."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable

import torch
from torch import Tensor, nn

from binarize.errors import BinarizeError
from binarize.functional import Rule
from binarize.graph import Plan, execute, plan
from binarize.layers import BinaryLayer, Piecewise, PiecewiseLinear, Quantizer, SignForm, set_progress
from binarize.methods import Method, binary_layer
from binarize.methods import get as get_method


class ContractError(BinarizeError, AssertionError):
    """A method that breaks what the engine relies on."""


def check_method(method: str | Method, *, seed: int = 0) -> None:
    """Check that a method builds sound layers and networks.

    Layers of each kind: output shape of the float layer; finite gradients in every parameter; two values per
    filter in the binary weights once training is over, and two per sample and channel (or position) in the
    activations (of rules and quantizers of K bits, 2^K values that are the sums which they state, and no more
    bits than the method says); the state dict loads into a second layer bit for bit, and in the midst of
    training that layer has the same gradients; deepcopy and pickle; evaluation mode gives each sample the
    same result in any batch. Rules rebuild what they quantized, and their gradients are those of their
    `formula`, if they state one; a quantizer computes what its `sign_form` says, an activation inside what
    its `pieces` say. Options survive JSON. A small network with norms, activations and residual sums converts
    by a plan that survives JSON, trains and keeps its state.

    Args:
        method: a registered name or a method object.
        seed: of the inputs and weights.

    Raises:
        ContractError: naming the layer and the broken rule.
        ConfigError: for an unknown name.
    """
    chosen = get_method(method).create() if isinstance(method, str) else method
    back = type(chosen).create(**json.loads(json.dumps(chosen.options())))
    _expect(back == chosen, "options", "must come back from JSON as they were", f"{chosen} became {back}")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, make, shape in _LAYERS:
            _check_layer(name, make, torch.randn(shape, generator=generator), chosen)
        _check_network(chosen, torch.randn(4, 3, 16, 16, generator=generator))


_LAYERS: list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = [
    ("conv 3x3", lambda: nn.Conv2d(8, 8, 3, padding=1), (3, 8, 9, 7)),
    ("conv 1x1 up", lambda: nn.Conv2d(8, 20, 1), (3, 8, 5, 5)),
    ("conv 1x1 down", lambda: nn.Conv2d(8, 3, 1, bias=False), (3, 8, 5, 5)),
    ("conv 3x3 stride 2", lambda: nn.Conv2d(8, 16, 3, 2, 1), (3, 8, 9, 8)),
    ("conv 2x2 stride 2", lambda: nn.Conv2d(8, 12, 2, 2), (3, 8, 9, 8)),
    ("depthwise conv", lambda: nn.Conv2d(8, 8, 5, padding=2, groups=8), (3, 8, 9, 8)),
    ("dilated conv", lambda: nn.Conv2d(8, 4, 3, padding=2, dilation=2, groups=2), (3, 8, 9, 8)),
    ("conv without padding", lambda: nn.Conv2d(8, 8, 3), (3, 8, 9, 8)),
    ("conv1d", lambda: nn.Conv1d(8, 10, 3, padding=1), (3, 8, 11)),
    ("transposed conv", lambda: nn.ConvTranspose2d(8, 4, 2, 2), (3, 8, 5, 4)),
    ("linear", lambda: nn.Linear(8, 32), (3, 6, 8)),
]


def _expect(holds: bool, where: str, rule: str, got: str = "") -> None:
    if not holds:
        raise ContractError(f"{where}: {rule}" + (f"; got {got}" if got else "") + ".")


def _check_layer(name: str, make: Callable[[], nn.Module], x: Tensor, method: Method) -> None:
    layer = make()
    shape = layer(x).shape
    try:
        built = binary_layer(layer, method)
    except BinarizeError as error:
        if type(error).__name__ == "ConfigError":
            return  # a method may refuse a kind of layer
        raise
    x = x.clone().requires_grad_()
    y = built(x)
    _expect(y.shape == shape, name, f"must give {tuple(shape)} as the float layer does", str(tuple(y.shape)))
    _weighted(y).backward()
    for parameter_name, parameter in built.named_parameters():
        finite = parameter.grad is not None and bool(torch.isfinite(parameter.grad).all())
        _expect(finite, f"{name}: {parameter_name}", "must have a finite gradient")
    _check_restored(name, make, x, method)
    set_progress(built, 1.0)
    for binary in (m for m in built.modules() if isinstance(m, BinaryLayer)):
        bits = (binary.weight_rule.planes, getattr(binary.quantizer, "planes", 1))
        within = all(found <= said for found, said in zip(bits, method.bits, strict=True))
        rule = f"must have no more bits of weights and activations than the method says, {method.bits}"
        _expect(within, name, rule, str(bits))
        _check_weights(name, binary)
        _check_quantizer(name, binary.quantizer.eval(), _as_input(binary, x.detach()))
        _check_inner(name, binary.eval(), _as_input(binary, x.detach()))
    built.eval()
    with torch.no_grad():
        whole = built(x)
        for twin in (copy.deepcopy(built), pickle.loads(pickle.dumps(built))):
            _expect(torch.equal(twin(x), whole), name, "must survive deepcopy and pickle")
        single = built(x[:1])
        close = torch.allclose(single, whole[:1], rtol=1e-4, atol=1e-4)
        _expect(close, name, "must treat samples alone as in a batch in evaluation mode")
        other = binary_layer(make(), method).eval()
        other.load_state_dict(built.state_dict())
        _expect(torch.equal(other(x), whole), name, "must be restored by its state dict")


def _weighted(y: Tensor) -> Tensor:
    return (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum()


def _as_input(layer: BinaryLayer, x: Tensor) -> Tensor:
    """An input with as many channels as the layer takes: it may be one of several in a module."""
    dim = -1 if isinstance(layer, nn.Linear) else 1
    channels = getattr(layer, "in_features", None) or getattr(layer, "in_channels", x.shape[dim])
    repeated = torch.cat([x] * -(-channels // x.shape[dim]), dim)
    return repeated.narrow(dim, 0, channels)


def _check_restored(name: str, make: Callable[[], nn.Module], x: Tensor, method: Method) -> None:
    """In the midst of training a layer and one with its state have the same output and gradients."""
    first, second = binary_layer(make(), method), binary_layer(make(), method)
    set_progress(first, 0.4)
    second.load_state_dict(first.state_dict())
    results: list[list[Tensor]] = []
    for layer in (first, second):
        given = x.detach().clone().requires_grad_()
        y = layer(given)
        results.append([y.detach(), *torch.autograd.grad(_weighted(y), [given, *layer.parameters()])])
    same = all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    rule = "must be restored by its state dict in the midst of training, with all that follows its progress"
    _expect(same, name, rule)


def _check_weights(name: str, layer: BinaryLayer) -> None:
    weight, planes = layer.binary_filters(), layer.weight_rule.planes
    values = max(len(torch.unique(row)) for row in weight.reshape(weight.shape[0], -1))
    rule = f"must have {_number(planes)} values per filter in its binary weights"
    _expect(values <= 2**planes, name, rule, str(values))
    if planes > 1:
        _check_planes(name, layer, weight)
    latent = layer._latent_filters().detach().double()
    latent = latent / latent.square().mean().sqrt()  # on both sides of where surrogates end
    _check_rule(f"{name}: weights", layer.weight_rule, latent, layer.weight_parameters())


def _number(planes: int) -> str:
    return "two" if planes == 1 else f"at most {2**planes}"


def _check_planes(name: str, layer: BinaryLayer, weight: Tensor) -> None:
    """The binary weights that a rule says its weights to be the sum of."""
    rule = layer.weight_rule
    called = f"{name}: {type(rule).__name__}.signs"
    with torch.no_grad():
        found = rule.signs(layer._latent_filters(), *layer.weight_parameters())
    _expect(found is not None, called, f"must give the {rule.planes} binary weights that each is the sum of")
    positive, scale = found or (weight, weight)
    shapes = (positive.shape, scale.shape)
    per_filter = (rule.planes, len(weight), *(1,) * (weight.dim() - 1))
    fits = shapes == ((rule.planes, *weight.shape), per_filter) and positive.dtype == torch.bool
    _expect(fits, called, "must give bools for each weight and scales for each filter", str(shapes))
    total = (torch.where(positive, scale, -scale)).sum(0)
    close = torch.allclose(total, weight, rtol=1e-5, atol=1e-5 * float(weight.abs().max()))
    _expect(close, called, "must give binary weights whose sum is the quantized weight")


def _check_quantizer(name: str, quantizer: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        y = quantizer(x)
        rows = [y.flatten(2).flatten(0, 1), y.movedim(1, -1).flatten(0, -2)] if y.dim() > 2 else [y]
        values = min(max(len(torch.unique(row)) for row in found) for found in rows)
        where, planes = f"{name}: activations", getattr(quantizer, "planes", 1)
        rule = f"must have {_number(planes)} values per sample and channel (or position)"
        _expect(values <= 2**planes, where, rule, str(values))
    if not isinstance(quantizer, Quantizer):
        return
    if planes > 1 and not isinstance(levels := quantizer.level_form(), str):
        _expect(len(levels.basis) == planes, where, f"must have a basis of {planes} numbers")
        said = f"must compute what {type(quantizer).__name__}.level_form says"
        _expect(torch.allclose(y, levels.of(x)), where, said)
    form = quantizer.sign_form() if "sign_form" in vars(type(quantizer)) else ""
    if isinstance(form, SignForm):
        _expect(
            torch.allclose(y, form.of(x)),
            where,
            f"must compute what {type(quantizer).__name__}.sign_form says",
        )
    with torch.no_grad():
        prepared = quantizer.prepare(x).double()
    _check_rule(where, quantizer.rule, prepared, quantizer.rule_parameters())


def _check_inner(name: str, layer: BinaryLayer, x: Tensor) -> None:
    if not isinstance(layer.inner, PiecewiseLinear):
        return
    linear = isinstance(layer, nn.Linear)
    channels: int = getattr(layer, "out_features" if linear else "out_channels")
    z = torch.randn(*x.shape[:-1], channels) if linear else torch.randn(x.shape[0], channels, *x.shape[2:])
    with torch.no_grad():
        stated = Piecewise(layer.inner, z.dtype, dim=-1 if linear else 1)
        close = torch.allclose(stated(z), layer.inner(z), rtol=1e-4, atol=1e-5)
    _expect(close, f"{name}: {type(layer.inner).__name__}", "must compute what its pieces say")


def _check_rule(where: str, rule: Rule, x: Tensor, given: tuple[Tensor, ...]) -> None:
    """Rule and gradient against each other, and against the formula if there is one."""
    params = [p.detach().double() if p.is_floating_point() else p for p in given]
    params = [p.requires_grad_(old.requires_grad) for p, old in zip(params, given, strict=True)]
    upstream = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)
    called = f"{where}: {type(rule).__name__}"
    with torch.no_grad():
        y, stats = rule.quantize(x, *params)
        _expect(torch.equal(rule.rebuild(x, stats, *params), y), called, "must rebuild what it quantized")
        gradients = rule.gradient(upstream, x, stats, *params)
    learnt = [p for p in params if p.requires_grad]
    shapes = [None if g is None else g.shape for g in gradients]
    wanted = [x.shape, *(p.shape if p.requires_grad else None for p in params)]
    fits = len(shapes) == len(wanted) and all(
        w is None or s == w for s, w in zip(shapes, wanted, strict=True)
    )
    _expect(
        fits,
        called,
        "must have a gradient for the input and each learnt parameter, of its shape",
        str(shapes),
    )
    leaf = x.clone().requires_grad_()
    stated = rule.formula(leaf, *params)
    if stated is None:
        return
    close = torch.allclose(stated.detach(), y, rtol=1e-9, atol=1e-12)
    _expect(close, called, "must compute what its formula says")
    theirs = torch.autograd.grad((stated * upstream).sum(), [leaf, *learnt], allow_unused=True)
    ours = [g for g, w in zip(gradients, wanted, strict=True) if w is not None and g is not None]
    for mine, other in zip(ours, theirs, strict=True):
        other = torch.zeros_like(mine) if other is None else other
        close = torch.allclose(mine, other, rtol=1e-6, atol=1e-9)
        _expect(close, called, "must have the gradient of its formula")


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.norm = nn.BatchNorm2d(2 * channels)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(2 * channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.act(self.norm(self.conv1(x))))


def _check_network(method: Method, x: Tensor) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), _Block(8), nn.Conv2d(8, 16, 2, 2), _Block(16))
    net.append(nn.Conv2d(16, 5, 1))
    made = plan(net, method, example_inputs=x)
    _expect(
        Plan.from_dict(json.loads(json.dumps(made.as_dict()))) == made, "plan", "must come back from JSON"
    )
    model = execute(made, net).train()
    model(x).square().mean().backward()
    for row in made.converted:
        for name, parameter in model.get_submodule(row.name).named_parameters():
            finite = parameter.grad is not None and bool(torch.isfinite(parameter.grad).all())
            _expect(finite, f"network: {row.name}.{name}", "must have a finite gradient")
    twin = execute(made, net).eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        _expect(torch.equal(twin(x), model.eval()(x)), "network", "must be restored by its state dict")
