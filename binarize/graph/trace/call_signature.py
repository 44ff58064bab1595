"""What a call of a module's forward shows about its arguments, and the arguments of a graph's steps."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten

from binarize.errors import TraceError
from binarize.graph.trace.module_graph import ModuleGraph, Signature, trace_module

_DEEPEST = 8  # levels of a network's result; objects may hold each other
_CONSTANTS = (bool, int, float, str, type(None))


def signature_of(module: nn.Module, bound: inspect.BoundArguments) -> tuple[Signature, frozenset[str], str]:
    """What a call shows about the arguments of `module.forward`.

    Returns:
        The signature; the names of arguments that are neither tensors nor lists of them; why such a call
        cannot be traced, or nothing.
    """
    fixed, lists, others, odd = [], [], [], ""
    constants: dict[str, Any] = {}
    among: list[str] = []
    for name, parameter in list(inspect.signature(type(module).forward).parameters.items())[1:]:
        value = bound.arguments.get(name, parameter.default)
        if value is parameter.default:
            fixed.append(name)
        elif parameter.kind is parameter.VAR_KEYWORD:
            among = [key for key, item in value.items() if isinstance(item, Tensor)]
            constants = {key: item for key, item in value.items() if key not in among}
            strange = [key for key, item in constants.items() if not isinstance(item, _CONSTANTS)]
            if strange:
                odd = f"is given {strange[0]!r} in **{name}, which is neither a tensor nor a plain value"
        elif value is None:
            odd = f"is given None for {name!r}"  # a forward tests for that, and no symbol is None
        elif type(value) in (list, tuple):
            if not all(isinstance(item, Tensor) for item in value):
                others.append(name)
            else:
                lists.append((name, type(value).__name__, len(value)))
            if any(item is None for item in value):
                odd = f"is given a {type(value).__name__} with None in it for {name!r}"
        elif not isinstance(value, Tensor):
            others.append(name)
    signature = Signature(
        fixed=tuple(fixed), lists=tuple(lists), constants=tuple(constants.items()), tensors=tuple(among)
    )
    return signature, frozenset(others), odd


def trace_with_numbers(module: nn.Module, signature: Signature, others: frozenset[str]) -> ModuleGraph:
    """Trace with numbers among the unused parameters left free; if that fails, fixed at their defaults."""
    parameters = inspect.signature(type(module).forward).parameters
    free = {n for n in signature.fixed if type(parameters[n].default) in (int, float)}
    if free:
        fewer = tuple(n for n in signature.fixed if n not in free)
        with contextlib.suppress(TraceError):
            return trace_module(module, dataclasses.replace(signature, fixed=fewer), others | free)
    return trace_module(module, signature, others)


def plain_values(value: Any, env: dict[fx.Node, Any]) -> Any:
    """Arguments of a node as plain tuples, lists and dicts (fx's own refuse to be changed)."""
    if isinstance(value, fx.Node):
        return env[value]
    if isinstance(value, (tuple, list)):
        items = [plain_values(v, env) for v in value]
        if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
            return type(value)(*items)
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        return {key: plain_values(v, env) for key, v in value.items()}
    if isinstance(value, slice):
        return slice(*(plain_values(v, env) for v in (value.start, value.stop, value.step)))
    return value


def containers(value: Any) -> list[Any]:
    """The lists and dicts among a call's arguments, inner ones too; except its own tuple and dict."""
    found: list[Any] = []
    queue = [*value[0], *value[1].values()]
    while queue:
        item = queue.pop()
        if type(item) in (list, dict):
            found.append(item)
        if isinstance(item, (list, tuple)):
            queue += item
        elif isinstance(item, dict):
            queue += item.values()
    return found


def tensors(value: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples and dicts, in order."""
    return [t for t in tree_flatten(value)[0] if isinstance(t, Tensor)]


def named_tensors(result: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors that a network returns, each with its path: keys, indices and attribute names.

    Looks into lists, tuples, dicts, dataclasses and plain objects, such as detections of one image.
    """
    if isinstance(result, Tensor):
        yield path, result
        return
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(result, Mapping):
        items = result.items()
    elif isinstance(result, tuple) and hasattr(result, "_fields"):  # a named tuple
        items = zip(getattr(result, "_fields"), result, strict=True)  # noqa: B009 - known at run time
    elif isinstance(result, (list, tuple)):
        items = enumerate(result)
    elif hasattr(result, "__dict__") and not isinstance(result, (type, nn.Module)) and not callable(result):
        items = vars(result).items()
    for key, value in items:
        if path.count(".") < _DEEPEST:
            yield from named_tensors(value, f"{path}.{key}" if path else str(key))


def attribute(module: nn.Module, path: str) -> Any:
    """The object at a dotted path from a module."""
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part)
    return found
