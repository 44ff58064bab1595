"""Checks for methods of third parties: `check_method` is the contract that all built-in ones pass."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable

import torch
from torch import Tensor, nn

from binarize.errors import BinarizeError
from binarize.graph import Plan, execute, plan
from binarize.layers import BinaryLayer
from binarize.methods import Method, binary_layer
from binarize.methods import get as get_method


class ContractError(BinarizeError, AssertionError):
    """A method that breaks what the engine relies on."""


def check_method(method: str | Method, *, seed: int = 0) -> None:
    """Check that a method builds sound layers and networks.

    Layers of each kind: output shape of the float layer; finite gradients in every parameter; two values per
    filter in the binary weights; the state dict loads into a second layer bit for bit; deepcopy and pickle;
    evaluation mode gives each sample the same result in any batch. Options survive JSON. A small network with
    norms, activations and residual sums converts by a plan that survives JSON, trains and keeps its state.

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
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    for parameter_name, parameter in built.named_parameters():
        finite = parameter.grad is not None and bool(torch.isfinite(parameter.grad).all())
        _expect(finite, f"{name}: {parameter_name}", "must have a finite gradient")
    for binary in (m for m in built.modules() if isinstance(m, BinaryLayer)):
        weight = binary.binary_weight()
        if isinstance(binary, nn.ConvTranspose2d):
            weight = weight.transpose(0, 1)
        values = max(len(torch.unique(row)) for row in weight.reshape(weight.shape[0], -1))
        _expect(values <= 2, name, "must have two values per filter in its binary weights", str(values))
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
