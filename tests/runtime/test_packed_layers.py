"""A packed layer gives what the layer gives in evaluation mode, for every method and geometry."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from comparing import relative_difference
from torch import Tensor, nn

import binarize
from binarize.errors import BinarizeError, ConfigError, TrainingError
from binarize.layers import BinaryConv2d, BinaryLayer
from binarize.methods.standardization import WeightStandardization
from binarize.native import library
from binarize.runtime import PackedLayer, Refusal, RuntimeOptions, describe, lower
from binarize.runtime.packing.bits import pack_signs, unpack_signs
from binarize.runtime.reference import product
from binarize.runtime.thresholds import quantized, thresholds_of

METHODS: dict[str, dict[str, Any]] = {
    "bnn": {"method": "bnn"},
    "reactnet": {"method": "reactnet"},
    "adabin": {"method": "adabin"},
    "adabin table": {"method": "adabin", "form": "table"},
    "bisrnet": {"method": "bisrnet"},
    "bisrnet table": {"method": "bisrnet", "form": "table"},
    "bidense": {"method": "bidense"},
    "bidense layer": {"method": "bidense", "granularity": "layer"},
    "bidense group": {"method": "bidense", "granularity": "group", "groups": 2},
    **{
        name: {"method": name} for name in ("xnor", "bireal", "irnet", "recu", "reste", "rbnn", "fda", "bbcu")
    },
    "bit": {"method": "bit"},
    "bit unsigned": {"method": "bit", "nonnegative_input": True},
    "bnext": {"method": "bnext"},
    "mbunet": {"method": "mbunet"},
    "lqnet": {"method": "lqnet"},
    "lqnet unsigned": {"method": "lqnet", "nonnegative_input": True},
    "lqnet W2A3": {"method": "lqnet", "weight_bits": 2, "activation_bits": 3},
    "lqnet W3A2 unsigned": {
        "method": "lqnet",
        "weight_bits": 3,
        "activation_bits": 2,
        "nonnegative_input": True,
    },
}
VARIANTS: dict[str, dict[str, Any]] = {
    **{f"row {row}": {"method": "bidense", "ablation": row} for row in range(1, 9)},
    "table": {"method": "bidense", "form": "table"},
    "layer mad": {"method": "bidense", "granularity": "layer", "scale": "mad"},
    "group mad": {"method": "bidense", "granularity": "group", "scale": "mad"},
    "group learned": {"method": "bidense", "granularity": "group", "groups": 3, "scale": "learned"},
    "layer learned": {"method": "bidense", "granularity": "layer", "scale": "learned"},
    "reactnet table": {"method": "reactnet", "form": "table"},
}

Make = Callable[[], nn.Module]
LAYERS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "3x3": (lambda: nn.Conv2d(8, 8, 3, padding=1), (2, 8, 9, 7)),
    "1x1 up": (lambda: nn.Conv2d(8, 20, 1), (2, 8, 5, 5)),
    "1x1 double": (lambda: nn.Conv2d(8, 16, 1), (2, 8, 5, 5)),
    "1x1 down": (lambda: nn.Conv2d(9, 4, 1), (2, 9, 5, 5)),
    "stride": (lambda: nn.Conv2d(8, 16, 3, 2, 1), (2, 8, 9, 8)),
    "transition": (lambda: nn.Conv2d(8, 16, 2, 2), (2, 8, 9, 8)),
    "depthwise": (lambda: nn.Conv2d(8, 8, 5, padding=2, groups=8), (2, 8, 9, 8)),
    "groups": (lambda: nn.Conv2d(8, 12, 3, padding=1, groups=4), (2, 8, 6, 5)),
    "dilation": (lambda: nn.Conv2d(8, 8, 3, padding=2, dilation=2), (2, 8, 9, 8)),
    "unpadded": (lambda: nn.Conv2d(8, 8, 3), (2, 8, 9, 8)),
    "oblong": (lambda: nn.Conv2d(8, 8, (1, 5), padding=(0, 2)), (2, 8, 4, 9)),
    "same": (lambda: nn.Conv2d(8, 8, 4, padding="same"), (2, 8, 6, 7)),
    "reflect": (lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), (2, 8, 6, 7)),
    "circular": (lambda: nn.Conv2d(8, 16, 3, 2, 1, padding_mode="circular"), (2, 8, 6, 7)),
    "conv1d": (lambda: nn.Conv1d(8, 10, 3, padding=1), (2, 8, 11)),
    "transposed": (lambda: nn.ConvTranspose2d(8, 4, 2, 2), (2, 8, 5, 4)),
    "transposed groups": (
        lambda: nn.ConvTranspose2d(8, 12, 3, 2, 1, output_padding=1, groups=2),
        (2, 8, 5, 4),
    ),
    "three words": (lambda: nn.Conv2d(70, 6, 2, padding=1), (2, 70, 4, 3)),
    "wide depthwise": (lambda: nn.Conv2d(70, 70, 3, padding=1, groups=70), (2, 70, 4, 3)),
    "tokens": (lambda: nn.Linear(8, 32), (2, 6, 8)),
    "vectors": (lambda: nn.Linear(8, 12), (5, 8)),
}


def away_from_start(layer: nn.Module) -> nn.Module:
    """Every number that training changes is another than at the start."""
    for name, tensor in layer.state_dict().items():
        if name.endswith("running_var"):
            tensor.mul_(0.5 + torch.rand_like(tensor))
        elif tensor.is_floating_point() and not name.endswith(("alpha_a", "quantizer.k")):
            tensor.add_(torch.randn_like(tensor), alpha=0.3)
        elif tensor.is_floating_point():
            tensor.mul_(1.3)
    binarize.set_progress(layer, 1.0)  # numbers of the training are those of its end
    return layer.eval()


@torch.no_grad()
def check(layer: nn.Module, x: Tensor, **call: Any) -> list[PackedLayer]:
    """Each binary layer in `layer` against its packed form, on the input that it gets for `x`."""
    seen: list[tuple[nn.Module, Tensor]] = []
    binary = [module for module in layer.modules() if isinstance(module, BinaryLayer)]
    handles = [m.register_forward_pre_hook(lambda m, args: seen.append((m, args[0]))) for m in binary]
    layer(x, **call)
    for handle in handles:
        handle.remove()
    assert len(seen) == len(binary) > 0
    found = []
    for module, given in seen:
        packed = lower(module)
        assert isinstance(packed, PackedLayer), packed
        packed.options = RuntimeOptions(exact_scales=True)
        expected, got = module(given.clone(), **call), packed(given.clone(), **call)
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype
        empty = packed.empty_result(given, **call)  # what a recording on fake tensors sees
        assert empty is not None
        assert (empty.shape, empty.dtype) == (expected.shape, expected.dtype)
        assert packed.empty_result(given.unsqueeze(0)[..., :1]) is None
        assert relative_difference(got, expected) < 1e-5
        assert not list(packed.parameters())
        found.append(packed)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_like_the_layer(method: str):
    checked = 0
    for make, shape in LAYERS.values():
        try:
            layer = binarize.binary_layer(make(), **METHODS[method])
        except BinarizeError:
            continue  # the method refuses such a layer
        check(away_from_start(layer), torch.randn(shape))
        checked += 1
    assert checked == len(LAYERS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str):
    for name in ("3x3", "stride", "depthwise", "vectors", "three words"):
        make, shape = LAYERS[name]
        layer = binarize.binary_layer(make(), **VARIANTS[variant])
        check(away_from_start(layer), torch.randn(shape))
    pointwise = binarize.binary_layer(nn.Linear(8, 8), kind="pointwise", **VARIANTS[variant])
    check(away_from_start(pointwise), torch.randn(2, 3, 4, 8))


@pytest.mark.parametrize("method", ["bnn", "adabin", "bisrnet", "bidense"])
@pytest.mark.parametrize(("stride", "kernel", "size"), [(1, 3, (7, 8)), (2, 3, (7, 8)), (2, 2, (5, 5))])
def test_same_padding(method: str, stride: int, kernel: int, size: tuple[int, int]):
    layer = BinaryConv2d(8, 8, kernel, stride, method=method)
    layer.use_same_padding()
    check(away_from_start(layer), torch.randn(2, 8, *size))


@pytest.mark.parametrize("method", ["reactnet", "adabin", "bidense"])
def test_pointwise_and_weight_standardization_and_output_size(method: str):
    layer = binarize.binary_layer(nn.Linear(8, 20), method, kind="pointwise")
    check(away_from_start(layer), torch.randn(2, 4, 3, 8))
    conv: Any = binarize.binary_layer(nn.Conv2d(8, 8, 3, padding=1), method)
    conv.weight_transform = WeightStandardization(1e-5, 0.7, nn.Parameter(torch.randn(8, 1, 1, 1)))
    check(away_from_start(conv), torch.randn(2, 8, 5, 5))
    transposed = binarize.binary_layer(nn.ConvTranspose2d(8, 4, 3, 2, 1), method)
    check(away_from_start(transposed), torch.randn(2, 8, 5, 4), output_size=[10, 7])


def test_constant_and_one_sided_filters():
    layer: Any = binarize.binary_layer(nn.Conv2d(4, 4, 3), "adabin")
    with torch.no_grad():
        layer.weight[0] = 0.25
        layer.weight[1] = -0.5
        layer.weight[2] = 0
    check(layer.eval(), torch.randn(1, 4, 5, 5))
    scaled: Any = binarize.binary_layer(nn.Conv2d(4, 4, 3), "reactnet")
    with torch.no_grad():
        scaled.weight[0] = 0.25
        scaled.weight[1] = -0.5
        scaled.weight[2] = -0.0
    check(scaled.eval(), torch.randn(1, 4, 5, 5))


def test_negative_scales_and_ties():
    adabin: Any = away_from_start(binarize.binary_layer(nn.Conv2d(4, 4, 3, padding=1), "adabin"))
    with torch.no_grad():
        adabin.quantizer.alpha_a.fill_(-0.5)
        adabin.quantizer.beta_a.fill_(0.25)
        adabin.norm.weight[0] = -2
    x = torch.tensor([-1.0, -0.0, 0.0, 0.25, 1.0]).repeat(20)[: 4 * 25].view(1, 4, 5, 5)
    check(adabin, x)
    bnn = binarize.binary_layer(nn.Conv2d(4, 4, 3, padding=1), "bnn").eval()
    check(bnn, x)


def test_product_is_whole_numbers():
    packed = lower(away_from_start(binarize.binary_layer(nn.Conv2d(8, 8, 3, padding=1), granularity="layer")))
    assert isinstance(packed, PackedLayer)
    x = torch.randn(2, 8, 5, 5)
    data = packed.data()
    sums, window_sum = product(data, quantized(x, thresholds_of(data, x)))
    assert window_sum is None
    assert torch.equal(sums, sums.round())
    assert sums.abs().max() <= 72


@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
def test_bits_are_those_of_numpy(count: int):
    positive = torch.rand(count) > 0.5
    bits = pack_signs(positive)
    assert np.array_equal(bits.numpy(), np.packbits(positive.numpy(), bitorder="little"))
    assert torch.equal(unpack_signs(bits, (count,), torch.float32) > 0, positive)


def test_refuses_training_and_stays_in_evaluation_mode():
    packed = lower(binarize.binary_layer(nn.Linear(8, 8), "bidense"))
    assert isinstance(packed, PackedLayer)
    packed.train()
    assert not any(module.training for module in packed.modules())
    with pytest.raises(TrainingError, match="latent weights are gone"):
        packed(torch.randn(2, 8, requires_grad=True))
    with torch.no_grad():
        packed(torch.randn(2, 8, requires_grad=True))
    assert not packed(torch.randn(2, 8)).requires_grad
    assert packed.weight.shape == (8, 8)
    with pytest.raises(TrainingError, match="are gone; the placeholder has"):
        _ = packed.weight + 1


def test_copies_dtypes_and_state():
    layer = away_from_start(binarize.binary_layer(nn.Conv2d(8, 8, 3), "bisrnet"))
    packed = lower(layer)
    assert isinstance(packed, PackedLayer)
    x = torch.randn(1, 8, 6, 6)
    y = packed(x)
    assert set(packed.state_dict()) == {"bits", "vectors", "inner.b0", "inner.b1", "inner.weight"}
    for twin in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert torch.equal(twin(x), y)
    double = copy.deepcopy(packed).double()
    assert relative_difference(double(x.double()), y) < 1e-5
    other = lower(binarize.binary_layer(nn.Conv2d(8, 8, 3), "bisrnet"))
    assert isinstance(other, PackedLayer)
    assert not torch.equal(other(x), y)  # which also keeps its signs
    other.load_state_dict(packed.state_dict())
    assert torch.equal(other(x), y)


def test_without_the_kernels_torch_computes_and_a_warning_says_so_once(monkeypatch: pytest.MonkeyPatch):
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    net = nn.Sequential(*stem, nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 4, 1))
    x = torch.randn(2, 3, 10, 8)
    model = binarize.apply(net.eval(), "bidense", example_inputs=x)
    wanted = binarize.deploy(away_from_start(model.eval()), exact_scales=True)(x)
    monkeypatch.setattr(library, "_load", lambda: (None, None, "not built"))
    library.warn_missing.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        packed = binarize.deploy(model)
        y = packed(x)
        assert torch.equal(packed(x), y)
    assert [str(w.message) for w in caught] == [
        "the native kernels are missing (not built): packed layers run on torch, exact but slower"
    ]
    assert relative_difference(y, wanted) < 1e-4
    reasons = {layer.reason for layer in packed.deploy_report.packed}
    assert reasons == {"the native kernels are not installed"}


def test_a_network_that_was_deployed_with_the_kernels_runs_without_them(monkeypatch: pytest.MonkeyPatch):
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    net = nn.Sequential(*stem, nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 4, 1))
    x = torch.randn(2, 3, 10, 8)
    model = binarize.apply(net.eval(), "bidense", example_inputs=x)
    packed: Any = binarize.deploy(away_from_start(model))
    with torch.no_grad():
        for _ in range(3):
            packed(x)  # its program stays here
    sent = pickle.dumps(packed)
    monkeypatch.setattr(library, "_load", lambda: (None, None, "not built"))
    library.warn_missing.cache_clear()
    with pytest.warns(RuntimeWarning, match="native kernels are missing") as caught:
        y = pickle.loads(sent)(x)
    assert len(caught) == 1
    with torch.no_grad():
        assert relative_difference(y, model(x)) < 1e-4


WRAPPERS = [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm,
            nn.utils.spectral_norm]  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda f: f"{f.__module__}.{f.__name__}")
@pytest.mark.parametrize("bias", [True, False])
def test_the_report_counts_weights_that_other_tensors_make(wrapper: Callable[..., nn.Module], bias: bool):
    made = wrapper(nn.Conv2d(8, 8, 3, padding=1, bias=bias))
    net = nn.Sequential(nn.Conv2d(3, 8, 3), made, nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)).eval()
    packed = binarize.deploy(binarize.apply(net, "bnn", example_inputs=torch.zeros(1, 3, 8, 8)))
    (row,) = (row for row in packed.deploy_report.layers if row.name == "1")  # type: ignore[union-attr]
    assert (row.packed, row.weights, row.bytes) == (False, 576, 4 * (576 + 8 * bias))


def _changed(change: Callable[[Any], Any]) -> nn.Module:
    layer = binarize.binary_layer(nn.Conv2d(8, 8, 3), "bidense")
    change(layer)
    return layer


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(3, 3, 3), "not a binary layer"),
        (_changed(lambda m: setattr(m, "norm", nn.BatchNorm2d(8, track_running_stats=False))), "statistics"),
        (_changed(lambda m: setattr(m, "quantizer", nn.Tanh())), "quantizer Tanh"),
        (_changed(lambda m: m.quantizer.register_forward_hook(lambda *a: None)), "hooks"),
        (_changed(lambda m: m.norm.register_forward_hook(lambda *a: None)), "hooks hang on its norm"),
        (_changed(lambda m: setattr(m, "forward", lambda x: x)), "replaced"),
        (_changed(lambda m: m.weight.data.fill_(float("nan"))), "not finite"),
        (_changed(lambda m: m.norm.running_var.fill_(-1)), "not finite"),
        (_changed(lambda m: setattr(m.bypass, "stride", (2, 2))), "bypass"),
    ],
)
def test_says_why_a_layer_cannot_be_packed(layer: nn.Module, reason: str):
    found = lower(layer)
    assert isinstance(found, Refusal)
    assert reason in found.reason


def test_norms_that_cannot_be_folded_stay():
    layer: Any = binarize.binary_layer(nn.Conv2d(8, 8, 3), "bidense")
    layer.norm = nn.GroupNorm(2, 8)
    (packed,) = check(away_from_start(layer), torch.randn(2, 8, 5, 5))
    assert packed.spec.norm == {"kind": "module", "class": "torch.nn.modules.normalization.GroupNorm"}
    described = describe(layer.to("meta"))
    assert described == packed.spec


@pytest.mark.parametrize("threads", [0, -1, True, 1.5, 99999])
def test_threads_that_cannot_be(threads: Any) -> None:
    with pytest.raises(ConfigError, match=r"deploy: threads=.*expected a number from 1 to 1024"):
        binarize.deploy(nn.Conv2d(3, 3, 3), threads=threads)
