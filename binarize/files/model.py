"""`save` and `load`: a model, converted or float, in one file that rebuilds it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from binarize.errors import BinarizeError, ConfigError, FormatError
from binarize.files.blank import WithoutStartValues
from binarize.files.compare import difference
from binarize.files.container import check_target, detached, read, read_metadata, write
from binarize.files.header import ENTRY, Header, dtype_of, loads, verify
from binarize.files.source import build, find_source, on_meta, qualified_name
from binarize.files.zoo import locate
from binarize.layers import BinaryLayer

if TYPE_CHECKING:
    from binarize.graph import Plan


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    source: Mapping[str, Any] | None = None,
    entries: Mapping[str, str] | None = None,
) -> Path:
    """Write `model`, converted or float, to one safetensors file that `load` rebuilds it from.

    The file holds every parameter and persistent buffer, bit for bit, and a header entry (`docs/files.md`):
    how to build the float model, the plan that was executed on it, tied parameters, package versions. It
    appears at once and whole; an existing file is replaced.

    Args:
        model: on any device; left untouched. Of one in a wrapper (torch.compile, DistributedDataParallel,
            DataParallel), the model inside is written.
        path: the file, by custom `.safetensors`.
        source: how to rebuild the float model, if the caller knows for sure (the `binarize_spec` of a model
            that it has just built). By default it is found out, which takes building the model once more.
        entries: further texts for the file's header, by name; `load` does not look at them.

    Returns:
        Where the file is.

    Raises:
        ConfigError: for a path that cannot be written, a full disk, or a model whose state is more than
            dense tensors.
    """
    check_target(path)  # before the work
    model = _unwrapped(model)
    tensors, aliases = _state(model)
    plan = _plan_of(model)
    if plan is not None and any(row.reason == "is binary already" for row in plan.rows):
        raise ConfigError(
            f"{type(model).__name__} was converted twice, and a file holds one conversion: convert the float "
            "model once, with Policy(keep=...) for what is to stay float."
        )
    if source is None:
        source = find_source(model, None if plan is None else lambda shell: _execute(plan, shell))
    header = Header(
        source=source,
        plan=None if plan is None else plan.as_dict(),
        aliases=aliases,
        transient={name: str(b.dtype).removeprefix("torch.") for name, _, b in _transient_buffers(model)},
        versions={name: _version(name) for name in ("binarize", "torch", "timm")},
    )
    return write(path, tensors, {**(entries or {}), ENTRY: header.dumps(tensors)})


def load(path: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """The model that `save` wrote: rebuilt, its plan executed, every tensor as it was.

    It comes in eval mode, on the CPU. Which parameters are frozen is not in the file: it is as in
    the float model, given or rebuilt.

    Args:
        path: a file written by `save`, or `zoo:NAME`.
        model: the float model, for a file whose model is of a custom class; left untouched.

    Raises:
        ConfigError: if there is no such file, or it holds a custom class and `model` is missing.
        FormatError: if the file is truncated, corrupted, foreign or of a newer format, or does not fit the
            model that it, or the caller, names.
    """
    path = locate(path)
    where = repr(str(path))
    container = read(path)
    header, fields = loads(container.metadata, where)
    verify(fields, container.tensors, where)
    tensors = _with_aliases(container.tensors, header.aliases, where)
    with torch.random.fork_rng(devices=[]):  # the start values that are drawn here are all replaced
        result = _rebuilt(header, tensors, model, where)
    problem = difference(_shapes(result), tensors)
    if problem:
        raise FormatError(f"{where} does not fit {_subject(header, result)}: {problem}.")
    _assign(result, tensors, where)
    dtypes = {name: dtype_of(dtype, where) for name, dtype in header.transient.items()}
    for name, owner, buffer in list(_transient_buffers(result)):
        if name in dtypes:
            owner._buffers[name.rpartition(".")[2]] = buffer.to(dtypes[name])
    return result.eval()


def read_header(path: str | os.PathLike[str]) -> Header:
    """What a model file says about its model, without reading its tensors; raises as `load`."""
    path = locate(path)
    return loads(read_metadata(path), repr(str(path)))[0]


def _state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What to store, and the names that share a tensor with a stored one."""
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[Any, str] = {}
    taken: set[int] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise ConfigError(f"cannot save {name!r}: a {type(value).__name__}, expected a tensor.")
        if value.is_meta or value.layout is not torch.strided or value.is_quantized or value.dtype.is_complex:
            kind = "a tensor without data" if value.is_meta else f"a {value.layout}, {value.dtype} tensor"
            raise ConfigError(f"cannot save {name!r}: {kind}, expected a dense tensor of numbers.")
        key = (value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        if value.numel() and key in first:
            aliases[name] = first[key]
            continue
        first[key] = name
        tensor = detached(value)
        storage = tensor.untyped_storage().data_ptr()
        # safetensors refuses tensors that overlap, and would refuse a view of something larger
        stored[name] = tensor.clone() if storage in taken else tensor
        taken.add(storage)
    return stored, aliases


def _with_aliases(stored: Mapping[str, Tensor], aliases: Mapping[str, str], where: str) -> dict[str, Tensor]:
    tensors = dict(stored)
    for name, target in aliases.items():
        if target not in stored or name in stored:
            raise FormatError(
                f"{where} is corrupted: {name!r} is said to be tied to {target!r}, which cannot be."
            )
        tensors[name] = stored[target]
    return tensors


def _rebuilt(header: Header, tensors: Mapping[str, Tensor], model: nn.Module | None, where: str) -> nn.Module:
    """The model with the right structure and any weights."""
    custom = header.source["source"] == "custom"
    if model is None and custom:
        raise ConfigError(
            f"{where} holds a model of the custom class {header.source['class']}: give the float model "
            "that it was made from, binarize.load(path, model=...), or on the command line --model "
            "FILE.py:CALLABLE."
        )
    plan = _stored_plan(header, where)
    if model is None:
        _check_size(header.source, tensors, where)
        try:
            with WithoutStartValues():
                model = build(header.source)
        except ConfigError as error:
            raise FormatError(f"{where}: the model that its header names cannot be built: {error}") from error
    else:
        model = _copied(model)
    if custom and type(model).__name__ != str(header.source["class"]).rpartition(".")[2]:
        expected = header.source["class"]
        raise FormatError(
            f"{where} holds a model of class {expected}, not of the given {qualified_name(model)}."
        )
    if plan is not None and any(isinstance(module, BinaryLayer) for module in model.modules()):
        raise ConfigError(
            f"{where} holds a converted {qualified_name(model)}: give the float model that it was made "
            "from, not one that is binary already."
        )
    if plan is not None:
        try:
            model = _execute(plan, model)
        except Exception as error:  # a plan from a file may be wrong in any way
            raise FormatError(
                f"{where}: its plan cannot be executed on {qualified_name(model)}: {error}"
            ) from error
    return model


def _copied(model: nn.Module) -> nn.Module:
    from binarize.graph.refusals import copied, unwrapped

    return copied(unwrapped(model))


def _unwrapped(model: nn.Module) -> nn.Module:
    from binarize.graph.refusals import unwrapped

    return unwrapped(model)


def _stored_plan(header: Header, where: str) -> Plan | None:
    if header.plan is None:
        return None
    from binarize.graph import Plan

    try:
        return Plan.from_dict(dict(header.plan))
    except (BinarizeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{where}: the plan in its header cannot be read: {error}") from error


def _check_size(source: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse a header that names a far larger model than the file holds, before memory is taken for it."""
    shell = on_meta(source)
    if shell is None:
        return
    named = sum(parameter.numel() for parameter in shell.parameters())
    held = sum(tensor.numel() for tensor in tensors.values())
    if named > 2 * held + 1_000_000:
        raise FormatError(
            f"{where} is corrupted: its header names a model of {named:,} parameters, it holds {held:,}."
        )


def _assign(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Put the tensors in place with their own dtypes; tied parameters become one parameter."""
    slots = model.state_dict(keep_vars=True)
    made: dict[int, nn.Parameter] = {}
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        slot = slots[name]
        if not isinstance(slot, nn.Parameter):
            state[name] = tensor
            continue
        if slot.is_floating_point() != tensor.is_floating_point():
            raise FormatError(
                f"{where}: {name!r} is {tensor.dtype}, which a parameter of {slot.dtype} cannot be."
            )
        if id(tensor) not in made:
            made[id(tensor)] = nn.Parameter(tensor, requires_grad=slot.requires_grad)
        state[name] = made[id(tensor)]
    model.load_state_dict(state, strict=True, assign=True)


def _transient_buffers(model: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Name, owner and value of each floating-point buffer that the state dict leaves out."""
    for prefix, owner in model.named_modules():
        for name in sorted(owner._non_persistent_buffers_set):
            buffer = owner._buffers.get(name)
            if buffer is not None and buffer.is_floating_point():
                yield (f"{prefix}.{name}" if prefix else name), owner, buffer


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(value.shape) for name, value in model.state_dict().items() if isinstance(value, Tensor)
    }


def _plan_of(model: nn.Module) -> Plan | None:
    return getattr(model, "binarize_plan", None)


def _execute(plan: Plan, model: nn.Module) -> nn.Module:
    from binarize.graph import execute

    return execute(plan, model, copy=False)


def _subject(header: Header, model: nn.Module) -> str:
    if header.source["source"] == "custom":
        return f"the given {qualified_name(model)}"
    return f"{header.source['source']} model {header.source['name']!r}, which its header names"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
