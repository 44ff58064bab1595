"""`load`, in three steps: build the float network, execute the plan, assign the tensors of the file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from binarize import preprocessing
from binarize.errors import BinarizeError, ConfigError, FormatError
from binarize.files.build_contexts import TooLargeError
from binarize.files.checksum import verify
from binarize.files.container import read, read_metadata
from binarize.files.difference import difference
from binarize.files.float_network import float_network
from binarize.files.header import Header, PackedHeader, dtype_of, loads
from binarize.files.packed import PackedLayers, widened
from binarize.files.state import assign, laid_out, shapes, transient_buffers, with_aliases
from binarize.files.stored_plan import apply_plan, leave_weights_float, stored_plan
from binarize.files.zoo import PREFIX, locate
from binarize.model_info import qualified_name
from binarize.preprocessing import Preprocessing

if TYPE_CHECKING:
    from binarize.graph import Plan

_DEPTH = 5  # of lists and dicts in attributes of a module


@dataclass(frozen=True)
class _Contents:
    """What a file holds, read and checked; `where` names it in messages."""

    where: str
    header: Header
    plan: Plan | None
    tensors: dict[str, Tensor]
    packed: PackedLayers | None

    @property
    def held(self) -> int:
        """How many numbers, a binary weight being one."""
        count = sum(tensor.numel() for tensor in self.tensors.values())
        return count if self.packed is None else count + self.packed.weights()


def load(path: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """The model that `save` wrote: rebuilt, its plan executed, every tensor as it was.

    It is in evaluation mode, on the CPU; what the file says of images is its attribute
    `binarize_preprocessing`, and of its output `binarize_truth` (JSON). Which parameters are frozen is not in
    the file: it is as in the float model, given or rebuilt. A packed file gives a deployed model
    (`binarize.deploy`), which is for inference.

    Args:
        path: a file written by `save`, or `zoo:NAME`.
        model: the float model, for a file whose model is of a custom class; left untouched.

    Raises:
        ConfigError: if there is no such file, or it holds a custom class and `model` is missing.
        FormatError: if the file is truncated, corrupted, foreign or of a newer format, or does not fit the
            model that it, or the caller, names.
    """
    from_zoo = os.fspath(path).startswith(PREFIX)
    container = read(locate(path))
    where = repr(str(locate(path)))
    contents = _contents(container.tensors, container.metadata, where)
    images = _preprocessing(container.metadata, where)
    with torch.random.fork_rng(devices=[]):  # the start values that are drawn here are all replaced
        network = _rebuilt(contents, model)
    if contents.packed is not None:
        network = contents.packed.finish(network)
    else:
        _restore_dtypes(network, contents)
        network = network.float() if from_zoo else network  # the zoo's float weights have 16 bits
        leave_weights_float(network, container.metadata)
    if images is not None:
        network.binarize_preprocessing = images.as_dict()  # type: ignore[assignment] - a plain attribute
    if (truth := container.metadata.get(preprocessing.TRUTH_ENTRY)) is not None:
        network.binarize_truth = truth  # type: ignore[assignment] - likewise
    return network.eval()


def _rebuilt(contents: _Contents, model: nn.Module | None) -> nn.Module:
    """The network with the tensors of the file.

    Weights that the file replaces never take memory: the network is built on the meta device. In memory it is
    built only if its class computes tensors that no file holds, or asks tensors for their values.
    """
    network = None
    try:
        network = _in_three_steps(contents, model, on_meta=True)
    except (ConfigError, TooLargeError):  # memory would not change them
        raise
    except Exception:  # of a class that needs data to be built
        pass
    if network is not None:
        return network
    try:
        network = _in_three_steps(contents, model, on_meta=False)
    except BinarizeError:
        raise
    except Exception as error:
        raise FormatError(f"{contents.where} cannot be rebuilt: {error}") from error
    if network is None:
        raise FormatError(f"{contents.where} cannot be rebuilt: not all of its tensors are in the file.")
    return network


def _in_three_steps(contents: _Contents, model: nn.Module | None, *, on_meta: bool) -> nn.Module | None:
    """Build the float network, execute the plan, assign the tensors; None if a tensor has no data then."""
    where = contents.where
    network = float_network(contents.header, contents.held, model, where, on_meta=on_meta)
    if _without_data(network):
        return None
    network = apply_plan(contents.plan, network, contents.held, where)
    if contents.packed is not None:
        network = contents.packed.put_into(network)
    problem = difference(shapes(network), contents.tensors)
    if problem:
        raise FormatError(f"{where} does not fit {_named(contents.header, network)}: {problem}.")
    assign(network, contents.tensors, where)
    return None if _without_data(network) else network


def _without_data(network: nn.Module) -> bool:
    """Whether a tensor that is not in the state, and so not in a file, is on the meta device."""
    state = {id(tensor) for tensor in network.state_dict(keep_vars=True).values()}
    held = (tensor for module in network.modules() for tensor in _tensors(vars(module)))
    return any(tensor.is_meta and id(tensor) not in state for tensor in held)


def _tensors(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """Those in a value, and in lists and dicts in it."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)) and depth < _DEPTH:  # a list may hold itself
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item, depth + 1)


def _restore_dtypes(network: nn.Module, contents: _Contents) -> None:
    """Give the buffers that were rebuilt, and not read, the dtypes that they had."""
    dtypes = {name: dtype_of(dtype, contents.where) for name, dtype in contents.header.transient.items()}
    for name, owner, buffer in list(transient_buffers(network)):
        if name in dtypes:
            owner._buffers[name.rpartition(".")[2]] = buffer.to(dtypes[name])


def _named(header: Header, model: nn.Module) -> str:
    """What the tensors of a file are compared with, for messages."""
    if header.source["source"] == "custom":
        return f"the given {qualified_name(model)}"
    return f"{header.source['source']} model {header.source['name']!r}, which its header names"


def _contents(stored: Mapping[str, Tensor], metadata: Mapping[str, str], where: str) -> _Contents:
    header, fields = loads(metadata, where)
    verify(fields, stored, where)
    tensors = with_aliases(laid_out(stored, header.strides, where), header.aliases, where)
    packed = None
    if isinstance(header, PackedHeader):
        tensors = widened(tensors)
        packed = PackedLayers.read(header, tensors, where)
    return _Contents(where, header, stored_plan(header, where), tensors, packed)


def read_header(path: str | os.PathLike[str]) -> Header:
    """What a model file says about its model, without reading its tensors; raises as `load`."""
    path = locate(path)
    return loads(read_metadata(path), repr(str(path)))[0]


def read_preprocessing(path: str | os.PathLike[str]) -> Preprocessing | None:
    """What a file says that images go through before the network; None if it says nothing.

    Raises:
        ConfigError: there is no such file.
        FormatError: it is not a model file, or its entry is corrupted.
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
