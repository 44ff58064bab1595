"""Packed files: a deployed network, one bit per binary weight. `docs/format.md` specifies every byte."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from binarize.errors import ConfigError, FormatError, listed, unknown_name, warn
from binarize.files.container import file_size, write
from binarize.files.find_source import find_source
from binarize.files.header import ENTRY, FLOAT_DTYPES, PackedHeader, versions
from binarize.files.state import state_of, strides_of, transient_buffers
from binarize.files.stored_plan import check_converted_once, executed
from binarize.layers import BinaryLayer
from binarize.model_info import plan_of

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
    float_dtype: str = "float32",
) -> Path:
    """Write `model`, converted or deployed, to a packed file; see `binarize.save`."""
    from binarize.runtime import deploy, deployed_layers, report
    from binarize.runtime.stored import within

    if float_dtype not in FLOAT_DTYPES:
        raise ConfigError(unknown_name("dtype of floats", str(float_dtype), FLOAT_DTYPES))
    plan = plan_of(model)
    check_converted_once(model, plan)
    deployed = model if is_deployed(model) else deploy(model)
    layers = {name: layer.spec for name, layer in deployed_layers(deployed).items()}
    if not layers:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(report(deployed).refused.items())[:3])
        raise ConfigError(f"no layer of {type(model).__name__} can be packed: {reasons}.")
    _warn_of_other_dtypes(model)
    kept = report(deployed).refused
    tensors, aliases = state_of(deployed)
    tensors = {
        name: _narrowed(name, tensor, "float32" if within(name, kept) else float_dtype)
        for name, tensor in tensors.items()
    }
    if source is None:
        if plan is not None and deployed is not model:  # without its packed layers, which are slow to make
            source = find_source(model, lambda shell: executed(plan, shell))
        else:
            source = find_source(deployed, lambda shell: _packed_shell(shell, plan, layers))
    strides = {name: s for name, s in strides_of(deployed).items() if name in tensors}
    header = _header(source, plan, aliases, layers, kept, float_dtype, strides)
    return write(path, tensors, {**(entries or {}), ENTRY: header.dumps(tensors)})


def packed_size(
    model: nn.Module,
    *,
    source: Mapping[str, Any],
    entries: Mapping[str, str] | None = None,
    float_dtype: str = "float32",
) -> int | None:
    """Bytes of the file that `save_packed` writes of `model`, to the byte; None if there is nothing to pack.

    Args:
        model: converted or deployed; left untouched, its weights are not read (`runtime.stored`).
        source: as the file says it.
        entries: further texts for the file's header.
        float_dtype: of the floats.
    """
    from binarize.runtime import stored

    found = stored(model, getattr(torch, float_dtype))
    if not found.layers:
        return None
    strides = {name: s for name, s in strides_of(model).items() if name in found.tensors}
    header = _header(source, plan_of(model), found.aliases, found.layers, found.kept, float_dtype, strides)
    empty = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in found.tensors.items()}
    return file_size(empty, {**(entries or {}), ENTRY: header.blank()})


def _header(
    source: Mapping[str, Any],
    plan: Plan | None,
    aliases: Mapping[str, str],
    layers: Mapping[str, PackedSpec],
    kept: Mapping[str, str],
    float_dtype: str,
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
        leftovers=float_dtype,
    )


@dataclass(frozen=True)
class PackedLayers:
    """The packed layers that a packed file describes.

    Attributes:
        specs: by path.
        kept: binary layers that are not packed, and why.
        where: names the file in messages.
    """

    specs: Mapping[str, PackedSpec]
    kept: Mapping[str, str]
    where: str

    @classmethod
    def read(cls, header: PackedHeader, tensors: Mapping[str, Tensor], where: str) -> PackedLayers:
        """The layers of a header.

        Raises:
            FormatError: a layer is described wrongly, or its tensors are not those that it says.
        """
        from binarize.runtime import PackedSpec

        if any(tensor.is_complex() for tensor in tensors.values()):
            raise FormatError(f"{where} is corrupted: it holds complex numbers.")
        specs = {
            name: PackedSpec.from_dict(given, f"{where}: layer {name!r}")
            for name, given in header.layers.items()
        }
        for name, spec in specs.items():
            _check_tensors(name, spec, tensors, where)
        return cls(specs, header.kept, where)

    def weights(self) -> int:
        """How many there are."""
        return sum(spec.weights for spec in self.specs.values())

    def put_into(self, network: nn.Module) -> nn.Module:
        """`network`, a converted one, with empty packed layers for its binary ones.

        Raises:
            FormatError: the binary layers of the network are not those of the file.
        """
        from binarize.runtime.deploy import with_packed_layers

        where = self.where
        network = with_packed_layers(network, self.specs, where)
        binary = {name for name, module in network.named_modules() if isinstance(module, BinaryLayer)}
        for name in sorted(binary - self.kept.keys()):
            raise FormatError(f"{where}: {name!r} is a binary layer of the model, but not one of the file.")
        for name in sorted(self.kept.keys() - binary):
            raise FormatError(f"{where}: the file lists {name!r} as a kept binary layer, but it is not one.")
        return network

    def finish(self, network: nn.Module) -> nn.Module:
        """The deployed network, once its tensors are in place."""
        from binarize.runtime.deploy import finished

        for name, owner, buffer in list(transient_buffers(network)):
            if buffer.dtype in _WIDENED:
                owner._buffers[name.rpartition(".")[2]] = buffer.float()
        return finished(network, self.kept)


def widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All floats as float32; tensors under several names stay one."""
    wide = {id(t): t.float() if t.is_floating_point() else t for t in tensors.values()}
    return {name: wide[id(t)] for name, t in tensors.items()}


def is_deployed(model: nn.Module) -> bool:
    """Whether some layer of `model` is packed."""
    from binarize.runtime import PackedLayer

    return any(isinstance(module, PackedLayer) for module in model.modules())


def _warn_of_other_dtypes(model: nn.Module) -> None:
    kinds = dict.fromkeys(str(p.dtype).removeprefix("torch.") for p in model.parameters())
    others = [kind for kind in kinds if "float" in kind and kind != "float32"]
    if others:
        warn(
            f"{type(model).__name__} has parameters of {listed(others)}; all floats of a packed file are "
            "read as float32. Give the packed network float32 inputs; one whose forward casts them fails."
        )


def _narrowed(name: str, tensor: Tensor, float_dtype: str) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    narrow = tensor.to(getattr(torch, float_dtype))
    if bool((torch.isinf(narrow) & torch.isfinite(tensor)).any()):
        raise ConfigError(
            f"{name!r} holds numbers up to {float(tensor.abs().max()):.3g}, too large for {float_dtype}; "
            "save with float_dtype='bfloat16' or 'float32'."
        )
    return narrow


def _packed_shell(shell: nn.Module, plan: Plan | None, specs: Mapping[str, PackedSpec]) -> nn.Module:
    """The float model `shell` converted by `plan`, with empty packed layers."""
    from binarize.runtime.deploy import with_packed_layers

    return with_packed_layers(executed(plan, shell), specs, "the model").eval()


def _check_tensors(name: str, spec: PackedSpec, tensors: Mapping[str, Tensor], where: str) -> None:
    """The two tensors of a layer have the sizes that its header says."""
    prefix = f"{name}." if name else ""
    sizes = {"bits": spec.weight_planes * spec.plane_bytes, "vectors": sum(spec.vectors().values())}
    for part, size in sizes.items():
        tensor = tensors.get(prefix + part)
        if tensor is None or tuple(tensor.shape) != (size,):
            got = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
            raise FormatError(f"{where}: {prefix + part!r} is {got}, expected {size} numbers.")
        right = tensor.dtype == torch.uint8 if part == "bits" else tensor.is_floating_point()
        if not right:
            raise FormatError(f"{where}: {prefix + part!r} is {tensor.dtype}.")
