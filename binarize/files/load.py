"""`save` and `load`: a model, converted or float, in one file that rebuilds it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from binarize import preprocessing
from binarize.errors import ConfigError, FormatError
from binarize.files.difference import difference
from binarize.files.container import check_target, read, read_metadata, write
from binarize.files.header import ENTRY, Header, PackedHeader, dtype_of, loads, verify
from binarize.files.packed import check_converted_once, is_deployed, load_packed, packed_size, save_packed
from binarize.files.float_network import execute, plan_of, rebuilt, subject, unwrapped, versions
from binarize.files.float_source import find_source
from binarize.files.state import (
    assign,
    laid_out,
    shapes,
    state_of,
    strides_of,
    transient_buffers,
    with_aliases,
)
from binarize.files.zoo import PREFIX, locate
from binarize.preprocessing import Preprocessing


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    source: Mapping[str, Any] | None = None,
    entries: Mapping[str, str] | None = None,
    packed: bool = False,
    leftovers: str = "float32",
) -> Path:
    """Write `model`, converted or float, to one safetensors file that `load` rebuilds it from.

    With `packed`, the file holds one bit per binary weight and what `deploy` makes of the rest
    (`docs/format.md`): tens of times smaller, for inference only. Otherwise it holds every parameter and
    persistent buffer, bit for bit, and a header entry (`docs/files.md`): how to build the float model, the
    plan that was executed on it, tied parameters, package versions. It appears at once and whole; an existing
    file is replaced.

    Args:
        model: on any device; left untouched. Of one in a wrapper (torch.compile, DistributedDataParallel,
            DataParallel), the model inside is written.
        path: the file, by custom `.safetensors`.
        source: how to rebuild the float model, if the caller knows for sure (the `binarize_spec` of a model
            that it has just built). By default it is found out, which takes building the model once more.
        entries: further texts for the file's header, by name. What images go through (`Preprocessing`) is
            added if it is not among them and `model` says it: by its attribute `binarize_preprocessing`, or
            by timm's configuration.
        packed: write the deployed form of `model`, which may be converted or deployed already.
        leftovers: dtype of the floats in a packed file: `float32`, `float16` or `bfloat16`; `load` gives
            float32 again.

    Returns:
        Where the file is.

    Raises:
        ConfigError: for a path that cannot be written, a full disk, a model whose state is more than dense
            tensors, one that is deployed but not to be packed, or one to be packed without binary layers.
    """
    check_target(path)  # before the work
    model = unwrapped(model)
    entries = {**_preprocessing_entry(model), **(entries or {})}
    if packed:
        return save_packed(model, path, source=source, entries=entries, leftovers=leftovers)
    if leftovers != "float32":
        raise ConfigError(f"save: leftovers={leftovers!r} is for packed files; say packed=True too.")
    if is_deployed(model):
        raise ConfigError(
            f"{type(model).__name__} is deployed, its latent weights are gone: save it with packed=True."
        )
    tensors, aliases = state_of(model)
    plan = plan_of(model)
    check_converted_once(model, plan)
    if source is None:
        source = find_source(model, None if plan is None else lambda shell: execute(plan, shell))
    header = Header(
        source=source,
        plan=None if plan is None else plan.as_dict(),
        aliases=aliases,
        transient={name: str(b.dtype).removeprefix("torch.") for name, _, b in transient_buffers(model)},
        versions=versions(),
        strides={name: s for name, s in strides_of(model).items() if name in tensors},
    )
    return write(path, tensors, {**entries, ENTRY: header.dumps(tensors)})


def load(path: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """The model that `save` wrote: rebuilt, its plan executed, every tensor as it was.

    It comes in eval mode, on the CPU; what the file says of images is its attribute `binarize_preprocessing`.
    Which parameters are frozen is not in the file: it is as in the float model, given or rebuilt. A packed
    file gives a deployed model (`binarize.deploy`), which is for inference.

    Args:
        path: a file written by `save`, or `zoo:NAME`.
        model: the float model, for a file whose model is of a custom class; left untouched.

    Raises:
        ConfigError: if there is no such file, or it holds a custom class and `model` is missing.
        FormatError: if the file is truncated, corrupted, foreign or of a newer format, or does not fit the
            model that it, or the caller, names.
    """
    from_zoo = os.fspath(path).startswith(PREFIX)
    path = locate(path)
    where = repr(str(path))
    container = read(path)
    header, fields = loads(container.metadata, where)
    verify(fields, container.tensors, where)
    stored = laid_out(container.tensors, header.strides, where)
    tensors = with_aliases(stored, header.aliases, where)
    images = _preprocessing(container.metadata, where)
    if isinstance(header, PackedHeader):
        return _told(load_packed(header, tensors, model, where), images)
    held = sum(tensor.numel() for tensor in tensors.values())
    with torch.random.fork_rng(devices=[]):  # the start values that are drawn here are all replaced
        result = rebuilt(header, held, model, where, blank=False)
    problem = difference(shapes(result), tensors)
    if problem:
        raise FormatError(f"{where} does not fit {subject(header, result)}: {problem}.")
    assign(result, tensors, where)
    dtypes = {name: dtype_of(dtype, where) for name, dtype in header.transient.items()}
    for name, owner, buffer in list(transient_buffers(result)):
        if name in dtypes:
            owner._buffers[name.rpartition(".")[2]] = buffer.to(dtypes[name])
    result = result.float() if from_zoo else result  # the zoo's float weights have 16 bits
    return _told(result.eval(), images)


def read_header(path: str | os.PathLike[str]) -> Header:
    """What a model file says about its model, without reading its tensors; raises as `load`."""
    path = locate(path)
    return loads(read_metadata(path), repr(str(path)))[0]


def read_preprocessing(path: str | os.PathLike[str]) -> Preprocessing | None:
    """What a file says that images go through before the network; None if it says nothing.

    Raises:
        ConfigError: there is no such file.
        FormatError: it is no model file, or its entry is corrupted.
    """
    path = locate(path)
    return _preprocessing(read_metadata(path), repr(str(path)))


def _preprocessing(metadata: Mapping[str, str], where: str) -> Preprocessing | None:
    text = metadata.get(preprocessing.ENTRY)
    if text is None:  # older files, and networks of which nothing is known
        return None
    try:
        return Preprocessing.from_dict(json.loads(text))
    except (ValueError, AttributeError, RecursionError) as error:
        raise FormatError(f"{where} is corrupted: its {preprocessing.ENTRY!r} entry: {error}") from error


def _preprocessing_entry(model: nn.Module) -> dict[str, str]:
    found = preprocessing.preprocessing_of(model)
    return {} if found is None else {preprocessing.ENTRY: found.dumps()}


def _told(model: nn.Module, images: Preprocessing | None) -> nn.Module:
    if images is not None:
        model.binarize_preprocessing = images.as_dict()  # type: ignore[assignment] - a plain attribute
    return model


def deployed_size(path: str | os.PathLike[str], model: nn.Module) -> int | None:
    """Bytes of the file that `binarize deploy` writes of a network, to the byte; nothing is written.

    Args:
        path: its file; of a packed one, the size is its own.
        model: the network in it; left untouched.

    Returns:
        None for a float network: there is nothing to pack.
    """
    path = locate(path)
    metadata = read_metadata(path)
    header, _ = loads(metadata, repr(str(path)))
    if isinstance(header, PackedHeader):
        return path.stat().st_size
    others = {name: text for name, text in metadata.items() if name != ENTRY}
    return packed_size(unwrapped(model), source=header.source, entries=others)
