"""Packed files: a deployed network, one bit per binary weight. `docs/format.md` specifies every byte."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from binarize.errors import BinarizeError, ConfigError, FormatError, unknown_name
from binarize.files.build_contexts import TooLargeError
from binarize.files.difference import difference
from binarize.files.container import file_size, write
from binarize.files.header import ENTRY, LEFTOVERS, PackedHeader
from binarize.files.float_network import execute, plan_of, rebuilt, subject, versions
from binarize.files.float_source import find_source
from binarize.files.state import assign, shapes, state_of, strides_of, transient_buffers
from binarize.layers import BinaryLayer

if TYPE_CHECKING:
    from binarize.graph import Plan
    from binarize.runtime import PackedSpec

_WIDENED = (torch.float16, torch.bfloat16, torch.float64)


def save_packed(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    source: Mapping[str, Any] | None = None,
    entries: Mapping[str, str] | None = None,
    leftovers: str = "float32",
) -> Path:
    """Write `model`, converted or deployed, to a packed file; see `binarize.save`."""
    from binarize.runtime import deploy, deployed_layers, report
    from binarize.runtime.stored import within

    if leftovers not in LEFTOVERS:
        raise ConfigError(unknown_name("dtype of leftovers", str(leftovers), LEFTOVERS))
    plan = plan_of(model)
    check_converted_once(model, plan)
    deployed = model if is_deployed(model) else deploy(model)
    layers = {name: layer.spec for name, layer in deployed_layers(deployed).items()}
    if not layers:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(report(deployed).refused.items())[:3])
        raise ConfigError(f"no layer of {type(model).__name__} can be packed: {reasons}.")
    kept = report(deployed).refused
    tensors, aliases = state_of(deployed)
    tensors = {
        name: _narrowed(name, tensor, "float32" if within(name, kept) else leftovers)
        for name, tensor in tensors.items()
    }
    if source is None:
        if plan is not None and deployed is not model:  # without its packed layers, which are slow to make
            source = find_source(model, lambda shell: execute(plan, shell))
        else:
            source = find_source(deployed, lambda shell: _packed_shell(shell, plan, layers))
    strides = {name: s for name, s in strides_of(deployed).items() if name in tensors}
    header = _header(source, plan, aliases, layers, kept, leftovers, strides)
    return write(path, tensors, {**(entries or {}), ENTRY: header.dumps(tensors)})


def packed_size(
    model: nn.Module,
    *,
    source: Mapping[str, Any],
    entries: Mapping[str, str] | None = None,
    leftovers: str = "float32",
) -> int | None:
    """Bytes of the file that `save_packed` writes of `model`, to the byte; None if there is nothing to pack.

    Args:
        model: converted or deployed; left untouched, its weights are not looked at (`runtime.stored`).
        source: as the file says it.
        entries: further texts for the file's header.
        leftovers: dtype of the floats.
    """
    from binarize.runtime import stored

    found = stored(model, getattr(torch, leftovers))
    if not found.layers:
        return None
    strides = {name: s for name, s in strides_of(model).items() if name in found.tensors}
    header = _header(source, plan_of(model), found.aliases, found.layers, found.kept, leftovers, strides)
    empty = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in found.tensors.items()}
    return file_size(empty, {**(entries or {}), ENTRY: header.blank()})


def _header(
    source: Mapping[str, Any],
    plan: Plan | None,
    aliases: Mapping[str, str],
    layers: Mapping[str, PackedSpec],
    kept: Mapping[str, str],
    leftovers: str,
    strides: Mapping[str, list[int]],
) -> PackedHeader:
    return PackedHeader(
        source=source,
        plan=None if plan is None else plan.as_dict(short=True),
        aliases=aliases,
        versions=versions(),
        strides=strides,
        layers={name: spec.as_dict() for name, spec in layers.items()},
        kept=kept,
        leftovers=leftovers,
    )


def load_packed(
    header: PackedHeader, tensors: Mapping[str, Tensor], model: nn.Module | None, where: str
) -> nn.Module:
    """The deployed network in a packed file whose container is read and checked; see `binarize.load`.

    Latent weights never take memory: the network is rebuilt without data where its class can be, otherwise
    (it computes tensors that no file holds when it is built) in memory that is given back untouched.
    """
    from binarize.runtime import PackedSpec
    from binarize.runtime.deploy import finished

    if any(tensor.is_complex() for tensor in tensors.values()):
        raise FormatError(f"{where} is corrupted: it holds complex numbers.")
    specs = {
        name: PackedSpec.from_dict(given, f"{where}: layer {name!r}") for name, given in header.layers.items()
    }
    tensors = _widened(tensors)
    for name, spec in specs.items():
        _check_tensors(name, spec, tensors, where)
    with torch.random.fork_rng(devices=[]):
        result = _rebuilt(header, specs, tensors, model, where)
    for name, owner, buffer in list(transient_buffers(result)):
        if buffer.dtype in _WIDENED:
            owner._buffers[name.rpartition(".")[2]] = buffer.float()
    return finished(result, header.kept)


def is_deployed(model: nn.Module) -> bool:
    """Whether some layer of `model` is packed."""
    from binarize.runtime import PackedLayer

    return any(isinstance(module, PackedLayer) for module in model.modules())


def check_converted_once(model: nn.Module, plan: Plan | None) -> None:
    """Refuse a model that no single plan rebuilds.

    Raises:
        ConfigError: it was converted twice.
    """
    if plan is not None and any(row.reason == "is binary already" for row in plan.rows):
        raise ConfigError(
            f"{type(model).__name__} was converted twice, and a file holds one conversion: convert the float "
            "model once, with Policy(keep=...) for what is to stay float."
        )


def _narrowed(name: str, tensor: Tensor, leftovers: str) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    narrow = tensor.to(getattr(torch, leftovers))
    if bool((torch.isinf(narrow) & torch.isfinite(tensor)).any()):
        raise ConfigError(
            f"{name!r} holds numbers up to {float(tensor.abs().max()):.3g}, too large for {leftovers}; save "
            "with leftovers='bfloat16' or 'float32'."
        )
    return narrow


def _widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All floats as float32; tensors under several names stay one."""
    wide = {id(t): t.float() if t.is_floating_point() else t for t in tensors.values()}
    return {name: wide[id(t)] for name, t in tensors.items()}


def _packed_shell(shell: nn.Module, plan: Plan | None, specs: Mapping[str, PackedSpec]) -> nn.Module:
    """The float model `shell` converted by `plan`, with empty packed layers."""
    from binarize.runtime.deploy import with_packed_layers
    from binarize.runtime.fuse import fuse

    if plan is not None:
        shell = execute(plan, shell)
    shell = with_packed_layers(shell, specs, "the model").eval()
    fuse(shell)  # as was done to the network that this is compared with
    return shell


def _rebuilt(
    header: PackedHeader,
    specs: Mapping[str, PackedSpec],
    tensors: Mapping[str, Tensor],
    model: nn.Module | None,
    where: str,
) -> nn.Module:
    for blank in (True, False):
        try:
            shell = _filled(header, specs, tensors, model, where, blank=blank)
        except (ConfigError, TooLargeError):  # which data would not change
            raise
        except BinarizeError:
            if not blank:
                raise
            continue
        except Exception as error:  # of a class that needs data to be built
            if not blank:
                raise FormatError(f"{where} cannot be rebuilt: {error}") from error
            continue
        if not blank or not any(tensor.is_meta for tensor in _held(shell)):
            return shell
    raise FormatError(f"{where} cannot be rebuilt: not all of its tensors are in the file.")


def _filled(
    header: PackedHeader,
    specs: Mapping[str, PackedSpec],
    tensors: Mapping[str, Tensor],
    model: nn.Module | None,
    where: str,
    *,
    blank: bool,
) -> nn.Module:
    from binarize.runtime.deploy import with_packed_layers

    held = sum(tensor.numel() for tensor in tensors.values()) + sum(spec.weights for spec in specs.values())
    result = with_packed_layers(rebuilt(header, held, model, where, blank=blank), specs, where)
    binary = {name for name, module in result.named_modules() if isinstance(module, BinaryLayer)}
    for name in sorted(binary - header.kept.keys()):
        raise FormatError(f"{where}: {name!r} is a binary layer of the model, but not one of the file.")
    for name in sorted(header.kept.keys() - binary):
        raise FormatError(f"{where}: {name!r} is said to be a layer that was kept, but is none.")
    problem = difference(shapes(result), tensors)
    if problem:
        raise FormatError(f"{where} does not fit {subject(header, result)}: {problem}.")
    assign(result, tensors, where)
    return result


def _check_tensors(name: str, spec: PackedSpec, tensors: Mapping[str, Tensor], where: str) -> None:
    """The two tensors of a layer have the sizes that its header says."""
    prefix = f"{name}." if name else ""
    sizes = {"bits": -(-spec.weights // 8), "vectors": sum(spec.vectors().values())}
    for part, size in sizes.items():
        tensor = tensors.get(prefix + part)
        if tensor is None or tuple(tensor.shape) != (size,):
            got = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
            raise FormatError(f"{where}: {prefix + part!r} is {got}, expected {size} numbers.")
        right = tensor.dtype == torch.uint8 if part == "bits" else tensor.is_floating_point()
        if not right:
            raise FormatError(f"{where}: {prefix + part!r} is {tensor.dtype}.")


def _held(model: nn.Module) -> Iterator[Tensor]:
    """The tensors of a model, those in plain attributes and lists of its modules too."""
    for module in model.modules():
        for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
            items = value if isinstance(value, (list, tuple)) else (value,)
            yield from (item for item in items if isinstance(item, Tensor))
