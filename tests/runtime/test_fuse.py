"""Activations that packed layers take over, and those that they must not."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import binarize
from binarize.layers import RPReLU
from binarize.runtime import deployed_layers
from binarize.runtime.lazy import Interpolated, Small, ordinary
from binarize.runtime.pointwise import PointwiseConv2d


class Net(nn.Module):
    """Two binary layers with an activation between them, and a forward to be chosen."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 3, stride=2, padding=1)
        self.a = nn.Conv2d(40, 40, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(40)
        self.r = nn.ReLU()
        self.b = nn.Conv2d(40, 70, 1, bias=False)
        self.head = nn.Conv2d(70, 5, 1)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def plain(net: Any, x: Tensor) -> Tensor:
    return net.head(net.b(net.r(net.norm(net.a(net.stem(x))))))


def read_elsewhere(net: Any, x: Tensor) -> Tensor:
    y = net.norm(net.a(net.stem(x)))
    return net.head(net.b(net.r(y))) + y.mean()


def called_twice(net: Any, x: Tensor) -> Tensor:
    return net.head(net.r(net.b(net.r(net.norm(net.a(net.stem(x)))))))


def by_size(net: Any, x: Tensor) -> Tensor:
    y = net.norm(net.a(net.stem(x)))
    if x.shape[-1] > 64:
        y = y - y.mean((2, 3), keepdim=True)
    return net.head(net.b(net.r(y)))


def by_value(net: Any, x: Tensor) -> Tensor:
    y = net.norm(net.a(net.stem(x)))
    if bool(y.max() > 1e9):
        y = y * 0
    return net.head(net.b(net.r(y)))


@pytest.mark.parametrize(
    ("forward", "fused"), [(plain, True), (read_elsewhere, False), (called_twice, True), (by_size, False),
                           (by_value, False)],
)  # fmt: skip
@pytest.mark.parametrize("method", ["bidense", "bnn"])
def test_results_stay_the_same_at_every_size(forward: Any, fused: bool, method: str) -> None:
    torch.manual_seed(0)
    options = {"granularity": "layer"} if method == "bidense" else {}
    model = binarize.apply(Net(forward), method, example_inputs=torch.rand(2, 3, 64, 64), **options).eval()
    packed = binarize.deploy(model)
    taken = [name for name, layer in deployed_layers(packed).items() if layer.after is not None]
    shared = forward is called_twice and method == "bnn"  # which keeps the network's ReLU, one for two places
    assert bool(taken) is (fused and not shared)
    for size in ((64, 64), (32, 48), (80, 96)):
        x = torch.rand(2, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(packed(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["bidense", "bnn", "adabin", "bisrnet"])
@pytest.mark.parametrize("options", [{}, {"granularity": "layer"}])
def test_a_float_layer_behind_a_packed_one(method: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    options = options if method == "bidense" else {}
    model = binarize.apply(Net(plain), method, example_inputs=torch.rand(2, 3, 64, 64), **options).eval()
    packed = binarize.deploy(model, exact_scales=False)
    assert packed.b.lazy == "behind"
    x = torch.rand(2, 3, 40, 56)
    with torch.no_grad():
        before = packed(x)
        if method != "bidense" or options:  # tables of scales per channel turn signs of the layer behind
            torch.testing.assert_close(before, model(x), rtol=1e-4, atol=1e-4)
        apart = binarize.deploy(model, exact_scales=False)
        apart.b._lazy = []
        torch.testing.assert_close(before, apart(x), rtol=1e-5, atol=1e-5)
        packed.head.weight.data.mul_(2)
        packed.head.bias.data.mul_(2)
        torch.testing.assert_close(packed(x), 2 * before)
        # alone, too, it is a layer like any other
        seen: list[Tensor] = []
        packed.head.register_forward_hook(lambda module, args, output: seen.append(output))
        torch.testing.assert_close(packed(x), seen[0])


class Upsampled(nn.Module):
    """A binary layer, its map at another size, another binary layer; `between` is done to that map."""

    def __init__(self, between: Any, layer: nn.Module, **how: Any) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 3, stride=2, padding=1)
        self.a = nn.Conv2d(40, 24, 3, padding=1)
        self.b = layer
        self.head = nn.Conv2d(16, 5, 1)
        self.between, self.how = between, how

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(self.a(self.stem(x)), **{"size": x.shape[-2:], "mode": "bilinear"} | self.how)
        return self.head(self.b(self.between(y)))


def as_it_is(y: Tensor) -> Tensor:
    return y


@pytest.mark.parametrize(
    ("layer", "how", "fused"),
    [
        (nn.Conv2d(24, 16, 3, padding=1), {"align_corners": True}, True),
        (nn.Conv2d(24, 16, 3, padding=1), {"align_corners": False}, True),
        (nn.Conv2d(24, 16, 1), {}, True),
        (nn.Conv2d(24, 16, 3), {"align_corners": True}, True),  # its bypass is cropped
        (nn.Conv2d(24, 16, 3, stride=2, padding=2, dilation=2, groups=2), {}, True),
        (nn.ConvTranspose2d(24, 16, 2, stride=2), {}, False),
        (nn.Conv2d(24, 16, 3, padding=1), {"mode": "nearest"}, True),  # found, and made by torch
    ],
)
@pytest.mark.parametrize("options", [{"granularity": "layer"}, {}, {"granularity": "none"}])
def test_interpolated_maps(
    layer: nn.Module, how: dict[str, Any], fused: bool, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    method, options = ("bnn", {}) if options.get("granularity") == "none" else ("bidense", options)
    net = Upsampled(as_it_is, layer, **how)
    model = binarize.apply(net, method, example_inputs=torch.rand(2, 3, 32, 32), **options).eval()
    packed = binarize.deploy(model, exact_scales=False)
    assert packed.a.lazy == ("small" if fused else None)
    for size in ((32, 32), (18, 27)):
        x = torch.rand(2, 3, *size)
        with torch.no_grad():
            y = packed(x)
            assert type(y) is Tensor
            lazy, packed.a._lazy = packed.a._lazy, []
            assert torch.isclose(y, packed(x), rtol=1e-4, atol=1e-4).float().mean() > 0.99
            packed.a._lazy = lazy


def test_interpolated_maps_are_tensors_to_others() -> None:
    torch.manual_seed(0)
    seen: list[Tensor] = []
    net = Upsampled(as_it_is, nn.Conv2d(24, 16, 3, padding=1), align_corners=True)
    model = binarize.apply(
        net, "bidense", example_inputs=torch.rand(1, 3, 32, 32), granularity="layer"
    ).eval()
    packed = binarize.deploy(model)
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        plain = packed(x)
        handle = packed.b.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        packed(x)
        handle.remove()
        small = packed.a(packed.stem(x))
        assert isinstance(seen[0], Interpolated)
        assert isinstance(small, Small)
        wanted = F.interpolate(ordinary(small), size=(32, 32), mode="bilinear", align_corners=True)
        assert seen[0].shape == wanted.shape
        for result in (seen[0] + 0, torch.cat([seen[0]]), seen[0].clone(), seen[0][:]):
            assert type(result) is Tensor
            assert torch.equal(result, wanted)
        assert "tensor(" in repr(seen[0])
        assert type(small * 2) is Tensor
        assert type(torch.relu(small)) is Tensor
        assert torch.equal(copy.deepcopy(packed)(x), plain)
        # without the interpolation, too, the kernels do it, not torch
        wanted = packed.b(ordinary(small))
        packed.b.reference = None
        assert torch.equal(packed.b(small), wanted)
        del packed.b.reference
        # what the graph did not show: another use of the map
        packed.between = lambda y: y * 1.0
        torch.testing.assert_close(packed(x), plain, rtol=1e-4, atol=1e-4)


def head_read(net: Any, x: Tensor) -> Tensor:
    y = net.b(net.r(net.norm(net.a(net.stem(x)))))
    return net.head(y) + y.mean()


def head_called_twice(net: Any, x: Tensor) -> Tensor:
    y = net.r(net.norm(net.a(net.stem(x))))
    return net.head(net.b(y)) + net.head(net.b(-y))


@pytest.mark.parametrize("forward", [head_read, head_called_twice])
def test_a_float_layer_that_is_not_alone_stays(forward: Any) -> None:
    torch.manual_seed(0)
    policy = binarize.Policy(first=0, last=0, keep=["stem", "head"])  # b's result is in the output, too
    model = binarize.apply(Net(forward), "bnn", policy=policy, example_inputs=torch.rand(2, 3, 64, 64)).eval()
    packed = binarize.deploy(model)
    assert packed.b.lazy is None
    x = torch.rand(2, 3, 40, 56)
    with torch.no_grad():
        torch.testing.assert_close(packed(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_hooked_activation_stays() -> None:
    model = binarize.apply(Net(plain), "reactnet", example_inputs=torch.rand(1, 3, 64, 64)).eval()
    seen: list[Tensor] = []
    activation = next(m for m in model.modules() if isinstance(m, RPReLU))
    activation.register_forward_hook(lambda module, args, output: seen.append(output))
    packed = binarize.deploy(model)
    seen.clear()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        model(x)
        packed(x)
    assert len(seen) % 2 == 0
    for ours, theirs in zip(seen[: len(seen) // 2], seen[len(seen) // 2 :], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_pointwise_convolutions() -> None:
    conv = nn.Conv2d(24, 7, 1).requires_grad_(False)
    fast = nn.Conv2d(24, 7, 1).requires_grad_(False)
    fast.load_state_dict(conv.state_dict())
    fast.__class__ = PointwiseConv2d
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for shape in ((2, 24, 9, 5), (24, 9, 5), (1, 24, 480, 400)):
                x = torch.rand(shape)
                torch.testing.assert_close(fast(x), conv(x))
                if len(shape) == 4:
                    x = x.contiguous(memory_format=torch.channels_last)
                    torch.testing.assert_close(fast(x), conv(x))
    finally:
        torch.set_num_threads(threads)


def small_relu(net: Any, x: Tensor) -> Tensor:
    y = net.b(net.r(net.norm(net.a(net.stem(x)))))
    return net.head(torch.relu(y) if x.shape[-1] <= 64 else y)


def small_module(net: Any, x: Tensor) -> Tensor:
    y = net.b(net.r(net.norm(net.a(net.stem(x)))))
    return net.head(net.r(y) if x.shape[-1] <= 64 else y)


def by_channels(net: Any, x: Tensor) -> Tensor:
    y = net.b(net.r(net.norm(net.a(net.stem(x)))))
    assert y.shape[1] == net.head.in_channels
    return net.head(y) * y.shape[1] ** -0.5


def beside(net: Any, x: Tensor) -> Tensor:
    y = net.b(net.r(net.norm(net.a(net.stem(x)))))
    net.seen = y
    return net.head(y)


def transformed(net: Any, x: Tensor) -> Tensor:
    y = net.b(net.r(net.norm(net.a(net.stem(x)))))
    return net.head(y) + torch.vmap(lambda t: t.mean())(y).view(-1, 1, 1, 1)


def by_batch(net: Any, x: Tensor) -> Tensor:
    y = net.b(net.r(net.norm(net.a(net.stem(x)))))
    return net.head(y if len(x) == 2 else y * 2)


@pytest.mark.parametrize(
    "forward",
    [small_relu, small_module, by_channels, beside, transformed, by_batch],
    ids=lambda f: f.__name__,
)
def test_what_the_runs_did_not_show(forward: Any) -> None:
    torch.manual_seed(0)
    model = binarize.apply(Net(forward), "reactnet", example_inputs=torch.rand(2, 3, 64, 64)).eval()
    packed = binarize.deploy(model)
    for shape in ((2, 3, 64, 64), (2, 3, 32, 48), (1, 3, 80, 96)):
        x = torch.rand(shape)
        with torch.no_grad():
            torch.testing.assert_close(packed(x), model(x), rtol=1e-4, atol=1e-4)
            if forward is beside:
                torch.testing.assert_close(packed.seen + 0, model.seen, rtol=1e-4, atol=1e-4)


def test_parts_of_a_fused_network_are_networks() -> None:
    torch.manual_seed(0)
    model = binarize.apply(Net(plain), "reactnet", example_inputs=torch.rand(2, 3, 64, 64)).eval()
    packed = binarize.deploy(model)
    x, feature = torch.rand(2, 3, 64, 64), torch.rand(2, 70, 8, 8)
    with torch.no_grad():
        wanted = packed(x)
        torch.testing.assert_close(packed.head(feature), model.head(feature))
        torch.testing.assert_close(copy.deepcopy(packed.head)(feature), model.head(feature))
        front = packed.r(packed.norm(packed.a(packed.stem(x))))
        result = packed.b(front)
        assert result.shape == (2, 70, 32, 32)
        assert copy.deepcopy(result).shape == pickle.loads(pickle.dumps(result)).shape == result.shape
        assert type(pickle.loads(pickle.dumps(result))) is Tensor
        assert result.numpy().shape == result.shape
        with warnings.catch_warnings(action="ignore"):
            script = torch.jit.script(_twice)
        assert type(script(result)) is Tensor
        changed = packed.b(front)
        changed.mul_(2)
        torch.testing.assert_close(packed.head(changed), packed.head(result * 2))
        late = packed.b(front)
        front.zero_()
        with pytest.raises(binarize.errors.ConfigError, match="changed in place"):
            packed.head(late)
        packed.b.register_forward_hook(lambda module, args, output: seen.append(output + 0))
        seen: list[Tensor] = []
        torch.testing.assert_close(packed(x), wanted)
        assert seen[0].shape[1] == 70
        packed.head = nn.Identity()
        assert packed(x).shape[1] == 70
    # a head that is trained further gets its gradient
    packed = binarize.deploy(model)
    packed.head.requires_grad_(True)
    packed(x).sum().backward()
    assert packed.head.weight.grad is not None


def _twice(x: Tensor) -> Tensor:
    return x * 2
