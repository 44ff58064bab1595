"""What `binarize.inspect` finds in small networks, against independent computations."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import binarize
from binarize import inspect
from binarize.errors import ConfigError
from binarize.inspect import style
from binarize.inspect.binarizers import find_binarizers
from binarize.inspect.roles import OTHERS, block_of, role_of, roles_of
from binarize.inspect.section import Section
from binarize.layers import BinaryConv2d, BinaryLinear


class Net(nn.Module):
    """A stem, then binary layers one behind the other."""

    def __init__(self, method: str = "reactnet", **options: object) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = BinaryConv2d(8, 8, 3, padding=1, method=method, **options)
        self.second = BinaryConv2d(8, 16, 3, stride=2, padding=1, method=method, **options)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(self.stem(x))))


def images(*counts: int) -> list[Tensor]:
    return [torch.randn(count, 3, 12, 10) for count in counts]


def bits(p: float) -> float:
    return -sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)


def test_entropy_by_hand():
    net = Net().eval()
    net.first.quantizer.beta.data.normal_(0, 0.5)
    batches = images(2, 3)
    found = inspect.entropy(net, batches)
    assert found.layers == ("first", "second")
    with torch.no_grad():
        upper = (net.stem(torch.cat(batches)) + net.first.quantizer.beta >= 0).double()
    for image in range(5):
        each = [bits(upper[image, c].mean().item()) for c in range(8)]
        assert found.per_image[image, 0] == pytest.approx(sum(each) / 8)
    shares = [upper[:, c].mean().item() for c in range(8)]
    assert found.pooled[0] == pytest.approx([bits(p) for p in shares])
    assert found.upper[0] == pytest.approx(shares)
    assert list(found.positions) == [120, 120]
    assert found.dead == (0, 0)


def test_entropy_of_dead_channels_and_modes_restored():
    net = Net()
    net.second.eval()
    net.first.quantizer.beta.data[0, 2] = 1e6  # always +1
    net.first.quantizer.beta.data[0, 3] = -1e6
    before = {name: value.clone() for name, value in net.state_dict().items()}
    done: list[int] = []
    found = inspect.entropy(net, [(x, torch.zeros(len(x))) for x in images(2, 1)], report=done.append)
    assert found.dead[0] == 2
    assert found.pooled[0][2] == found.pooled[0][3] == 0
    assert (found.upper[0][2], found.upper[0][3]) == (1, 0)
    assert done == [2, 3]
    assert net.training
    assert net.first.training
    assert not net.second.training
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    "method", ["bnn", "reactnet", "adabin", "bisrnet", "bidense", "bit", "xnor", "lqnet"]
)
def test_packed_networks_give_the_bits_of_the_trained_ones(method: str):
    options = {"xnor": {"activation_scale": False}, "lqnet": {"activation_bits": 2, "weight_bits": 2}}
    net = Net(method, **options.get(method, {}))
    if method == "lqnet":  # its levels start from what it sees in training
        net(images(4)[0])
    for name, parameter in net.named_parameters():
        if ".quantizer." in name:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    net.eval()
    packed = binarize.deploy(net)
    x = images(2)[0]
    for one, other in zip(find_binarizers(net), find_binarizers(packed), strict=True):
        assert (one.name, one.bits, one.dim) == (other.name, other.bits, other.dim)
        probe = torch.randn(2, 8, 5, 6)
        codes = one.codes(probe)
        assert codes.equal(other.codes(probe))
        assert len(codes.unique()) == 2**one.bits
    trained, deployed = inspect.entropy(net, [x]), inspect.entropy(packed, [x])
    assert deployed.layers == trained.layers
    assert deployed.per_image[:, 0] == pytest.approx(trained.per_image[:, 0])


def test_entropy_of_several_bits():
    net = Net("lqnet", activation_bits=2)
    net(images(8)[0])
    net.eval()
    found = inspect.entropy(net, images(3))
    top = found.bits[0]
    assert top > 1
    assert 1 < found.means[0] <= top  # the levels are all used


def test_entropy_of_channels_last_and_of_windows():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = BinaryLinear(6, 4, method="reactnet", kind="token")

        def forward(self, x: Tensor) -> Tensor:
            windows = x.reshape(2 * len(x), 5, 6)  # two windows of each image, as Swin has them
            return self.linear(windows)

    net, x = Tokens().eval(), torch.randn(3, 10, 6)
    found = inspect.entropy(net, [x])
    shares = (x >= 0).double().mean(1)
    expected = [np.mean([bits(p) for p in row]) for row in shares.tolist()]
    assert found.per_image[:, 0] == pytest.approx(expected)


def test_parameters_by_name_role_and_order():
    net = Net("bidense")
    net.first.quantizer.k.data.fill_(0.25)
    found = inspect.parameters(net, order=("second",))
    assert found.layers == ("second", "first")
    assert set(found.values) == {"a", "k", "b"}
    assert found.values["k"][1] == pytest.approx([0.25] * 8)
    assert found.means["k"][1] == pytest.approx(0.25)
    packed = inspect.parameters(binarize.deploy(net.eval()))
    assert set(packed.values) == {"a", "k", "b"}
    assert packed.values["b"][0] == pytest.approx(net.first.quantizer.b.detach().flatten().tolist())
    assert inspect.parameters(Net("bnn")).values == {}
    assert "weight.rotation" not in inspect.parameters(Net("reactnet")).values
    assert any(name.startswith("weight.") for name in inspect.parameters(Net("rbnn")).values)
    with pytest.raises(ConfigError, match="'third', which is not a binary layer"):
        inspect.parameters(net, order=("third",))


@pytest.mark.parametrize(
    ("name", "role", "block"),
    [
        ("encoder.stages_1.blocks.0.mlp.fc1", "mlp.fc1", "encoder.stages_1.blocks.0"),
        ("encoder.stages_1.downsample.1", "downsample", "encoder.stages_1"),
        ("layer2.0.conv1", "conv1", "layer2.0"),
        ("layer2.0.downsample.0", "downsample", "layer2.0"),
        ("blocks.11.attn.qkv", "attn.qkv", "blocks.11"),
        ("fpn.laterals.2", "fpn.laterals", "fpn.laterals"),
        ("head.conv", "head.conv", "head"),
        ("conv1", "conv1", "conv1"),
    ],
)
def test_roles_and_blocks(name: str, role: str, block: str):
    assert role_of(name) == role
    assert block_of(name) == block


def test_places_of_layers_in_one_picture():
    found, names = style.places([["a", "b.c", "d"], ["a", "d"], ["b", "d.x"]])
    assert names == ["a", "b.c", "d"]
    assert [list(one) for one in found] == [[0, 1, 2], [0, 2], [1, 2]]
    found, names = style.places([["a", "b", "c"], ["x", "a"]])
    assert names == ()
    assert [list(one) for one in found] == [[0, 0.5, 1], [0, 1]]


def test_names_are_no_formulas():
    figure = style.figure(4, 3)
    axes = figure.subplots()
    axes.plot([0, 1], [1e-3, 1e3], label="runs/$x$")
    axes.set_yscale("log")
    axes.set_xticks([0, 1], ["$a$", "b_1"])
    style.legend_above(figure, axes)
    section = Section(name="a", analysis="entropy", title="t", figure=figure, findings=(), rows=[], data={})
    svg = section.picture("svg").decode()
    for text in ("runs/$x$", "$a$", "b_1"):
        assert f">{text}</text>" in svg
    assert ">$\\mathdefault" not in svg  # the powers of 10 of the other axis are still drawn as such


def test_rare_roles_are_taken_together():
    names = [f"blocks.{i}.{part}" for i in range(2) for part in "abcdefg"] + ["out"]
    found = roles_of(names)
    assert found[-1] == OTHERS
    assert len(set(found)) == 6


def test_bypass_shares_of_known_variances():
    net = Net("bidense").eval()
    batches = images(3, 2)
    found = inspect.bypass_shares(net, batches)
    with torch.no_grad():
        x = net.stem(torch.cat(batches))
        y = net.first(x)
    b, f = x.double(), (y - x).double()

    def variance(t: Tensor) -> float:
        return t.transpose(0, 1).flatten(1).var(1, unbiased=False).sum().item()

    assert found.layers == ("first", "second")
    assert found.bypass[0] == pytest.approx(variance(b), rel=1e-5)
    assert found.branch[0] == pytest.approx(variance(f), rel=1e-5)
    assert found.share[0] == pytest.approx(variance(b) / (variance(b) + variance(f)), rel=1e-5)
    covariance = (variance(b + f) - variance(b) - variance(f)) / 2
    assert found.covariance[0] == pytest.approx(covariance, rel=1e-4, abs=1e-6)
    assert found.explained[0] == pytest.approx((variance(b) + covariance) / variance(b + f), rel=1e-4)
    packed = inspect.bypass_shares(binarize.deploy(net), batches)
    assert packed.share == pytest.approx(found.share, rel=1e-3)


def test_bypass_shares_at_the_ends():
    net = Net("bidense").eval()
    net.first.norm.weight.data.zero_()  # nothing but the bypass
    net.second.bypass = None
    found = inspect.bypass_shares(net, images(2))
    assert found.layers == ("first",)
    assert found.without == ("second",)
    assert found.share[0] == pytest.approx(1)
    assert inspect.bypass_shares(Net("bnn"), images(1)).layers == ()


def test_feature_maps_are_means_over_channels():
    net = Net().eval()
    batches = images(2, 1)
    found = inspect.feature_maps(net, batches)
    with torch.no_grad():
        x = net.stem(torch.cat(batches))
    assert found.layer == "first"
    signs = torch.where(x >= 0, 1.0, -1.0)
    for image in range(3):
        assert found.before[image] == pytest.approx(x[image].mean(0).numpy(), abs=1e-6)
        assert found.after[image] == pytest.approx(signs[image].mean(0).numpy(), abs=1e-6)
    assert found.entropy == pytest.approx(inspect.entropy(net, batches).per_image[:, 0])
    with pytest.raises(ConfigError, match="no binary layer"):
        inspect.feature_maps(nn.Conv2d(3, 3, 1), batches)


def test_latent_weights_and_flips():
    start = Net().eval()
    net = copy.deepcopy(start)
    with torch.no_grad():
        net.second.weight[:4].neg_()  # a quarter of the filters
        net.first.weight[0].abs_()
        before = start.first.weight[0] < 0
    history = [{"epoch": 1, "loss": 1.0, "flipped": 0.5, "dead": 0.25}, {"epoch": 2, "loss": 1.0}]
    found = inspect.latent_weights(net, initial=start, history=history)
    assert found.layers == ("first", "second")
    assert list(found.weights) == [576, 1152]
    assert found.positive[0] == pytest.approx((net.first.weight >= 0).double().mean().item())
    assert found.flipped is not None
    assert found.flipped[0] == pytest.approx(before.sum().item() / 576)
    assert found.flipped[1] == 0.25
    assert found.constant[0] == 1
    assert found.size[0] == pytest.approx(net.first.weight.abs().mean().item(), rel=1e-5)
    assert found.histogram.sum(1) == pytest.approx([1, 1])
    assert (list(found.epochs), list(found.flipped_in_epoch)) == ([1], [0.5])
    same = inspect.latent_weights(start, initial=start)
    assert same.never_flipped == ("first", "second")
    packed = inspect.latent_weights(binarize.deploy(net), initial=start)
    assert packed.flipped == pytest.approx(found.flipped)
    assert packed.positive == pytest.approx(found.positive)
    assert np.isnan(packed.size).all()
    assert inspect.latent_weights(net).flipped is None


def test_gradients_against_autograd():
    net = Net("bidense").eval()
    batches = [(x, torch.randint(2, (len(x), 6, 5))) for x in images(4, 4)]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    found = inspect.gradients(net, batches, loss)
    assert all(p.grad is None for p in net.parameters())
    assert not net.training
    twin = copy.deepcopy(net).train()
    squares = []
    for batch in batches:
        (gradient,) = torch.autograd.grad(loss(twin, batch), twin.first.weight)
        squares.append(gradient.double().square().sum().item())
    norm = math.sqrt(sum(squares) / 2)
    assert found.norm[0] == pytest.approx(norm, rel=1e-5)
    assert found.relative[0] == pytest.approx(norm / net.first.weight.double().norm().item(), rel=1e-5)
    assert found.dead == ()


def test_layers_without_gradient_are_named():
    net = Net("bidense")
    net.second.norm.weight.data[:4].zero_()
    batches = [(x, torch.randint(2, (len(x), 6, 5))) for x in images(4)]
    found = inspect.gradients(net, batches, lambda model, b: F.cross_entropy(model(b[0]), b[1]))
    assert list(found.dead_filters) == [0, 4]
    net.first.norm.weight.data.zero_()
    found = inspect.gradients(net, batches, lambda model, b: F.cross_entropy(model(b[0]), b[1]))
    assert found.dead == ("first",)
    assert found.without[0] == 1


@pytest.mark.parametrize("method", ["groupnet", "bireal", "mbunet", "bnext", "bbcu", "cbnn"])
def test_networks_of_other_methods(method: str):
    float_net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1),
    )  # fmt: skip
    net = binarize.apply(float_net, method, example_inputs=images(1)[0])
    found = inspect.entropy(net, images(2))
    assert found.layers
    assert np.isfinite(found.per_image).all()
    assert inspect.latent_weights(net, initial=net).never_flipped
    inspect.bypass_shares(net, images(2))
    swaps = inspect.LayerSwaps(net, images(2))
    assert {swap.name for swap in swaps.swaps} == {"2", "5"}  # as `--keep` takes them


def test_attention_has_binarizers_of_its_own():
    timm = pytest.importorskip("timm")
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2
    )
    net = binarize.apply(model, "bit", attention="binary")
    found = inspect.entropy(net, [torch.randn(2, 3, 32, 32)])
    factors = [name for name in found.layers if name.endswith((".left", ".right"))]
    assert len(factors) == 4
    assert np.isfinite(found.per_image).all()


def test_no_images_and_networks_that_do_not_fit():
    net = Net()
    with pytest.raises(ConfigError, match="no images"):
        inspect.entropy(net, [])
    packed = binarize.deploy(net.eval())
    with pytest.raises(ConfigError, match=r"gradients: a packed network has no latent weights"):
        inspect.gradients(packed, [], lambda model, batch: batch)
    assert "float network" in inspect.why_not(nn.Conv2d(1, 1, 1), "entropy")
    assert inspect.why_not(packed, "entropy") == ""
