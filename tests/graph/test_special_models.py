"""Models with ties, frozen parts, hooks, parametrizations, wrappers: a right result or a clear error."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from data_parallel_step import train_step
from engine_nets import ResNetLike
from timm.layers import BatchNormAct2d, GroupNormAct
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.testing._internal.two_tensor import TwoTensor

import binarize
from binarize.errors import ConfigError
from binarize.graph import Plan, Policy, apply, execute, plan
from binarize.layers import BinaryConv2d, BinaryLayer, BinaryLinear, RPReLU

IMAGE = torch.zeros(2, 3, 16, 16)
METHODS = ["adabin", "bidense", "bisrnet", "bnn", "reactnet"]


def chain() -> nn.Sequential:
    """Stem, two convolutions with norm and activation, classifier."""
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1)]
    for _ in range(2):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def train_once(model: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    output = model.train()(torch.randn(2, 3, 16, 16, dtype=dtype))
    output.float().square().mean().backward()
    return output


def row(made: Plan, name: str) -> Any:
    return next(row for row in made.rows if row.name == name)


def binary(model: nn.Module) -> dict[str, BinaryLayer]:
    return {name: m for name, m in model.named_modules() if isinstance(m, BinaryLayer)}


# -- shared parameters --------------------------------------------------------------------------------


class Alias(nn.Module):
    """One convolution under three names, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.mix = nn.Conv2d(8, 8, 1)
        self.alias = self.mix
        self.encoder = nn.Sequential(self.mix, nn.ReLU())
        self.final = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.final(self.alias(self.encoder(self.stem(x))))


class Tokens(nn.Module):
    """An embedding tied to the output layer, and two linear layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.out = nn.Linear(8, 20, bias=False)
        self.second.weight = self.first.weight
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.second(self.first(self.embed(x)).relu()).relu())


class Autoencoder(nn.Module):
    """A transposed convolution with the weight of the convolution that it undoes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 2, 2)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.up.weight = self.down.weight
        self.final = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.final(self.up(self.down(self.stem(x)).relu()).relu())


def growing() -> nn.Sequential:
    """Two convolutions that double the channels, with one weight: bisrnet builds such layers of two units."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 8, 1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 2, 1),
    )
    net[5].weight = net[1].weight
    return net


def latent(module: nn.Module) -> list[nn.Parameter]:
    return [layer.weight for layer in module.modules() if isinstance(layer, BinaryLayer)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("make", "pair"), [(chain, ("1", "4")), (growing, ("1", "5"))])
def test_tied_weights_stay_one_parameter_and_load_as_one(
    make: Callable[[], nn.Sequential], pair: tuple[str, str], method: str, tmp_path: Path
) -> None:
    net = make()
    net.get_submodule(pair[1]).weight = net.get_submodule(pair[0]).weight
    model = apply(net, method, example_inputs=IMAGE)
    again = binarize.load(binarize.save(model, tmp_path / "tied.safetensors"), model=make())
    for each in (model, again):
        one, other = (latent(each.get_submodule(name)) for name in pair)
        assert one
        assert [id(p) for p in one] == [id(p) for p in other]
        train_once(each)
        assert all(p.grad is not None for p in one)
    assert not any("shared" in note for note in plan(net, method, example_inputs=IMAGE).notes)


def test_tie_between_a_binary_and_a_float_layer_stays() -> None:
    net = chain()
    net[4].weight = net[1].weight
    model = apply(net, example_inputs=IMAGE, policy=Policy(keep=["4"]))
    assert type(model[4]) is nn.Conv2d
    assert model[4].weight is model[1].weight


def test_ties_of_linear_layers_and_embeddings_stay() -> None:
    words = torch.randint(0, 20, (2, 5))
    model = apply(Tokens(), example_inputs=words, policy=Policy(first=0, last=0))
    assert all(isinstance(layer, BinaryLinear) for layer in (model.first, model.second, model.out))
    assert model.second.weight is model.first.weight
    assert model.out.weight is model.embed.weight
    model(words).square().mean().backward()
    assert model.embed.weight.grad is not None


def test_tie_of_a_convolution_and_a_transposed_one_stays_or_is_told() -> None:
    model = apply(Autoencoder(), example_inputs=IMAGE)
    assert model.up.weight is model.down.weight
    notes = plan(Autoencoder(), "bisrnet", example_inputs=IMAGE).notes  # cuts the two along different dims
    assert any(note.startswith("down, up: shared one weight") for note in notes)


def test_module_under_several_names_stays_one(tmp_path: Path) -> None:
    model = apply(Alias(), example_inputs=IMAGE)
    again = binarize.load(binarize.save(model, tmp_path / "alias.safetensors"), model=Alias())
    for each in (model, again):
        assert isinstance(each.mix, BinaryConv2d)
        assert each.mix is each.alias is each.encoder[0]
        assert sum(isinstance(m, BinaryLayer) for m in each.modules()) == 1
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_model_of_a_nested_class_loads_again(tmp_path: Path) -> None:
    class Inner(Alias):
        pass

    path = binarize.save(apply(Inner(), example_inputs=IMAGE), tmp_path / "nested.safetensors")
    assert isinstance(binarize.load(path, model=Inner()), Inner)


# -- frozen parameters --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_frozen_parameters_stay_frozen_and_new_ones_train(method: str) -> None:
    net = ResNetLike().requires_grad_(False)
    model = apply(net, method, example_inputs=IMAGE)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    taken = [row.name for row in model.binarize_plan.rows if row.absorbs]
    expected = {"stem.weight", "stem.bias", "fc.weight", "fc.bias"}
    expected |= {f"{name}.weight" for name in binary(model)}
    expected |= {f"{name}.norm.{part}" for name in taken for part in ("weight", "bias")}
    expected |= {f"{name}.bias" for name, layer in binary(model).items() if layer.own_bias is not None}
    assert frozen == expected
    train_once(model)
    for name, p in model.named_parameters():
        assert (p.grad is None) == (name in frozen), name


def test_frozen_norm_that_is_taken_over_stays_frozen() -> None:
    net = chain()
    net[2].requires_grad_(False).eval()
    model = apply(net, example_inputs=IMAGE)
    assert not model[1].norm.weight.requires_grad
    assert not model[1].norm.bias.requires_grad
    assert not model[1].norm.training
    assert model[4].norm.weight.requires_grad
    assert model[1].weight.requires_grad


def test_frozen_encoder_under_a_decoder_that_trains() -> None:
    net = ResNetLike()
    net.block1.requires_grad_(False)
    model = apply(net, example_inputs=IMAGE)
    train_once(model)
    own = dict(net.block1.named_parameters())
    kept = {name: p for name, p in model.block1.named_parameters() if not p.requires_grad}
    assert len(kept) == len(own)  # two weights, and weight and bias of two norms
    assert all(p.grad is None for p in kept.values())
    assert model.block2.conv1.weight.grad is not None
    assert model.block1.conv1.quantizer.k.grad is not None


# -- hooks --------------------------------------------------------------------------------------------


def test_forward_hooks_fire_where_their_modules_stood() -> None:
    net = ResNetLike()
    paths = ["block1", "block1.conv1", "block1.bn1", "mix", "fc"]
    seen: dict[str, list[Tensor]] = {path: [] for path in paths}
    before: list[str] = []
    for path in paths:
        module = net.get_submodule(path)
        module.register_forward_hook(lambda _, args, out, path=path: seen[path].append(out))
        module.register_forward_pre_hook(
            lambda _, args, kwargs, path=path: before.append(path), with_kwargs=True
        )
    made = plan(net, example_inputs=IMAGE)
    note = next(note for note in made.notes if note.startswith("hooks of"))
    assert {"block1.conv1,", "block1.bn1:", "mix,"} <= set(note.split())
    assert "fc" not in note
    model = execute(made, net).eval()
    for values in seen.values():
        values.clear()
    before.clear()
    model(torch.randn(1, 3, 16, 16))
    assert before == paths
    assert all(len(values) == 1 for values in seen.values())
    assert torch.equal(seen["block1.bn1"][0], seen["block1.conv1"][0])  # the layer holds the norm now
    assert seen["block1"][0].shape == (1, 16, 8, 8)
    assert seen["mix"][0].shape == (1, 32, 4, 4)


def test_hooks_of_a_layer_norm_that_is_taken_over_fire_once() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
    seen: list[Tensor] = []
    net[2].register_forward_hook(lambda _, args, out: seen.append(out))
    example = torch.randn(2, 5, 8)
    made = plan(net, example_inputs=example)
    assert row(made, "1").absorbs == "2"
    model = execute(made, net)
    seen.clear()
    model(example)
    assert len(seen) == 1


def test_hooks_of_replaced_activations_fire_at_each_of_their_places() -> None:
    net = ResNetLike()
    seen: list[Tensor] = []
    net.block1.relu.register_forward_hook(lambda _, args, out: seen.append(out))
    model = apply(net, example_inputs=IMAGE).eval()
    assert isinstance(model.block1.relu_act, RPReLU)
    seen.clear()
    x = torch.randn(1, 16, 8, 8)
    y = model.block1(x)
    assert len(seen) == 2
    assert torch.equal(seen[1], y)


@pytest.mark.parametrize("kind", [BatchNormAct2d, GroupNormAct])
def test_hooks_of_activations_inside_norms_fire(kind: type[nn.Module]) -> None:
    net = chain()
    fused = kind(8, group_size=1) if kind is GroupNormAct else kind(8)
    net[2], net[3] = fused, nn.Identity()
    seen: list[Tensor] = []
    fused.act.register_forward_hook(lambda _, args, out: seen.append(out))
    model = apply(net, example_inputs=IMAGE)
    assert sum(isinstance(m, RPReLU) for m in model.modules()) == 2
    seen.clear()
    model(torch.randn(2, 3, 16, 16))
    assert len(seen) == 1


def test_hooks_of_an_activation_inside_a_norm_that_stays_fire() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), BatchNormAct2d(8), *chain()[1:])
    seen: list[Tensor] = []
    net[1].act.register_forward_hook(lambda _, args, out: seen.append(out))
    model = apply(net, example_inputs=IMAGE)
    assert isinstance(model[1].act, RPReLU)  # behind the stem, in front of a binary layer
    seen.clear()
    model(torch.randn(2, 3, 16, 16))
    assert len(seen) == 1


def test_hooks_of_activations_that_move_into_units_are_told() -> None:
    net = ResNetLike()
    net.block1.relu.register_forward_hook(lambda _, args, out: None)
    notes = plan(net, "bisrnet", example_inputs=IMAGE).notes
    assert any("hooks of block1.relu: do not run" in note for note in notes)


def test_backward_hooks_fire() -> None:
    net = ResNetLike()
    seen: list[str] = []
    for path in ("block1.conv1", "block1.bn2", "mix"):
        module = net.get_submodule(path)
        module.register_full_backward_hook(lambda _, gin, gout, path=path: seen.append(path))
        module.register_full_backward_pre_hook(lambda _, gout, path=path: seen.append(f"pre {path}"))
    train_once(apply(net, example_inputs=IMAGE))
    order = ["mix", "block1.bn2", "block1.conv1"]
    assert seen == [name for path in order for name in (f"pre {path}", path)]


def test_statistics_in_hooks_do_not_change_the_plan() -> None:
    net = ResNetLike()
    without = plan(net, example_inputs=IMAGE)
    seen: list[Tensor] = []
    for module in (net.block1.conv1, net.block1.bn1, net.block1):
        module.register_forward_hook(lambda _, args, out: seen.append(out.detach().abs().mean()))
    made = plan(net, example_inputs=IMAGE)
    assert seen
    assert dataclasses.replace(made, notes=()) == dataclasses.replace(without, notes=())


def test_hooks_that_change_results_leave_the_layer_in_its_place() -> None:
    net = ResNetLike()
    net.block1.conv1.register_forward_hook(lambda _, args, out: torch.relu(out))
    model = apply(net, example_inputs=IMAGE).eval()
    calls: list[Tensor] = []
    model.block1.conv1.register_forward_hook(lambda _, args, out: calls.append(out))
    model.block1(torch.randn(1, 16, 8, 8))
    assert len(calls) == 1
    assert bool((calls[0] >= 0).all())


def test_state_dict_hooks_are_kept_with_their_module_or_told() -> None:
    net = ResNetLike()
    net.block1.register_state_dict_post_hook(lambda m, state, prefix, _: state.update(mark=torch.ones(())))
    loaded: list[str] = []
    net.register_load_state_dict_pre_hook(lambda m, state, prefix, *_: loaded.append(prefix))
    net.block1.conv1.register_state_dict_post_hook(lambda *_: None)
    net.block2.bn1.register_load_state_dict_pre_hook(lambda *_: None)
    net.block1.bn1.register_state_dict_pre_hook(lambda *_: None)
    made = plan(net, example_inputs=IMAGE)
    assert row(made, "block1.conv1").kept_by == "layer"
    assert "state dict hooks" in row(made, "block1.conv1").reason
    assert row(made, "block2.conv1").absorbs is None
    assert "bn1 behind stays" in row(made, "block2.conv1").norm
    model = execute(made, net)
    state = model.state_dict()
    assert "mark" in state
    del state["mark"]
    model.load_state_dict(state)
    assert loaded == [""]


# -- parametrizations ---------------------------------------------------------------------------------


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.utils.weight_norm(layer)


PARAMETRIZED = {
    "weight_norm, by hook": old_weight_norm,
    "spectral_norm, by hook": nn.utils.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("kind", list(PARAMETRIZED))
def test_parametrized_layers_stay_float_and_train(kind: str, used: bool, tmp_path: Path) -> None:
    net = chain()
    PARAMETRIZED[kind](net[1])
    if used:  # the computed weight lies on the module then, with its history
        net(IMAGE)
    made = plan(net, example_inputs=IMAGE)
    assert row(made, "1").kept_by == "layer"
    assert "fold it in" in row(made, "1").reason
    assert row(made, "4").converted
    model = execute(made, net)
    keys = [key for key in net.state_dict() if key.startswith("1.")]
    assert [key for key in model.state_dict() if key.startswith("1.")] == keys
    train_once(model)
    trained = [p for name, p in model.named_parameters() if name.startswith("1.")]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    path = binarize.save(model, tmp_path / "parametrized.safetensors")
    again, x = binarize.load(path, model=net), torch.randn(1, 3, 16, 16)
    assert torch.equal(again(x), model.eval()(x))


def test_copies_of_parametrized_models_have_weights_of_their_own() -> None:
    net = chain()
    prune.l1_unstructured(net[1], "weight", 0.5)
    model = apply(net, example_inputs=IMAGE)
    assert model[1].weight.data_ptr() != net[1].weight.data_ptr()
    assert model[1].weight_orig is not net[1].weight_orig
    twin = copy.deepcopy(model)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(twin.eval()(x), model.eval()(x))


def test_reason_names_what_is_parametrized() -> None:
    net = chain()
    parametrize.register_parametrization(net[1], "bias", nn.Tanh())
    assert row(plan(net, example_inputs=IMAGE), "1").reason.startswith("its bias is parametrized")


def test_parametrized_norm_is_not_taken_over() -> None:
    net = chain()
    parametrize.register_parametrization(net[2], "weight", nn.Softplus())
    model = apply(net, example_inputs=IMAGE)
    assert row(model.binarize_plan, "1").absorbs is None
    train_once(model)
    assert model[2].parametrizations.weight.original.grad is not None


def test_model_that_cannot_be_copied_is_told() -> None:
    class Locked(nn.Sequential):
        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("there can be only one")

    with pytest.raises(ConfigError, match=r"Locked cannot be copied.*only one"):
        apply(Locked(*chain()), example_inputs=IMAGE)


def test_layers_whose_weights_are_no_float_tensors_are_kept() -> None:
    net = chain()
    net[4].weight = nn.Parameter(torch.ones(8, 8, 3, 3, dtype=torch.int8), requires_grad=False)
    reason = binarize.methods.float_layer.why_not(net[4])
    assert reason == "its weight is torch.int8, not float"
    half = torch.ones(8, 8, 3, 3)
    net[4].weight = nn.Parameter(TwoTensor(half, half))  # a tensor of tensors, as shards are
    assert binarize.methods.float_layer.why_not(net[4]) == (
        "its weight is a TwoTensor: convert before sharding or quantizing"
    )


# -- converted before ---------------------------------------------------------------------------------


def test_rest_of_a_half_converted_model_is_converted() -> None:
    half = apply(chain(), example_inputs=IMAGE, policy=Policy(keep=["4"]))
    made = plan(half, example_inputs=IMAGE)
    assert (row(made, "1").reason, row(made, "1").kept_by) == ("is binary already", "layer")
    assert row(made, "4").converted
    assert "stays" in next(line for line in str(made).splitlines() if line.startswith(" 1 "))
    half[3].b0.data.fill_(0.5)  # an activation that was trained meanwhile
    model = execute(made, half)
    assert torch.equal(model[1].norm.weight, half[1].norm.weight)
    assert torch.equal(model[3].b0, half[3].b0)
    once = apply(chain(), example_inputs=IMAGE)
    assert [(n, type(m)) for n, m in model.named_modules()] == [(n, type(m)) for n, m in once.named_modules()]
    train_once(model)


@pytest.mark.parametrize("first", METHODS)
def test_half_converted_residual_network_keeps_sums_and_activations(first: str) -> None:
    half = apply(ResNetLike(), first, example_inputs=IMAGE, policy=Policy(keep=["block2", "mix"]))
    model = apply(half, "bidense", example_inputs=IMAGE)
    for name, layer in binary(half).items():
        kept = model.get_submodule(name)
        assert type(kept) is type(layer)
        assert [type(m) for m in kept.modules()] == [type(m) for m in layer.modules()]
    assert set(binary(model)) >= {"block2.conv1", "block2.conv2", "mix"}
    inside = [m for m in model.modules() if isinstance(m, RPReLU) for child in m.children()]
    assert not inside  # no activation is put into one that an earlier conversion brought
    train_once(model)
    copy.deepcopy(model)


class TwoRelus(nn.Module):
    """Both activations are functions of one name, and so are the modules that replace them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.first = nn.Conv2d(8, 8, 1)
        self.second = nn.Conv2d(8, 8, 1)
        self.final = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.final(F.relu(self.second(F.relu(self.first(self.stem(x))))))


def test_new_activations_do_not_take_the_names_of_earlier_ones() -> None:
    half = apply(TwoRelus(), example_inputs=IMAGE, policy=Policy(only=["first"]))
    half.relu_act.b0.data.fill_(0.5)
    model = apply(half, example_inputs=IMAGE)
    activations = [m for m in model.modules() if isinstance(m, RPReLU)]
    assert len(activations) == 2
    assert torch.equal(model.relu_act.b0, half.relu_act.b0)
    calls: list[nn.Module] = []
    for module in activations:
        module.register_forward_hook(lambda module, args, out: calls.append(module))
    model(IMAGE)
    assert calls == activations


def test_fully_converted_model_is_refused() -> None:
    done = apply(chain(), example_inputs=IMAGE)
    with pytest.raises(ConfigError, match="converted before, 2 of its layers are binary"):
        plan(done, example_inputs=IMAGE)


# -- quantized ----------------------------------------------------------------------------------------


def quantized(kind: str) -> nn.Module:
    from torch.ao import quantization as ao

    torch.backends.quantized.engine = (
        "x86" if "x86" in torch.backends.quantized.supported_engines else "qnnpack"
    )
    if kind == "dynamic":
        return ao.quantize_dynamic(chain().eval(), {nn.Linear}, dtype=torch.qint8)
    net = nn.Sequential(ao.QuantStub(), chain(), ao.DeQuantStub())
    if kind == "aware":
        net.qconfig = ao.get_default_qat_qconfig()
        return ao.prepare_qat(net.train())
    net.qconfig = ao.get_default_qconfig()
    net = ao.prepare(net.eval())
    if kind == "observed":
        return net
    net(IMAGE)
    return ao.convert(net)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["dynamic", "static", "observed", "aware"])
def test_quantized_models_are_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"quantized.*convert the float model instead"):
        apply(quantized(kind), example_inputs=IMAGE)


@pytest.mark.filterwarnings("ignore")
def test_stubs_for_a_later_quantization_are_no_obstacle() -> None:
    from torch.ao import quantization as ao

    model = apply(nn.Sequential(ao.QuantStub(), chain(), ao.DeQuantStub()), example_inputs=IMAGE)
    assert set(binary(model)) == {"1.1", "1.4"}


# -- compiled, scripted, exported ---------------------------------------------------------------------


def test_compiled_model_gives_an_uncompiled_copy_of_the_model_inside(tmp_path: Path) -> None:
    net = ResNetLike()
    wrapped = torch.compile(net, backend="eager")
    torch.manual_seed(1)
    model = apply(wrapped, example_inputs=IMAGE)
    torch.manual_seed(1)
    plain = apply(net, example_inputs=IMAGE)
    assert type(model).__name__ == "ResNetLike"
    assert model.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(model.eval()(x), plain.eval()(x))
    assert any("compiled anew" in note for note in model.binarize_plan.notes)
    assert not any("compiled" in note for note in plain.binarize_plan.notes)
    path = binarize.save(torch.compile(model, backend="eager"), tmp_path / "compiled.safetensors")
    assert torch.equal(binarize.load(path, model=wrapped)(x), model(x))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_model_and_parts_compiled_in_place() -> None:
    compiled: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph

    net = ResNetLike()
    net.compile(backend=backend)
    net.block1 = torch.compile(net.block1, backend=backend)
    model = apply(net, example_inputs=IMAGE)
    assert not compiled  # recording is not compiled
    assert isinstance(model.block1.conv1, BinaryConv2d)
    assert model._compiled_call_impl is None
    assert net._compiled_call_impl is not None
    assert any("compiled anew" in note for note in model.binarize_plan.notes)
    train_once(model)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["script", "trace", "part"])
def test_torchscript_is_refused(kind: str) -> None:
    net: nn.Module = chain().eval()
    if kind == "script":
        net = torch.jit.script(net)
    elif kind == "trace":
        net = torch.jit.trace(net, IMAGE)
    else:
        net[1] = torch.jit.script(net[1])
    where = "^1 is a RecursiveScriptModule" if kind == "part" else "^model: got a "
    with pytest.raises(ConfigError, match=f"{where}.*TorchScript.*convert the nn.Module"):
        apply(net, example_inputs=IMAGE)


def test_graph_module_is_converted_as_far_as_it_can_be() -> None:
    graph = torch.fx.symbolic_trace(ResNetLike())
    model = apply(graph, example_inputs=IMAGE)
    assert set(binary(model)) == {
        "block1.conv1",
        "block1.conv2",
        "down",
        "block2.conv1",
        "block2.conv2",
        "mix",
    }
    assert any("is a graph module already" in note for note in model.binarize_plan.notes)
    assert row(model.binarize_plan, "block1.conv2").bypass == "none"  # the sum that stays is its bypass
    train_once(model)
    copy.deepcopy(model)


def test_exported_program_is_refused() -> None:
    program = torch.export.export(chain().eval(), (IMAGE,))
    with pytest.raises(ConfigError, match=r"convert the nn\.Module that was exported"):
        apply(program.module(), example_inputs=IMAGE)
    with pytest.raises(ConfigError, match=r"got an ExportedProgram, expected an nn\.Module"):
        apply(program, example_inputs=IMAGE)  # type: ignore[arg-type]


# -- dtypes and devices -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_new_parameters_have_the_dtype_of_the_model(method: str, dtype: torch.dtype) -> None:
    model = apply(ResNetLike().to(dtype), method, example_inputs=IMAGE.to(dtype))
    tensors = [*model.named_parameters(), *model.named_buffers()]
    assert not [name for name, t in tensors if t.is_floating_point() and t.dtype != dtype]
    output = train_once(model, dtype)
    assert output.dtype == dtype
    assert torch.isfinite(output).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert torch.isfinite(model.eval()(torch.randn(2, 3, 16, 16, dtype=dtype))).all()


class Mixed(nn.Module):
    """A float32 part, a bfloat16 one, and a float32 head."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = chain()[:7]
        self.narrow = nn.Sequential(*chain()[1:7]).bfloat16()
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.narrow(self.wide(x).bfloat16()).float())


def test_parts_keep_their_dtypes() -> None:
    model = apply(Mixed(), example_inputs=IMAGE)
    assert {p.dtype for p in model.wide.parameters()} == {torch.float32}
    assert {p.dtype for p in model.narrow.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.head.parameters()} == {torch.float32}
    assert len(binary(model)) == 4
    assert torch.isfinite(train_once(model)).all()


def test_layer_norm_of_vectors_behind_a_float_layer_becomes_a_batch_norm() -> None:
    net = nn.Sequential(
        nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)
    ).bfloat16()
    model = apply(net, example_inputs=torch.zeros(2, 8, dtype=torch.bfloat16))
    assert isinstance(model[1], nn.BatchNorm1d)
    model(torch.randn(4, 8, dtype=torch.bfloat16)).sum().backward()


@pytest.mark.parametrize("method", METHODS)
def test_model_without_data_stays_without(method: str) -> None:
    with torch.device("meta"):
        net = ResNetLike()
    model = apply(net, method)
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}
    assert model(torch.empty(1, 3, 32, 32, device="meta")).shape == (1, 10)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_model_on_a_gpu_stays_there(method: str, dtype: torch.dtype) -> None:
    model = apply(ResNetLike().to("cuda", dtype), method, example_inputs=IMAGE.to("cuda", dtype))
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"cuda"}
    output = model.train()(torch.randn(2, 3, 16, 16, device="cuda", dtype=dtype))
    output.float().square().mean().backward()
    assert torch.isfinite(output).all()
    assert all(p.grad is not None for layer in binary(model).values() for p in [layer.weight])


# -- several devices ----------------------------------------------------------------------------------


@pytest.fixture
def process_group(tmp_path: Path) -> Any:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("wrapper", [nn.parallel.DistributedDataParallel, nn.DataParallel])
def test_wrapped_model_is_refused_with_the_remedy(
    wrapper: type[nn.Module], process_group: None, tmp_path: Path
) -> None:
    name = wrapper.__name__
    with pytest.raises(ConfigError, match=rf"got a {name}.*{name}\(binarize.apply\(model.module, ...\)\)"):
        apply(wrapper(chain()), example_inputs=IMAGE)
    with pytest.raises(ConfigError, match=r"^0 is a .*convert 0\.module"):
        plan(nn.Sequential(wrapper(chain())), example_inputs=IMAGE)


@pytest.mark.parametrize("name", ["FullyShardedDataParallel", "FSDPModule"])
def test_sharded_model_is_refused(name: str) -> None:
    sharded = type("FSDPSequential", (type(name, (), {}), nn.Sequential), {})
    with pytest.raises(ConfigError, match="shards: convert the whole model first"):
        apply(sharded(*chain()), example_inputs=IMAGE)


@pytest.mark.parametrize("method", METHODS)
def test_converted_model_trains_in_a_wrapper(method: str, process_group: None, tmp_path: Path) -> None:
    model = apply(ResNetLike(), method, example_inputs=IMAGE)
    before = {name: layer.weight.detach().clone() for name, layer in binary(model).items()}
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), 0.1)
    for _ in range(2):  # the second forward fails if a parameter had no gradient
        optimizer.zero_grad()
        assert torch.isfinite(train_once(parallel)).all()
        optimizer.step()
    assert not [name for name, layer in binary(model).items() if torch.equal(before[name], layer.weight)]
    path = binarize.save(parallel, tmp_path / "parallel.safetensors")
    again, x = binarize.load(path, model=ResNetLike()), torch.randn(2, 3, 16, 16)
    assert torch.equal(again(x), model.eval()(x))


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(train_step, (2, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert all(value is not None and torch.equal(value, other[name]) for name, value in one.items())


class Recalled(nn.Module):
    """A signal of 4 MB goes through many layers; its forward asks for a value, so symbols do not do."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 1) for _ in range(40))

    def forward(self, x: Tensor) -> Tensor:
        if x.sum().item() == 0.5:
            return x
        for conv in self.convs:
            x = conv(x)
            x = x.relu()
        return x


def test_a_run_with_numbers_frees_them_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: set[int] = set()
    most = 0

    def counted(module: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
        nonlocal most
        alive.add(number := len(most_seen))
        most_seen.append(number)
        weakref.finalize(result, alive.discard, number)
        most = max(most, len(alive))

    most_seen: list[int] = []
    net = Recalled()
    for conv in net.convs:
        conv.register_forward_hook(counted)
    made = plan(net, example_inputs=torch.ones(1, 16, 256, 256))
    assert len(made.rows) == 40
    assert len(most_seen) >= 40
    assert most <= 4
