"""Converted networks: they run, train, and remain what users of the float network rely on."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import timm
import torch
from engine_nets import DataDependent, Excited, Residual, ResNetLike, Shared, UNet
from torch import Tensor, nn

import binarize
from binarize.errors import ConfigError, RewriteError
from binarize.graph import Policy, apply, execute, plan
from binarize.layers import BinaryConv2d, BinaryLayer, RPReLU

IMAGE = torch.zeros(2, 3, 32, 32)
NETS = [ResNetLike, UNet, DataDependent, Shared, Excited]
METHODS = ["adabin", "bidense", "bisrnet", "bnn", "reactnet"]
MAINLY = [m if m == "bidense" else pytest.param(m, marks=pytest.mark.slow) for m in METHODS]


def latent_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: m.weight for name, m in model.named_modules() if isinstance(m, BinaryLayer)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", NETS)
def test_converts_and_trains(make: type[nn.Module], method: str) -> None:
    net = make()
    before = copy.deepcopy(net.state_dict())
    model = apply(net, method, example_inputs=IMAGE).train()
    output = model(torch.randn(4, 3, 48, 40))
    output.square().mean().backward()
    weights = latent_weights(model)
    assert weights
    for name, weight in weights.items():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_latent_weights_are_the_float_weights_at_the_same_keys() -> None:
    net = ResNetLike()
    model = apply(net, example_inputs=IMAGE)
    ours = model.state_dict()
    for name in ("block1.conv1.weight", "block2.conv2.weight", "down.weight", "mix.weight", "fc.weight"):
        assert torch.equal(ours[name], net.state_dict()[name])
        assert ours[name].data_ptr() != net.state_dict()[name].data_ptr()
    prefixes = {name.split(".")[0] for name in net.state_dict()}
    assert {name.split(".")[0] for name in ours} - prefixes <= {"relu_act"}


def test_batch_norm_is_taken_over_not_doubled() -> None:
    net = ResNetLike()
    for bn in (net.block1.bn1, net.block1.bn2):
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 2)
        nn.init.uniform_(bn.weight)
    model = apply(net, example_inputs=IMAGE)
    norm = model.block1.conv1.norm
    assert torch.equal(norm.running_mean, net.block1.bn1.running_mean)
    assert torch.equal(norm.running_var, net.block1.bn1.running_var)
    assert torch.equal(norm.weight, net.block1.bn1.weight)
    assert isinstance(model.block1.bn1, nn.Identity)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 6  # one per binary convolution


def test_bias_in_front_of_a_taken_over_norm_moves_into_its_mean() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1))
    net[2].running_mean.normal_()
    model = apply(net, example_inputs=IMAGE)
    assert torch.allclose(model[1].norm.running_mean, net[2].running_mean - net[1].bias)
    kept = apply(net, "bnn", example_inputs=IMAGE)
    assert torch.equal(kept[1].norm.running_mean, net[2].running_mean)
    assert torch.equal(kept[1].bias, net[1].bias)


def test_dropped_sum_leaves_the_branch_alone() -> None:
    net = ResNetLike()
    model = apply(net, example_inputs=IMAGE).eval()
    x = torch.randn(1, 16, 8, 8)
    block = model.block1
    first, second = [m for m in block.children() if isinstance(m, RPReLU)]  # one per place of the shared ReLU
    assert torch.equal(block(x), second(block.conv2(first(block.conv1(x)))))


def test_rewritten_module_keeps_class_methods_and_attributes() -> None:
    net = ResNetLike()
    model = apply(net, example_inputs=IMAGE)
    assert isinstance(model, ResNetLike)
    assert isinstance(model.block1, type(net.block1))
    assert model.feature_info == net.feature_info
    timm_model = apply(timm.create_model("test_resnet"), example_inputs=torch.zeros(1, 3, 64, 64))
    assert timm_model.num_classes == 1000
    assert timm_model.forward_features(torch.zeros(1, 3, 64, 64)).dim() == 4
    timm_model.reset_classifier(7)
    assert timm_model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_dropout_and_norm_follow_train_and_eval() -> None:
    model = apply(ResNetLike(), example_inputs=IMAGE)
    x = torch.randn(2, 3, 32, 32)
    model.eval()
    assert torch.equal(model(x), model(x))
    model.train()
    torch.manual_seed(0)
    first = model(x)
    assert not torch.equal(first, model(x))  # dropout at the root, which is rewritten
    assert int(model.mix.norm.num_batches_tracked) == 2


@pytest.mark.parametrize("make", [ResNetLike, DataDependent])
def test_deepcopy_and_pickle(make: type[nn.Module]) -> None:
    model = apply(make(), example_inputs=IMAGE).eval()
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), expected)
        assert type(twin).__name__ == make.__name__
        assert all(p is not q for p, q in zip(twin.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("method", MAINLY)
def test_exports(method: str) -> None:
    model = apply(ResNetLike(), method, example_inputs=IMAGE).eval()
    x = torch.randn(2, 3, 32, 32)
    program = torch.export.export(model, (x,))
    assert torch.allclose(program.module()(x), model(x), atol=1e-6)


@pytest.mark.slow
def test_exports_with_any_size() -> None:
    model = apply(UNet(), example_inputs=IMAGE).eval()
    size = torch.export.Dim("half", min=4, max=64) * 2
    program = torch.export.export(model, (torch.randn(2, 3, 32, 32),), dynamic_shapes=({2: size, 3: size},))
    x = torch.randn(2, 3, 40, 40)
    assert torch.allclose(program.module()(x), model(x), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", MAINLY)
def test_compiles_whole_and_trains(method: str) -> None:
    model = apply(ResNetLike(), method, example_inputs=IMAGE).eval()
    x = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), model(x), atol=1e-5)
    compiled(x).square().mean().backward()
    assert torch.isfinite(model.block1.conv1.weight.grad).all()


def test_runs_at_other_sizes_than_the_example() -> None:
    model = apply(ResNetLike(), example_inputs=IMAGE).eval()
    for size in ((64, 64), (33, 47)):
        assert model(torch.zeros(1, 3, *size)).shape == (1, 10)


def test_evaluation_does_not_depend_on_the_batch() -> None:
    model = apply(ResNetLike(), example_inputs=IMAGE).eval().double()
    x = torch.randn(3, 3, 32, 32, dtype=torch.double)
    assert torch.allclose(model(x)[:1], model(x[:1]), atol=1e-12)


def test_shared_layer_stays_shared() -> None:
    model = apply(Shared(), example_inputs=IMAGE)
    assert model.smooth is model.alias
    assert isinstance(model.smooth, BinaryConv2d)


def test_frozen_weights_stay_frozen() -> None:
    net = ResNetLike()
    net.block1.requires_grad_(False)
    model = apply(net, example_inputs=IMAGE)
    assert not model.block1.conv1.weight.requires_grad
    assert model.block2.conv1.weight.requires_grad


def test_layer_scale_goes() -> None:
    net = timm.create_model("test_convnext", ls_init_value=1e-6)
    names = [name for name, _ in net.named_parameters() if name.endswith("gamma")]
    assert names
    model = apply(net, example_inputs=torch.zeros(1, 3, 64, 64))
    assert not any(name.endswith("gamma") for name, _ in model.named_parameters())


SMALL = ["test_convnext", "test_efficientnet", "test_nfnet", "test_vit"]
MORE = ["test_convnext2", "test_resnet", "test_efficientnet_gn", "test_byobnet", "test_mambaout", "test_vit4"]


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(n, marks=pytest.mark.slow) for n in MORE)])
def test_small_timm_models_train(name: str) -> None:
    net = timm.create_model(name)
    model = apply(net).train()
    output = model(torch.randn(2, *net.pretrained_cfg["input_size"]))
    output.square().mean().backward()
    for layer, weight in latent_weights(model).items():
        assert weight.grad is not None, layer
        assert torch.isfinite(weight.grad).all(), layer


def test_padded_and_standardized_convolutions_keep_their_semantics() -> None:
    same = timm.layers.create_conv2d(8, 8, 3, stride=2, padding="same")
    built = binarize.binary_layer(same, "bnn", norm=False)
    x = torch.randn(2, 8, 11, 7)
    padded = nn.functional.pad(torch.where(x >= 0, 1.0, -1.0), _tf_same(x, 3, 2))
    weight = torch.where(same.weight >= 0, 1.0, -1.0)
    assert torch.equal(built(x), nn.functional.conv2d(padded, weight, same.bias, 2))

    std = timm.layers.ScaledStdConv2d(8, 6, 3, padding=1)
    nn.init.uniform_(std.gain)
    built = binarize.binary_layer(std, "reactnet", norm=False, bypass=False)
    flat = std.weight.flatten(1)
    normed = (flat - flat.mean(1, True)) / (flat.var(1, unbiased=False, keepdim=True) + std.eps).sqrt()
    scaled = (normed * std.gain.flatten()[:, None] * std.scale).view_as(std.weight)
    binary = torch.where(scaled >= 0, 1.0, -1.0) * scaled.abs().mean((1, 2, 3), keepdim=True)
    expected = nn.functional.conv2d(torch.where(x >= 0, 1.0, -1.0), binary, None, 1, 1)
    assert torch.allclose(built(x), expected, atol=1e-5)


def _tf_same(x: Tensor, kernel: int, stride: int) -> tuple[int, int, int, int]:
    pads = []
    for n in (x.shape[-1], x.shape[-2]):
        total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
        pads += [total // 2, total - total // 2]
    return pads[0], pads[1], pads[2], pads[3]


def test_given_method_object_and_policy() -> None:
    method = binarize.methods.BiDense(granularity="layer")
    model = binarize.apply(ResNetLike(), method, policy=Policy(keep=("mix",)), example_inputs=IMAGE)
    assert model.block1.conv1.quantizer.a.shape == (1, 1, 1, 1)
    assert type(model.mix) is nn.Conv2d
    assert model.binarize_plan.policy["keep"] == ["mix"]


def test_a_single_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="binary_layer"):
        apply(nn.Conv2d(3, 4, 1), policy=Policy(first=0, last=0))


@pytest.mark.parametrize(
    "make", [lambda: Policy(keep=None), lambda: plan(ResNetLike(), policy={"keep": ["*"]})]
)  # type: ignore[arg-type]
def test_policies_of_a_wrong_kind_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match="policy"):
        make()


def test_executing_a_plan_for_another_model_is_refused() -> None:
    made = plan(ResNetLike(), example_inputs=IMAGE)
    with pytest.raises(RewriteError, match="stem: the plan was made"):
        execute(made, UNet())


def test_depth_and_segmentation_networks_convert() -> None:
    for options in ({"num_classes": 4}, {"task": "depth", "max_depth": 10.0}):
        net = binarize.networks.upernet("test_convnext", **options)
        model = binarize.apply(net, "bidense", example_inputs=torch.zeros(2, 3, 64, 64)).train()
        model(torch.randn(2, 3, 70, 66)).square().mean().backward()
        assert all(torch.isfinite(w.grad).all() for w in latent_weights(model).values() if w.grad is not None)


def test_transformer_layers_do_not_take_the_float_fast_path() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    net = nn.Sequential(nn.Linear(8, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 3)).eval()
    x = torch.randn(2, 6, 8)
    model = apply(net, example_inputs=x).eval()
    with torch.no_grad():
        inference = model(x)
        assert not torch.allclose(inference, net(x), atol=1e-3)
    assert torch.allclose(inference, model(x), atol=1e-5)


class Stateful(nn.Module):
    """Stores on itself, moves a buffer, takes options."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = Residual(8)
        self.final = nn.Conv2d(8, 2, 1)
        self.positions: Tensor | None = None
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        if self.positions is None:
            self.positions = torch.linspace(0, 1, y.shape[-1])
        self.calls += 1
        return self.final(self.block(y) + self.positions)


def test_planning_leaves_no_trace_of_what_a_forward_stores() -> None:
    net = Stateful()
    model = apply(net, example_inputs=IMAGE)
    assert net.positions is None
    assert float(net.calls) == 0
    pickle.dumps(net)
    model(torch.randn(2, 3, 32, 32))
    assert float(model.calls) == 1


class Optional(nn.Module):
    """Parameters of forward that the example leaves at their defaults."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.final = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        x = self.stem(x)
        x = x + self.conv(x)
        if mask is not None:
            x = x * mask
        return self.final(x) * scale


def test_parameters_at_their_defaults_are_not_ignored_silently() -> None:
    model = apply(Optional(), example_inputs=IMAGE).eval()
    x = torch.randn(1, 3, 16, 16)
    assert model(x, scale=0.0).abs().max() == 0
    with pytest.raises(RewriteError, match="mask"):
        model(x, mask=torch.zeros(1, 1, 16, 16))
    torch.export.export(model, (x,))


class Conditioned(nn.Module):
    """Asks whether it is given a mask; hands a bias on without asking."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.shift = Shift()
        self.final = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        x = self.stem(x)
        x = x + self.conv(x)
        if mask is not None:
            x = x * 0
        return self.final(self.shift(x, bias))


class Shift(nn.Module):
    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return x if bias is None else x + bias


def test_arguments_of_the_example_are_not_taken_as_given_silently() -> None:
    x, bias = torch.randn(1, 3, 16, 16), torch.randn(1, 8, 1, 1)
    example = {"x": x, "mask": torch.ones(1), "bias": bias}
    model = apply(Conditioned(), example_inputs=example).eval()
    with pytest.raises(RewriteError, match="mask: got None"):
        model(x, bias=bias)
    assert not torch.equal(model(x, torch.ones(1)), model(x, torch.ones(1), bias))
    torch.export.export(model, (x, torch.ones(1), bias))


def test_hooks_move_to_what_replaces_their_module() -> None:
    net = ResNetLike()
    seen: list[torch.Size] = []
    net.mix.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    model = apply(net, example_inputs=IMAGE)
    seen.clear()
    model(torch.zeros(1, 3, 32, 32))
    assert seen == [torch.Size([1, 32, 8, 8])]


def test_layer_norm_behind_a_token_layer_is_taken_over() -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 4))
    nn.init.uniform_(net[2].weight)
    model = apply(net, example_inputs=torch.zeros(2, 5, 8))
    assert isinstance(model[1].norm, nn.LayerNorm)
    assert torch.equal(model[1].norm.weight, net[2].weight)
    assert isinstance(model[2], nn.Identity)


@pytest.mark.parametrize("method", ["bnn", "reactnet", "adabin"])
def test_signals_behind_a_gate_are_not_blind(method: str) -> None:
    model = apply(Excited(), method, example_inputs=IMAGE)
    assert type(model.act) is nn.ReLU  # of the gate
    net = timm.create_model("test_byobnet")
    made = plan(net, method)
    assert not any("a factor" in row.activation for row in made.converted)


def test_dtypes_of_mixed_models_are_kept() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1)))
    net[1].double()
    model = apply(net[1], policy=Policy(first=0), example_inputs=torch.zeros(1, 8, 4, 4, dtype=torch.double))
    assert model(torch.zeros(1, 8, 4, 4, dtype=torch.double)).dtype == torch.double
