"""Stems that are done in one go, and those that must not be."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import binarize
from binarize import native
from binarize.layers import BiasPReLU, Maxout, RPReLU
from binarize.native import features
from binarize.runtime import deployed_layers, kernels, stem
from binarize.runtime.stem import Begun, StemConv2d

pytestmark = pytest.mark.skipif(features().isa != "avx512", reason="torch does stems here, or some of them")


class Net(nn.Module):
    """A stem, two binary layers, and a forward to be chosen."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 24, 7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(24)
        self.act = nn.ReLU()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.a = nn.Conv2d(24, 40, 3, padding=1, bias=False)
        self.b = nn.Conv2d(40, 40, 3, padding=1, bias=False)
        self.head = nn.Conv2d(40, 5, 1)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def plain(net: Any, x: Tensor) -> Tensor:
    return net.head(net.b(net.a(net.pool(net.act(net.norm(net.conv(x)))))))


def shaken(net: nn.Module) -> nn.Module:
    """The same with numbers as training leaves them."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
            for parameter in module.parameters():
                nn.init.normal_(parameter)
        if isinstance(module, (BiasPReLU, Maxout, nn.PReLU)):
            for parameter in module.parameters():
                nn.init.normal_(parameter)
    return net


def pair(forward: Any = plain, **modules: nn.Module) -> tuple[Any, Any]:
    """A converted network with these modules (and a ReLU in place), and its deployed copy."""
    torch.manual_seed(0)
    options = {"granularity": "layer", "example_inputs": torch.rand(2, 3, 64, 64)}
    model = binarize.apply(Net(forward), "bidense", **options).eval()
    for name, module in ({"act": nn.ReLU(inplace=True)} | modules).items():
        setattr(model, name, copy.deepcopy(module).eval())
    return model, binarize.deploy(shaken(model))


def check(packed: Any, model: Any, *sizes: tuple[int, ...], atol: float = 1e-4) -> None:
    for shape in sizes or ((2, 3, 64, 64), (1, 3, 41, 70), (3, 3, 32, 32)):
        x = torch.rand(shape)
        with torch.no_grad():
            torch.testing.assert_close(front(packed, x), front(model, x), rtol=1e-5, atol=1e-5)
            y, expected = packed(x), model(x)
        # a value on a threshold may turn a sign: few do
        assert torch.isclose(y, expected, rtol=1e-4, atol=atol).float().mean() > 0.98


def front(net: Any, x: Tensor) -> Tensor:
    y = net.pool(net.act(net.norm(net.conv(x))))
    assert type(y) is Tensor
    return y


def all_done(packed: Any) -> bool:
    """Whether the convolution does all of the stem."""
    return type(packed.conv) is StemConv2d and packed.conv.parts == (packed.norm, packed.act, packed.pool)


ACTIVATIONS = [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardtanh(-0.3, 0.8), nn.PReLU(), nn.PReLU(24),
               BiasPReLU(24), RPReLU(24), Maxout(24)]  # fmt: skip


@pytest.mark.parametrize("act", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_stems_of_every_activation(act: nn.Module) -> None:
    model, packed = pair(act=act)
    assert all_done(packed)
    assert type(model.act) is type(act)
    assert str(packed.act) == str(model.act)
    check(packed, model)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_bias_and_norms_without_parameters(bias: bool, affine: bool) -> None:
    conv, norm = nn.Conv2d(3, 24, 3, padding=1, bias=bias), nn.BatchNorm2d(24, affine=affine)
    model, packed = pair(conv=conv, norm=norm)
    assert all_done(packed)
    check(packed, model)


def without_pool(net: Any, x: Tensor) -> Tensor:
    return net.head(net.b(net.a(net.act(net.norm(net.conv(x))))))


def only_norm(net: Any, x: Tensor) -> Tensor:
    return net.head(net.b(net.a(torch.sigmoid(net.norm(net.conv(x))))))


def only_pool(net: Any, x: Tensor) -> Tensor:
    return net.head(net.b(net.a(net.pool(net.conv(x)))))


def pool_first(net: Any, x: Tensor) -> Tensor:
    return net.head(net.b(net.a(net.act(net.pool(net.norm(net.conv(x)))))))


def features_out(net: Any, x: Tensor) -> Tensor:
    y = net.act(net.norm(net.conv(x)))
    return net.head(net.b(net.a(net.pool(y)))) + y.mean()


def raw_out(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.head(net.b(net.a(net.pool(net.act(net.norm(y)))))) + y.mean()


def scaled_between(net: Any, x: Tensor) -> Tensor:
    return net.head(net.b(net.a(net.pool(net.act(net.norm(net.conv(x)) * 2)))))


def something_else_between(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    x.mul_(1.0)
    return net.head(net.b(net.a(net.pool(net.act(net.norm(y))))))


def conv_called_twice(net: Any, x: Tensor) -> Tensor:
    y = net.conv(-x).mean()
    return net.head(net.b(net.a(net.pool(net.act(net.norm(net.conv(x))))))) + y


def norm_called_twice(net: Any, x: Tensor) -> Tensor:
    return net.head(net.b(net.a(net.pool(net.act(net.norm(net.norm(net.conv(x))))))))


def weight_read(net: Any, x: Tensor) -> Tensor:
    return net.head(net.b(net.a(net.pool(net.act(net.norm(net.conv(x))))))) + net.norm.weight.mean()


def by_size(net: Any, x: Tensor) -> Tensor:
    y = net.norm(net.conv(x))
    return net.head(net.b(net.a(net.pool(net.act(y if x.shape[-1] <= 64 else y - 1)))))


@pytest.mark.parametrize(
    ("forward", "parts"),
    [
        (without_pool, ["norm", "act"]),
        (only_norm, ["norm"]),
        (only_pool, ["pool"]),
        (pool_first, ["norm", "pool"]),
        (features_out, ["norm", "act"]),
        (scaled_between, ["norm"]),
        (weight_read, []),
        (raw_out, []),
        (something_else_between, []),
        (conv_called_twice, []),
        (norm_called_twice, []),
        (by_size, []),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_read_otherwise_stays(forward: Any, parts: list[str]) -> None:
    model, packed = pair(forward)
    done = packed.conv.parts.there if type(packed.conv) is StemConv2d else ()
    assert done == tuple(getattr(packed, name) for name in parts)
    for shape in ((2, 3, 64, 64), (1, 3, 41, 70), (2, 3, 96, 96)):
        x = torch.rand(shape)
        with torch.no_grad():
            close = torch.isclose(packed(x.clone()), model(x.clone()), rtol=1e-4, atol=1e-4)
        assert close.float().mean() > 0.98


@pytest.mark.parametrize(
    "change",
    [
        {"conv": nn.Conv2d(3, 24, 3, groups=3)},
        {"conv": nn.Conv2d(3, 24, 3, dilation=2)},
        {"conv": nn.Conv2d(3, 24, 3, padding=1, padding_mode="reflect")},
        {"conv": nn.Conv2d(3, 24, 3, padding="same")},
        {"norm": nn.BatchNorm2d(24, track_running_stats=False)},
        {"norm": nn.InstanceNorm2d(24), "act": nn.SiLU()},
        {"pool": nn.MaxPool2d(3, 2, ceil_mode=True)},
        {"pool": nn.MaxPool2d(3, 2, dilation=2)},
    ],
    ids=str,
)
def test_modules_of_other_kinds_stay(change: dict[str, nn.Module]) -> None:
    model, packed = pair(**change)
    assert not (type(packed.conv) is StemConv2d and set(change) & {"conv", "norm"})
    assert "pool" not in change or packed.conv.parts.there == (packed.norm, packed.act)
    check(packed, model)


@pytest.mark.parametrize("name", ["conv", "norm", "act", "pool"])
def test_hooks_see_what_they_saw(name: str) -> None:
    model, packed = pair()
    assert all_done(packed)
    seen: list[Tensor] = []
    x = torch.rand(2, 3, 40, 56)
    with torch.no_grad():
        wanted = packed(x)
        for net in (model, packed):
            module = getattr(net, name)
            module.register_forward_hook(lambda module, args, output: seen.append(output + 0))
            module.register_forward_pre_hook(lambda module, args: seen.append(args[0] + 0))
        model(x)
        torch.testing.assert_close(packed(x), wanted, rtol=1e-4, atol=1e-4)
        for ours, theirs in zip(seen[2:], seen[:2], strict=True):
            assert type(ours) is Tensor
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        # and there from the beginning
        hooked = binarize.deploy(model)
        seen.clear()
        hooked(x)
        assert len(seen) == 2
    assert not all_done(hooked)


@pytest.mark.parametrize(("isa", "done"), [("portable", []), ("avx2", ["pool"]), ("avx512", ["pool", "act"])])
def test_what_is_slower_stays(isa: Any, done: list[str]) -> None:
    try:
        native.set_isa(isa)
        for forward, name in ((plain, "pool"), (without_pool, "act")):
            model, packed = pair(forward)
            assert (type(packed.conv) is StemConv2d) == (name in done)
            check(packed, model)
    finally:
        native.set_isa("auto")


def test_hooks_may_change_what_they_see() -> None:
    model, packed = pair()
    for net in (model, packed):
        net.norm.register_forward_hook(lambda module, args, output: output * 2)
    check(packed, model)
    for net in (model, packed):
        net.act.register_forward_pre_hook(lambda module, args: (args[0].add_(0.5),))
    check(packed, model)


def test_names_and_tensors_stay() -> None:
    model, packed = pair()
    front_of = {
        k: v for k, v in model.state_dict().items() if k.split(".")[0] in ("conv", "norm", "act", "pool")
    }
    state = packed.state_dict()
    assert list(front_of) == [k for k in state if k.split(".")[0] in ("conv", "norm", "act", "pool")]
    assert all(torch.equal(state[k], v) for k, v in front_of.items())


@pytest.mark.parametrize("how", ["load", "assign", "data", "copied", "double and back", "eps"])
def test_changes_of_weights_are_seen(how: str) -> None:
    model, packed = pair(act=nn.PReLU() if how == "copied" else RPReLU(24))
    x = torch.rand(2, 3, 40, 56)
    if how == "copied":  # the kernel cannot read the network's own memory
        packed.conv.to(memory_format=torch.channels_last)
    with torch.no_grad():
        before = front(packed, x)
        for name in ("conv", "norm", "act"):
            ours, theirs = getattr(packed, name), getattr(model, name)
            for parameter in theirs.parameters():
                parameter.data.mul_(1.5)
            if how in ("load", "assign"):
                ours.load_state_dict(copy.deepcopy(theirs.state_dict()), assign=how == "assign")
            else:
                for parameter in ours.parameters():
                    parameter.data.mul_(1.5)
        if how == "eps":
            model.norm.eps = packed.norm.eps = 0.3
        if how == "double and back":
            packed.double()
            assert front(packed, x.double()).dtype == torch.float64
            packed.float()
        model.norm.running_mean.add_(0.1)
        packed.norm.running_mean.add_(0.1)
        after = front(packed, x)
        assert not torch.allclose(after, before, atol=1e-2)
        torch.testing.assert_close(after, front(model, x), rtol=1e-5, atol=1e-5)
    check(packed, model)


def test_only_plain_calls_are_done_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    model, packed = pair()
    calls: list[int] = []
    monkeypatch.setattr(stem.PreparedStem, "__call__", lambda *args, **kwargs: calls.append(1))
    x = torch.rand(2, 3, 40, 56)
    same = {"rtol": 0, "atol": 0}
    with torch.no_grad():
        torch.testing.assert_close(packed.conv(x[0]), model.conv(x[0]), **same)  # no batch
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(front(packed, x), front(model, x), **same)
        mapped = torch.vmap(lambda t: packed.conv(t[None]))(x)
        torch.testing.assert_close(mapped, torch.vmap(lambda t: model.conv(t[None]))(x), **same)
        with warnings.catch_warnings(action="ignore"):
            traced = torch.jit.trace(packed.conv, x, check_trace=False)
        torch.testing.assert_close(traced(x), model.conv(x), **same)
        with pytest.raises(RuntimeError, match="channels"):
            packed.conv(x[:, :2])
        assert packed.conv(x[:0]).shape == (0, 24, 20, 28)

    # gradients by a transform, of the input, and of parameters that learn again
    def total(weight: Tensor, conv: nn.Module) -> Tensor:
        return torch.func.functional_call(conv, {"weight": weight}, (x,)).sum()

    ours, theirs = (torch.func.grad(total)(net.conv.weight, net.conv) for net in (packed, model))
    torch.testing.assert_close(ours, theirs, **same)
    x.requires_grad_(True)
    (ours,), (theirs,) = (torch.autograd.grad(front(net, x).sum(), x) for net in (packed, model))
    torch.testing.assert_close(ours, theirs, **same)
    packed.norm.weight.requires_grad_(True)
    front(packed, x.detach()).sum().backward()
    assert packed.norm.weight.grad is not None
    packed.norm.weight.requires_grad_(False)
    # training mode: statistics of the batch, and of the run
    x = x.detach()
    for net in (packed, model):
        net.train()
    with torch.no_grad():
        torch.testing.assert_close(front(packed, x), front(model, x), **same)
    torch.testing.assert_close(packed.norm.running_mean, model.norm.running_mean, **same)
    assert not calls
    packed.eval()
    with torch.no_grad(), pytest.raises(Exception, match="NoneType"):
        packed.conv(x)  # the stand-in gives nothing
    assert calls


def test_parts_and_copies_are_networks() -> None:
    model, packed = pair()
    x = torch.rand(2, 3, 40, 56)
    with torch.no_grad():
        wanted = packed(x)
        for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
            assert all_done(other)
            assert torch.equal(other(x), wanted)
        begun = packed.conv(x)
        assert type(begun) is Begun
        assert begun.shape == (2, 24, 20, 28)
        y = packed.norm(begun)
        torch.testing.assert_close(packed.norm(begun), model.norm(model.conv(x)))  # once more
        torch.testing.assert_close(begun + 0, model.conv(x))
        torch.testing.assert_close(packed.pool(y), model.pool(model.norm(model.conv(x))))  # another module
        torch.testing.assert_close(F.relu(y), model.act(model.norm(model.conv(x))))
        changed = packed.conv(x)
        changed.mul_(2)
        rest = (net.pool(net.act(net.norm(y))) for net, y in ((packed, changed), (model, model.conv(x) * 2)))
        torch.testing.assert_close(*rest)
        alone = copy.deepcopy(packed.conv)
        torch.testing.assert_close(alone(x) + 0, model.conv(x))
        packed.norm = nn.Identity()
        model.norm = nn.Identity()
        torch.testing.assert_close(front(packed, x), front(model, x))


def test_an_activation_in_place_changes_what_it_is_given() -> None:
    model, packed = pair()
    x = torch.rand(2, 3, 40, 56)
    results = []
    with torch.no_grad():
        for net in (model, packed):
            y = net.norm(net.conv(x))
            z = net.act(y)
            results.append(y + 0)
            assert torch.equal(y + 0, z + 0)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("forward", [plain, without_pool])
def test_the_layer_behind_takes_its_sums(mode: Any, forward: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, packed = pair(forward)
    found: list[bool] = []

    def taken(link: Any, maps: Tensor) -> Tensor | None:
        sums = binarize.runtime.statistics.taken(link, maps)
        found.append(sums is not None)
        if sums is not None:
            torch.testing.assert_close(sums, maps.sum((2, 3)), rtol=1e-4, atol=1e-3)
        return sums

    monkeypatch.setattr(kernels, "taken", taken)
    assert packed.conv.sums_for is deployed_layers(packed)["a"].sums_from is not None
    x = torch.rand(2, 3, 48, 48)
    with mode():
        packed(x)
    assert found == [True, True]


@pytest.mark.parametrize("threads", [1, 2])
def test_saved_and_loaded(threads: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = binarize.apply(shaken(Net(plain)), "bidense", example_inputs=torch.rand(1, 3, 64, 64)).eval()
    packed = binarize.deploy(model)
    file = binarize.save(packed, tmp_path / "packed.safetensors", packed=True)
    loaded: Any = binarize.load(file, model=Net(plain))
    assert all_done(loaded)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), packed(x))
    again: Any = binarize.deploy(model, threads=threads)
    assert again.conv._threads == threads
    check(again, model)


def test_reports_name_the_classes_of_the_network() -> None:
    model, packed = pair()
    rows = {row.name: row for row in packed.deploy_report.layers}
    assert rows["conv"].kind == "Conv2d"
    assert rows["conv"].reason.endswith("; one kernel with BatchNorm2d, ReLU, MaxPool2d behind it")
    ours, theirs = (binarize.summary(net, (3, 64, 64)) for net in (packed, model))
    mine = {layer.name: layer for layer in ours.layers}
    for layer in theirs.layers:
        if layer.name in ("conv", "norm", "act", "pool"):
            assert mine[layer.name] == layer
    with torch.no_grad():
        compiled = torch.compile(packed.conv, backend="eager", fullgraph=True)
        x = torch.rand(1, 3, 32, 32)
        torch.testing.assert_close(compiled(x), model.conv(x))
        exported = torch.export.export(nn.Sequential(packed.conv, packed.norm, packed.act, packed.pool), (x,))
        torch.testing.assert_close(exported.module()(x), front(model, x))
