"""Whatever a forward does to its model, the model is as it was after a plan, and the plan makes sense."""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import functools
import random
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import binarize
from binarize.errors import BinarizeError
from binarize.graph.rewrite.execute import execute

IMAGE = torch.rand(1, 3, 8, 8)


class Net(nn.Module):
    """Convolutions, and something that each forward does to the module."""

    def __init__(self, act: Callable[[Net, Tensor], None], *, real: bool = False) -> None:
        super().__init__()
        self.stem, self.a = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.b, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.norm = nn.BatchNorm2d(8)
        self.register_buffer("seen", torch.ones(4))
        self.register_buffer("hidden", torch.ones(4), persistent=False)
        self.scale = nn.Parameter(torch.ones(1))
        self.scale.grad = torch.ones(1)
        self.held = [torch.ones(3), {"k": [torch.zeros(2)]}]
        self.table: dict[str, Any] = {}
        self.queue: collections.deque[Tensor] = collections.deque(maxlen=2)
        self.ordered: collections.OrderedDict[str, Any] = collections.OrderedDict(one=1)
        self.state = types.SimpleNamespace(count=0, last=None)
        self.array, self.draws = np.zeros(3), np.random.default_rng(0)
        self.generator = torch.Generator().manual_seed(0)
        self.act, self.real = act, real

    def forward(self, x: Tensor) -> Tensor:
        if self.real and float(x.sum()) < -1e9:  # needs values: fake tensors do not do
            return x
        x = self.norm(torch.relu(self.stem(x)))
        self.act(self, x)
        return self.head(self.b(torch.relu(self.a(x))))


def no_grad(function: Callable[[Net, Tensor], Any]) -> Callable[[Net, Tensor], None]:
    def act(net: Net, x: Tensor) -> None:
        with torch.no_grad():
            function(net, x)

    return act


def _set_weight(net: Net, x: Tensor) -> None:
    net.b.weight = nn.Parameter(net.b.weight.detach() * 1.0)


def _draw(net: Net, x: Tensor) -> None:
    torch.manual_seed(3)
    torch.rand(2), random.random(), np.random.rand(), net.draws.random()  # noqa: NPY002
    torch.empty(2).normal_(generator=net.generator)


def _hook(net: Net, x: Tensor) -> None:
    net.a.register_forward_hook(lambda *args: None)
    net.scale.register_hook(lambda grad: grad)


def _delete(net: Net, x: Tensor) -> None:
    del net.state, net.hidden


def _objects(net: Net, x: Tensor) -> None:
    net.state.count += 1
    net.state.last = x
    net.queue.append(x)
    net.ordered["two"] = x
    net.table["x"] = [x]
    net.held[1]["k"].append(x)
    net.held[1]["k"][0].add_(1)


def _array(net: Net, x: Tensor) -> None:
    net.array += 1
    net.a.bias.detach().numpy()[:] = 5


def _fail(error: type[BaseException]) -> Callable[[Net, Tensor], None]:
    def act(net: Net, x: Tensor) -> None:
        net.scale.data = net.scale.data * 2
        net.seen.mul_(2)
        net.table["x"] = x
        raise error

    return act


ACTS: dict[str, Callable[[Net, Tensor], None]] = {
    "parameter.data": lambda net, x: setattr(net.scale, "data", net.scale * x.mean()),
    "buffer.data": lambda net, x: setattr(net.seen, "data", x.mean((0, 2, 3))[:4]),
    "data in place": lambda net, x: net.b.weight.data.mul_(0.5),
    "copy_": no_grad(lambda net, x: net.b.weight.copy_(net.a.weight * x.mean())),
    "parameter in place": no_grad(lambda net, x: net.scale.add_(1)),
    "buffers in place": lambda net, x: (net.seen.add_(1), net.hidden.mul_(x.mean())),
    "set_": no_grad(lambda net, x: net.seen.set_(torch.zeros(7))),
    "storage": lambda net, x: net.seen.untyped_storage().fill_(0),
    "resize": lambda net, x: net.seen.untyped_storage().resize_(64),
    "setattr": _set_weight,
    "register_buffer": lambda net, x: net.register_buffer("seen", x.mean((0, 2, 3))),
    "new buffer": lambda net, x: net.register_buffer("fresh", x),
    "delete": _delete,
    "requires_grad": lambda net, x: net.scale.requires_grad_(False),
    "grad": lambda net, x: setattr(net.scale, "grad", None),
    "grad in place": lambda net, x: net.scale.grad.zero_(),
    "training": lambda net, x: net.a.train(not net.a.training),
    "statistics": lambda net, x: F.batch_norm(x, net.norm.running_mean, net.norm.running_var, training=True),
    "draws": _draw,
    "hooks": _hook,
    "objects": _objects,
    "arrays": _array,
    "module": lambda net, x: net.add_module("extra", nn.Linear(2, 2)),
    "fails": _fail(ValueError),
    "interrupted": _fail(KeyboardInterrupt),
}


def picture(value: Any, seen: dict[int, int] | None = None) -> Any:
    """All that an object is: identities, values, flags, as something that compares."""
    seen = {} if seen is None else seen
    if id(value) in seen:
        return "seen", seen[id(value)]
    if isinstance(value, (nn.Module, types.SimpleNamespace, list, dict, collections.deque, Tensor)):
        seen[id(value)] = len(seen)
    if isinstance(value, Tensor):
        grad = None if value.grad is None else picture(value.grad, seen)
        where = (
            value.untyped_storage()._cdata,
            value.untyped_storage().nbytes(),
            value.stride(),
            str(value.device),
        )
        numbers = value.detach().flatten().tolist()
        hooks = len(value._backward_hooks or {})
        return id(value), type(value), where, value.dtype, value.requires_grad, numbers, grad, hooks
    if isinstance(value, (nn.Module, types.SimpleNamespace)):
        return id(value), {n: picture(v, seen) for n, v in vars(value).items()}
    if isinstance(value, dict):
        return id(value), [(n, picture(v, seen)) for n, v in value.items()]
    if isinstance(value, (list, tuple, collections.deque)):
        return id(value), [picture(v, seen) for v in value]
    if isinstance(value, np.ndarray):
        return id(value), value.tolist()
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    return value.get_state().tolist() if isinstance(value, torch.Generator) else id(value)


def random_states() -> Any:
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("real", [False, True], ids=["fake", "real"])
@pytest.mark.parametrize("act", list(ACTS))
def test_nothing_of_the_model_changes(act: str, real: bool) -> None:
    net = Net(ACTS[act], real=real).train()
    net.a.eval()
    image = IMAGE.clone()
    before, states = picture(net), random_states()
    with contextlib.suppress(BinarizeError, KeyboardInterrupt):  # or no layer is left to convert
        binarize.plan(net, "bnn", example_inputs=image)
    assert picture(net) == before
    assert random_states() == states
    assert torch.equal(image, IMAGE)


def test_an_input_that_is_changed_in_place_comes_back() -> None:
    net = Net(lambda net, x: None, real=True)
    net.register_forward_pre_hook(lambda module, args: (args[0].mul_(2),))
    image = IMAGE.clone()
    binarize.apply(net, "bnn", example_inputs=image)
    assert torch.equal(image, IMAGE)


class OldSpectralNorm(nn.Module):
    """The form from before torch had one: u is set to other memory in every forward."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer
        self.u = nn.Parameter(torch.randn(layer.out_channels), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight.flatten(1)
        v = F.normalize(weight.t() @ self.u, dim=0)
        self.u.data = F.normalize(weight @ v, dim=0)
        return self.layer(x) / (self.u @ (weight @ v))


class Merging(nn.Module):
    """Writes the weight of one convolution from others' in each evaluation forward (SPAN)."""

    def __init__(self, channels: int, *, in_place: bool) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 3, padding=1)
        self.merged = nn.Conv2d(channels, channels, 3, padding=1).requires_grad_(False)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.wide(x) + self.narrow(x)
        weight = self.wide.weight.data + F.pad(self.narrow.weight.data, [1, 1, 1, 1])
        if self.in_place:
            self.merged.weight.data.copy_(weight)
        else:
            self.merged.weight.data = weight
        return self.merged(x)


class Limited(nn.Conv2d):
    """A convolution that keeps the norm of its filters small (EEGNet)."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=1.0)
        return super().forward(x)


def around(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 1), *middle, nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1))


@pytest.mark.parametrize(
    ("make", "floats"),
    [
        (lambda: OldSpectralNorm(nn.Conv2d(8, 8, 3, padding=1)), {"1.layer": "is read in a forward that"}),
        (lambda: Merging(8, in_place=False), {"1.merged": "its weight is written by the forward of 1"}),
        (lambda: Merging(8, in_place=True), {"1.merged": "its weight is written by the forward of 1"}),
        (lambda: Limited(8, 8, 3, padding=1), {"1": ""}),
    ],
    ids=["spectral norm", "merging", "merging in place", "limited"],
)
def test_layers_whose_weights_the_forward_writes_stay_float(
    make: Callable[[], nn.Module], floats: dict[str, str]
) -> None:
    net = around(make()).eval()
    with torch.no_grad():
        net(IMAGE)
    state = copy.deepcopy(net.state_dict())
    plan = binarize.plan(net, "bidense", example_inputs=IMAGE)
    rows = {row.name: row for row in plan.rows}
    assert rows["2"].converted
    for name, reason in floats.items():
        assert not rows[name].converted
        assert reason in rows[name].reason
    assert any("writes to" in note for note in plan.notes)
    assert not any("control flow depends on data" in note for note in plan.notes)
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    model = binarize.apply(net, "bidense", example_inputs=IMAGE)
    latent = model.get_submodule("2").weight.detach().clone()
    for mode in (True, False):
        model.train(mode)(IMAGE)
    assert torch.equal(model.get_submodule("2").weight, latent)
    with torch.no_grad():
        torch.testing.assert_close(
            binarize.deploy(model, exact_scales=True)(IMAGE), model.eval()(IMAGE), rtol=1e-4, atol=1e-4
        )


def test_a_norm_whose_weight_the_forward_writes_stays() -> None:
    def clamp(net: Net, x: Tensor) -> None:
        net.after.weight.data.clamp_(0, 0.5)

    net = Net(clamp)
    net.after = nn.BatchNorm2d(8)
    net.b = nn.Sequential(net.b, net.after)
    model = binarize.apply(net, "bidense", example_inputs=IMAGE)
    model(IMAGE)
    assert isinstance(model.after, nn.BatchNorm2d)


def test_a_trace_that_would_lose_a_change_is_refused() -> None:
    def grow(net: Net, x: Tensor) -> None:
        net.held[0].mul_(2)  # a real tensor, changed while symbols are traced

    net = Net(grow)
    plan = binarize.plan(net, "bidense", example_inputs=IMAGE)
    assert any("by more than the steps of a graph" in note for note in plan.notes)
    assert net.held[0].tolist() == [1, 1, 1]


@dataclasses.dataclass
class Result:
    """What a network of another library returns, and keeps."""

    features: Any = None


class Keeping(nn.Module):
    """Keeps activations in containers of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.b, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.features: list[Tensor] = []
        self.cache: dict[str, Any] = {}
        self.last: Any = None
        self.queue: collections.deque[Any] = collections.deque(maxlen=2)
        self.result = Result()

    def forward(self, x: Tensor) -> Tensor:
        one = torch.relu(self.stem(x))
        two = torch.relu(self.a(one))
        three = self.b(two)
        self.features = [one, two]
        self.cache["k"] = ({"deep": [two]}, three)
        self.queue.append((three,))
        self.result, self.last = Result(one), one
        return self.head(three)


@pytest.mark.parametrize("method", ["bnn", "bidense"])
def test_activations_in_containers_are_copied(method: str, tmp_path: Any) -> None:
    net = Keeping()
    net(IMAGE)
    kept = net.features[0]
    model = binarize.apply(net, method, example_inputs=IMAGE)
    assert net.features[0] is kept
    assert kept.grad_fn is not None
    assert model.features[0] is model.last is model.result.features
    assert model.last is not kept
    assert torch.equal(model.last, kept)
    model.train()(IMAGE).sum().backward()
    expected = model.eval()(IMAGE)
    again = binarize.apply(
        binarize.apply(net, method, policy=binarize.Policy(only=["a"]), example_inputs=IMAGE)
    )
    assert again.a.weight.shape == net.a.weight.shape
    packed = binarize.deploy(model, exact_scales=True)
    torch.testing.assert_close(packed(IMAGE), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(copy.deepcopy(packed)(IMAGE), expected, rtol=1e-4, atol=1e-4)
    path = binarize.save(model, tmp_path / "m.safetensors", source={"source": "custom", "class": "t.Keeping"})
    assert torch.equal(binarize.load(path, net)(IMAGE), expected)
    assert binarize.summary(model, (3, 8, 8)).binary_params > 0


@pytest.mark.parametrize("method", ["adabin", "bidense", "bisrnet", "bnn", "reactnet"])
def test_start_values_come_from_a_generator_of_their_own(method: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 2, 2), nn.ReLU(), nn.Conv2d(16, 4, 1))

    def made(generator: torch.Generator | None = None) -> list[Tensor]:
        model = binarize.apply(net, method, example_inputs=IMAGE, generator=generator)
        return list(model.state_dict().values())

    def same(one: list[Tensor], other: list[Tensor]) -> bool:
        return all(map(torch.equal, one, other))

    states = random_states()
    first = made()
    torch.rand(3)
    moved = random_states()
    assert same(first, made())
    assert random_states() == moved
    assert moved != states
    generator = torch.Generator().manual_seed(5)
    five = made(generator)
    assert same(five, made(torch.Generator().manual_seed(5)))
    draws = method in ("bidense", "bisrnet")
    assert same(five, made(generator)) is not draws  # it moved on
    assert same(first, five) is not draws
    torch.manual_seed(5)
    assert same(five, made(torch.default_generator))
    layer = nn.Conv2d(8, 16, 2, 2)
    states = random_states()
    one, other = (binarize.binary_layer(layer, method).state_dict().values() for _ in range(2))
    assert same(list(one), list(other))
    assert random_states() == states
    with pytest.raises(BinarizeError, match=r"generator: got 3.*manual_seed"):
        made(3)  # type: ignore[arg-type]


def ramp() -> Tensor:
    return torch.arange(8.0).view(1, 1, 1, 8)


def by_name(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    cached = functools.lru_cache(function)

    @functools.wraps(function)
    def called() -> Tensor:
        return cached()

    return called


STORED: dict[str, Tensor] = {}
RAMP: Tensor | None = None
cached_ramp = functools.lru_cache(ramp)
wrapped_ramp = by_name(ramp)


class Outside(nn.Module):
    """Keeps a tensor that it makes once; `where` says in which place outside of itself."""

    made: Tensor | None = None
    table: ClassVar[dict[int, Tensor]] = {}
    calls = 0

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x) + getattr(self, self.where)()))

    @functools.lru_cache  # noqa: B019 - as networks do
    def method(self) -> Tensor:
        return ramp()

    def function(self) -> Tensor:
        return cached_ramp()

    def wrapped(self) -> Tensor:
        return wrapped_ramp()

    def default(self, kept: dict[int, Tensor] = {}) -> Tensor:  # noqa: B006 - as networks do
        return kept.setdefault(8, ramp())

    def attribute(self) -> Tensor:
        if Outside.made is None:
            Outside.made = ramp()
        return Outside.made

    def class_table(self) -> Tensor:
        return self.table.setdefault(8, ramp())

    def global_table(self) -> Tensor:
        return STORED.setdefault("ramp", ramp())

    def global_name(self) -> Tensor:
        global RAMP
        RAMP = ramp() if RAMP is None else RAMP
        return RAMP

    def counter(self) -> Tensor:
        type(self).calls += 1
        return torch.full((1, 1, 1, 8), float(self.calls))


OUTSIDE = ["method", "function", "wrapped", "default", "attribute", "class_table", "global_table"]


@pytest.mark.parametrize("where", [*OUTSIDE, "global_name", "counter"])
def test_what_a_forward_keeps_outside_of_the_model_comes_back(where: str) -> None:
    """A run on fake tensors would leave one there, which the model's next run takes."""
    model, x = Outside(where).eval(), torch.rand(1, 3, 8, 8)
    made = binarize.plan(model, "bidense", example_inputs=x)
    assert [row.name for row in made.converted] == ["body.0"]
    binary = execute(made, model).eval()
    plain = model.head(model.body(model.stem(x) + (1.0 if where == "counter" else ramp())))
    assert torch.equal(model(x), plain)
    assert type(binary(x).detach()) is Tensor


def test_what_a_run_imports_stays_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of `catch_warnings`, which detectron2's convolutions call, reaches `sys.modules`."""

    class Late(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            with warnings.catch_warnings():
                sys.modules.setdefault("imported_by_a_run", types.ModuleType("imported_by_a_run"))
                return super().forward(input)

    monkeypatch.delitem(sys.modules, "imported_by_a_run", raising=False)
    model = Late(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    made = binarize.plan(model, "bidense", example_inputs=torch.rand(1, 3, 8, 8))
    assert [row.name for row in made.converted] == ["2"]
    assert "imported_by_a_run" in sys.modules


def test_the_power_iteration_of_spectral_norms_does_not_go_on() -> None:
    """Reading such a weight in training mode changes the vectors that it is computed with."""
    spectral = nn.utils.parametrizations.spectral_norm
    layers = [spectral(nn.Conv2d(8, 8, 3)), spectral(nn.Conv2d(8, 4, 1)), nn.ReLU(), nn.Conv2d(4, 4, 1)]
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *layers, nn.ReLU(), nn.Conv2d(4, 2, 1)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    binary = binarize.apply(model, "bidense", example_inputs=torch.rand(2, 3, 8, 8))
    shapes = {row.name: row.weight_shape for row in binary.binarize_plan.rows}
    assert (shapes["1"], shapes["2"]) == ((8, 8, 3, 3), (4, 8, 1, 1))
    binarize.summary(binary, (3, 8, 8))
    for changed in (model.state_dict(), {n: t for n, t in binary.state_dict().items() if "_u" in n}):
        assert all(torch.equal(tensor, before[name]) for name, tensor in changed.items())
