"""The first step of loading: the float network that a header names, or the one that the caller gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from binarize.errors import ConfigError, FormatError
from binarize.files.build_contexts import BoundedMemory, TooLargeError, WithoutStartValues, memory_bound
from binarize.files.code_source import check_code
from binarize.files.float_source import build, building_on
from binarize.files.header import Header
from binarize.layers import BinaryLayer
from binarize.model_info import qualified_name

_SINGLE = ("binarize.runtime.layer.PackedLayer", "binarize.runtime.packed.PackedLayer")
"""Class of the model in a packed file of one layer, today's and the earlier name: whichever layer it was, its
geometry is in the file.
"""

_LARGEST = 1_000_000
"""No argument of a network (classes, widths, depths) is larger: a list of 10^8 blocks takes all memory."""


def float_network(
    header: Header, held: int, model: nn.Module | None, where: str, *, on_meta: bool
) -> nn.Module:
    """The float network of a file, with any weights.

    Args:
        header: of the file.
        held: how many numbers the file holds, a binary weight being one.
        model: the float model, if the caller has it; left untouched.
        where: names the file in messages.
        on_meta: parameters get no memory (meta device), wherever the class of the network allows that.

    Raises:
        ConfigError: `model` is needed, is binary already, or cannot be copied.
        FormatError: the network of the header cannot be built, or `model` is of another class.
        TooLargeError: the header names a network far larger than the file.
    """
    source = header.source
    custom = source["source"] == "custom"
    if model is None and custom:
        check_code(source, where)
    network = _built(source, held, where, on_meta=on_meta) if model is None else _copy(model, on_meta)
    expected = str(source.get("class", ""))
    if custom and type(network).__name__ != expected.rpartition(".")[2] and expected not in _SINGLE:
        raise FormatError(
            f"{where} holds a model of class {expected}, not of the given {qualified_name(network)}."
        )
    if header.plan is not None and any(isinstance(module, BinaryLayer) for module in network.modules()):
        raise ConfigError(
            f"{where} holds a converted {qualified_name(network)}: give the float model that it was made "
            "from, not one that is binary already."
        )
    return network


def _built(source: Mapping[str, Any], held: int, where: str, *, on_meta: bool) -> nn.Module:
    """Built on the meta device first, whose shapes tell the size before memory is taken for it."""
    for number in _numbers(source.get("kwargs")):
        if abs(number) > _LARGEST:
            raise TooLargeError(f"{where} is corrupted: its header names a model of size {number:.3g}.")
    shell = _built_on_meta(source, held, where)
    if on_meta and shell is not None:
        return shell
    bound = BoundedMemory(memory_bound(held))
    try:
        with bound, WithoutStartValues():
            return build(source)
    except ConfigError as error:
        if bound.exceeded:  # a model that cannot be built on the meta device
            raise _too_large(where, "that has no end", held) from error
        if source["source"] == "custom":  # not the file is wrong
            raise ConfigError(f"{where}: {error}") from error
        raise FormatError(f"{where}: the model that its header names cannot be built: {error}") from error


def _built_on_meta(source: Mapping[str, Any], held: int, where: str) -> nn.Module | None:
    """The network without memory; None if it cannot be built that way."""
    bound = BoundedMemory(None)
    shell = None
    try:
        with bound, building_on("meta"):
            shell = build(source)
    except ConfigError:
        pass
    if bound.exceeded:
        raise _too_large(where, "that has no end", held)
    parameters = 0 if shell is None else sum(parameter.numel() for parameter in shell.parameters())
    if parameters > 2 * held + 1_000_000:
        raise _too_large(where, f"of {parameters:,} parameters", held)
    return shell


def _too_large(where: str, what: str, held: int) -> TooLargeError:
    return TooLargeError(f"{where} is corrupted: its header names a model {what}, it holds {held:,} numbers.")


def _numbers(value: Any) -> Iterator[int | float]:
    """All numbers in a value from JSON."""
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item)


def _copy(model: nn.Module, on_meta: bool) -> nn.Module:
    """A deep copy of the model inside wrappers; parameters, most of its memory, may be on the meta device."""
    from binarize.graph.model_copy import copied
    from binarize.graph.wrappers import unwrapped

    model = unwrapped(model)
    memo: dict[int, Any] = {}
    if on_meta:
        for parameter in model.parameters():
            empty = torch.empty_like(parameter, device="meta")
            memo[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
    return copied(model, memo)
