"""From what a file says about a model to a model of that structure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from binarize.errors import BinarizeError, ConfigError, FormatError
from binarize.files.build_contexts import BoundedMemory, TooLargeError, WithoutStartValues
from binarize.files.header import Header
from binarize.files.float_source import build, on_meta, qualified_name
from binarize.layers import BinaryLayer

if TYPE_CHECKING:
    from binarize.graph import Plan

_SINGLE = "binarize.runtime.packed.PackedLayer"
"""Class of the model in a packed file of one layer: whichever layer it was, its geometry is in the file."""

_LARGEST = 1_000_000
"""No argument of a network (classes, widths, depths) is larger: a list of 10^8 blocks takes all memory."""


def rebuilt(header: Header, held: int, model: nn.Module | None, where: str, *, blank: bool) -> nn.Module:
    """The model with the right structure and any weights.

    Args:
        header: of the file.
        held: how many numbers the file holds, a binary weight being one.
        model: the float model, if the caller has it; left untouched.
        where: names the file in messages.
        blank: parameters get no memory (meta device).

    Raises:
        ConfigError: `model` is needed, or is binary already.
        FormatError: the header's model or plan cannot be had.
    """
    custom = header.source["source"] == "custom"
    if model is None and custom:
        raise ConfigError(
            f"{where} holds a model of the custom class {header.source['class']}: give the float model "
            "that it was made from, binarize.load(path, model=...), or on the command line --model "
            "FILE.py:CALLABLE."
        )
    plan = stored_plan(header, where)
    if model is None:
        model = _built(header.source, held, where, blank=blank)
    else:
        model = without_data(unwrapped(model)) if blank else copied(model)
    expected = str(header.source.get("class", ""))
    if custom and type(model).__name__ != expected.rpartition(".")[2] and expected != _SINGLE:
        raise FormatError(
            f"{where} holds a model of class {expected}, not of the given {qualified_name(model)}."
        )
    if plan is not None and any(isinstance(module, BinaryLayer) for module in model.modules()):
        raise ConfigError(
            f"{where} holds a converted {qualified_name(model)}: give the float model that it was made "
            "from, not one that is binary already."
        )
    if plan is None:
        return model
    try:
        with BoundedMemory(_bound(held)):
            return execute(plan, model)
    except Exception as error:  # a plan from a file may be wrong in any way
        raise FormatError(
            f"{where}: its plan cannot be executed on {qualified_name(model)}: {error}"
        ) from error


def _bound(held: int) -> int:
    """How many numbers may be allocated for a model of so many: buffers that are in no file come to them."""
    return 20 * held + 50_000_000


def _built(source: Mapping[str, Any], held: int, where: str, *, blank: bool) -> nn.Module:
    for number in _numbers(source["kwargs"]):
        if abs(number) > _LARGEST:
            raise TooLargeError(f"{where} is corrupted: its header names a model of size {number:.3g}.")
    bound = BoundedMemory(None)
    with bound:
        shell = on_meta(source)
    named = 0 if shell is None else sum(parameter.numel() for parameter in shell.parameters())
    if bound.exceeded or named > 2 * held + 1_000_000:
        # refused before memory is taken for it
        raise _too_large(where, "that has no end" if bound.exceeded else f"of {named:,} parameters", held)
    if blank and shell is not None:
        return shell
    bound = BoundedMemory(_bound(held))
    try:
        with bound, WithoutStartValues():
            return build(source)
    except ConfigError as error:
        if bound.exceeded:  # a model that cannot be built on the meta device
            raise _too_large(where, "that has no end", held) from error
        raise FormatError(f"{where}: the model that its header names cannot be built: {error}") from error


def _too_large(where: str, what: str, held: int) -> TooLargeError:
    return TooLargeError(f"{where} is corrupted: its header names a model {what}, it holds {held:,}.")


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


def without_data(model: nn.Module) -> nn.Module:
    """A deep copy whose parameters are on the meta device: those of a model are most of its memory.

    Raises:
        ConfigError: the model cannot be copied.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(
            torch.empty_like(parameter, device="meta"), parameter.requires_grad
        )
    return copied(model, memo)


def copied(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """See `binarize.graph.wrappers`; of a wrapped model, the model inside."""
    from binarize.graph.model_copy import copied
    from binarize.graph.wrappers import unwrapped

    return copied(unwrapped(model), memo)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside wrappers."""
    from binarize.graph.wrappers import unwrapped

    return unwrapped(model)


def stored_plan(header: Header, where: str) -> Plan | None:
    """The plan in a header.

    Raises:
        FormatError: if it cannot be read.
    """
    if header.plan is None:
        return None
    from binarize.graph import Plan

    try:
        return Plan.from_dict(dict(header.plan))
    except (BinarizeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{where}: the plan in its header cannot be read: {error}") from error


def plan_of(model: nn.Module) -> Plan | None:
    """The plan that was executed on `model`."""
    return getattr(model, "binarize_plan", None)


def execute(plan: Plan, model: nn.Module) -> nn.Module:
    """Do what `plan` says, to `model` itself."""
    from binarize.graph import execute

    return execute(plan, model, copy=False)


def subject(header: Header, model: nn.Module) -> str:
    """What a file's tensors are compared with, for messages."""
    if header.source["source"] == "custom":
        return f"the given {qualified_name(model)}"
    return f"{header.source['source']} model {header.source['name']!r}, which its header names"


def versions() -> dict[str, str]:
    """Of the packages that write a file."""
    return {name: _version(name) for name in ("binarize", "torch", "timm")}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
