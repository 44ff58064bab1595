"""`deploy`: a copy of a converted network whose binary layers compute from bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor, nn

from binarize.errors import ConfigError, FormatError, unknown_name, warn
from binarize.graph.model_copy import copied
from binarize.graph.rewrite.module_slots import Places
from binarize.graph.trace.roles import known_class
from binarize.graph.unsupported import refuse
from binarize.graph.wrappers import unwrapped
from binarize.layers import BinaryAttention, BinaryLayer
from binarize.layers.float_weights import has_float_weights
from binarize.model_info import first_nan, plan_of
from binarize.runtime.layer import PackedLayer, Precision, RuntimeOptions
from binarize.runtime.lower import empty_packed, lower
from binarize.runtime.packing.describe import Refusal, describe
from binarize.runtime.program.dispatch import Programs
from binarize.runtime.report import DeployReport, LayerReport
from binarize.runtime.spec import PackedSpec

_LAYERS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)


ATTENTION = "binary attention is computed in float: its factors are two-valued, and no kernel has its bits"
"""What the report says of it."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
MOST_THREADS = 1024
"""More of them, and the system may have none left."""


def deploy(
    model: nn.Module,
    *,
    threads: int | None = None,
    exact_scales: bool = RuntimeOptions.exact_scales,
    precision: str = RuntimeOptions.precision,
) -> nn.Module:
    """A copy of `model` for inference, its binary layers packed; the given model is left untouched.

    The copy is an ordinary module in evaluation mode that takes and gives ordinary tensors. Nothing of it can
    be trained. What became of each layer is in its attribute `deploy_report` (`binarize.runtime.report`): a
    binary layer that cannot be packed stays as it is, and the report says why.

    Args:
        model: converted, on the CPU; of one in a wrapper (torch.compile, data parallelism), the model inside.
        threads: of native kernels, None for as many as torch has. The torch reference, which computes where
            there is no kernel, uses torch's own.
        exact_scales: True keeps native kernels from rounding scales that stand inside a sum (bidense per
            channel). Rounded ones take half the time or less; `docs/kernels.md` states the error.
            `configure` sets it for a network that `load` gave.
        precision: of the maps that a program stores between packed layers, and of the weights of float
            classifiers. `float32`, or `bf16`: half the memory to write and to read, each value rounded by at
            most 2^-8 of itself (`RuntimeOptions`).

    Raises:
        ConfigError: a model without binary layers, on another device, or one that cannot be copied; another
            precision.
    """
    options = _options("deploy", threads, exact_scales, precision)
    model = unwrapped(model)
    _check(model)
    refuse(model)
    if name := first_nan(model):
        warn(f"{name} holds NaN, so the packed network computes nothing of use. Was the training broken off?")
    memo: dict[int, Any] = {}
    refused: dict[str, str] = {}
    bits: dict[Any, PackedLayer] = {}
    for path, layer in model.named_modules():
        if not isinstance(layer, BinaryLayer):
            continue
        packed = lower(layer)
        if isinstance(packed, Refusal):
            refused[path] = packed.reason
            continue
        packed.options = options
        twin = bits.setdefault(
            (id(layer.weight), str(layer.weight_rule), id(layer.weight_state), str(packed.bits.shape)), packed
        )
        if torch.equal(twin.bits, packed.bits):  # of one latent weight: stored once
            packed.bits = twin.bits
        memo[id(layer)] = packed
    result = copied(model, memo)  # latent weights of packed layers are never copied
    return finished(result, refused)


def configure(
    model: nn.Module,
    *,
    threads: int | None = None,
    exact_scales: bool = RuntimeOptions.exact_scales,
    precision: str = RuntimeOptions.precision,
) -> nn.Module:
    """Set how the kernels of a deployed network work, in place; what is left out becomes the default.

    A packed file does not hold them: this is for what `binarize.load` gives.

    Args:
        model: deployed.
        threads: see `deploy`.
        exact_scales: see `deploy`.
        precision: see `deploy`.

    Returns:
        `model`.

    Raises:
        ConfigError: a model that is not deployed, such a number of threads, or another precision.
    """
    layers = deployed_layers(model)
    if not layers:
        raise ConfigError(f"{type(model).__name__} is not deployed: binarize.deploy(model) first.")
    options = _options("configure", threads, exact_scales, precision)
    for layer in layers.values():
        layer.options = options
    return model


def _options(what: str, threads: int | None, exact_scales: bool, precision: str) -> RuntimeOptions:
    whole = isinstance(threads, int) and not isinstance(threads, bool)
    if threads is not None and not (whole and 1 <= threads <= MOST_THREADS):
        raise ConfigError(f"{what}: threads={threads!r}, expected a number from 1 to {MOST_THREADS} or None.")
    if precision not in PRECISIONS:
        raise ConfigError(f"{what}: {unknown_name('precision', str(precision), PRECISIONS)}")
    return RuntimeOptions(threads=threads, exact_scales=bool(exact_scales), precision=precision)


def finished(model: nn.Module, refused: Mapping[str, str]) -> nn.Module:
    """`model` in evaluation mode without a gradient, and with its report."""
    model.requires_grad_(False)
    model.eval()
    model.deploy_report = _report(model, refused)  # type: ignore[assignment]
    model.binarize_programs = Programs(model)  # type: ignore[assignment]
    return model


def deployed_layers(model: nn.Module) -> dict[str, PackedLayer]:
    """The packed layers of `model` by path, each once."""
    return {path: module for path, module in model.named_modules() if isinstance(module, PackedLayer)}


def with_packed_layers(model: nn.Module, specs: Mapping[str, PackedSpec], where: str) -> nn.Module:
    """`model` with empty packed layers for binary ones, in place (or the packed layer, if it is one itself).

    Args:
        model: converted or deployed, its tensors with or without data.
        specs: by path of the layer.
        where: names the file that the specs come from.

    Raises:
        FormatError: a path or a spec that is not that of the layer there.
    """
    places = Places(model)
    modules = dict(model.named_modules())
    for path, spec in specs.items():
        layer = modules.get(path)
        found = layer.spec if isinstance(layer, PackedLayer) else None
        if isinstance(layer, BinaryLayer):
            found = describe(layer)
        if layer is None or found is None:
            what = "no layer of that name" if layer is None else f"a {type(layer).__name__} there"
            raise FormatError(f"{where}: the file lists {path!r} as packed, but the model has {what}.")
        if isinstance(found, Refusal) or found != spec:
            got = found.reason if isinstance(found, Refusal) else f"the model's is {found.as_dict()}"
            raise FormatError(f"{where}: layer {path!r} is {spec.as_dict()}, but {got}.")
        packed = empty_packed(layer, spec)
        if not path:
            return packed
        places.replace(layer, packed)
    return model


def _check(model: nn.Module) -> None:
    binary = [(path, module) for path, module in model.named_modules() if isinstance(module, BinaryLayer)]
    if not binary:
        if deployed_layers(model):
            raise ConfigError(f"{type(model).__name__} is deployed already: use it as it is.")
        raise ConfigError(
            f"{type(model).__name__} has no binary layer to deploy: convert it first, "
            "binarize.deploy(binarize.apply(model, 'bidense'))."
        )
    if has_float_weights(model):
        raise ConfigError(
            f"{type(model).__name__} has binary activations, but its weights are float: it is a stage on the "
            "way to a binary network. Train the next stage, and deploy that."
        )
    for path, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise ConfigError(f"{path} has no data (meta device): load its weights before deploying it.")
        if tensor.device.type != "cpu":
            raise ConfigError(
                f"{path} is on {tensor.device}: packed layers are made on the CPU; deploy a copy there, "
                "binarize.deploy(copy.deepcopy(model).cpu())."
            )


def _report(model: nn.Module, refused: Mapping[str, str]) -> DeployReport:
    plan = plan_of(model)
    kept = {row.name: row.reason for row in plan.rows if not row.converted} if plan is not None else {}
    rows: list[LayerReport] = []
    floats: dict[str, str] = {}
    inside = ""
    for path, module in model.named_modules():
        if inside and path.startswith(inside):
            continue  # parts of a packed layer
        if isinstance(module, PackedLayer):
            inside = f"{path}."
            size = module.bits.numel() + sum(
                t.numel() * t.element_size() for name, t in module.named_buffers() if name != "bits"
            )
            kind, why, weights = module.spec.kind, module.why_by_torch() or "", module.spec.weights
        elif isinstance(module, _LAYERS):
            bias = module.own_bias if isinstance(module, BinaryLayer) else module.bias
            own = [t for t in (module.weight, bias) if isinstance(t, Tensor)]
            size = sum(t.numel() * t.element_size() for t in own)
            why = refused.get(path) or kept.get(path) or "is float in the given model"
            kind = known_class(module).__name__
            weights = own[0].numel() if own else 0
            if isinstance(module, BinaryLayer):
                floats[path] = why
        else:
            continue
        packed = isinstance(module, PackedLayer)
        rows.append(LayerReport(name=path, kind=kind, packed=packed, reason=why, weights=weights, bytes=size))
    return DeployReport(
        model=type(model).__name__, layers=tuple(rows), refused=floats, attentions=_attentions(model)
    )


def _attentions(model: nn.Module) -> tuple[LayerReport, ...]:
    found = [(path, m) for path, m in model.named_modules() if isinstance(m, BinaryAttention)]
    return tuple(
        LayerReport(
            name=path,
            kind="attention",
            packed=False,
            reason=ATTENTION,
            weights=0,
            bytes=sum(p.numel() * p.element_size() for p in module.parameters()),
        )
        for path, module in found
    )
