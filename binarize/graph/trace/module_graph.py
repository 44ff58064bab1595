"""One module's own forward as a torch.fx graph, its children being single calls.

A network is traced module by module: data-dependent control flow in one of them does not affect the others,
and only the smallest module whose forward must change is ever rewritten.
"""

from __future__ import annotations

import contextlib
import inspect
import operator
import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg

from binarize.errors import TraceError
from binarize.graph.trace.containers import same_items
from binarize.graph.trace.outside_state import outside_kept
from binarize.graph.trace.preserve_state import Snapshot, untouched
from binarize.graph.trace.proxies import Value
from binarize.graph.trace.writes import watching

_IN_PLACE = {"setitem", "__setitem__", "iadd", "isub", "imul", "itruediv"}
_RAISING = {"_assert", "_check", "require_default", "require_extra", "require_list", "require_value"}
_LIST_CHANGES = {"append", "extend", "insert", "pop", "remove", "clear", "update", "setdefault", "popitem"}


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What a graph assumes about the arguments of its module's forward.

    Attributes:
        fixed: parameters that no call passes; the graph holds for their default values only.
        lists: parameters that are lists or tuples of tensors, each with its type's name and its length;
            `*args` is a tuple.
        constants: names and values of what calls pass in `**kwargs` beside tensors.
        tensors: names of the tensors there.
    """

    fixed: tuple[str, ...] = ()
    lists: tuple[tuple[str, str, int], ...] = ()
    constants: tuple[tuple[str, Any], ...] = ()
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModuleGraph:
    """A module's own graph.

    Attributes:
        graph: children are `call_module`; `self.training` is read when the graph runs.
        signature: what it assumes about arguments.
    """

    graph: fx.Graph
    signature: Signature


class _ModuleTracer(fx.Tracer):
    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def __init__(self, signature: Signature, others: frozenset[str]) -> None:
        super().__init__()
        self._fixed = signature.fixed
        self._signature = signature
        self._others = others
        self._lists = {name: (kind, length) for name, kind, length in signature.lists}
        self.given: list[tuple[list[Any], list[Any]]] = []

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """A placeholder per parameter of forward; those of `fixed` are included, but their default is used.

        Lists are lists of proxies, because forwards check their type and loop over them. Behind the first
        parameter that no call passes, all others are passed by name: decorators look for them there.
        """
        positional: list[Any] = [self.root]
        keyword: dict[str, Any] = {}
        skipped = False
        for parameter in list(inspect.signature(root_fn).parameters.values())[1:]:
            name = parameter.name
            if parameter.kind is parameter.VAR_KEYWORD:
                value: Any = self.create_proxy("placeholder", f"**{name}", (), {})
                keyword |= dict(self._signature.constants)
                keyword |= {key: self._tensor(value[key]) for key in self._signature.tensors}
                continue
            if parameter.kind is parameter.VAR_POSITIONAL:
                value = self.create_proxy("placeholder", f"*{name}", (), {})
                if name in self._lists:
                    positional += [self._tensor(value[index]) for index in range(self._lists[name][1])]
                elif name not in self._fixed:
                    raise TraceError(f"its forward takes *{name}, and is given more than tensors for it")
                continue
            default = () if parameter.default is parameter.empty else (parameter.default,)
            value = self.create_proxy("placeholder", name, default, {})
            if name in self._fixed:
                skipped = True
                continue
            if name in self._lists:
                kind, length = self._lists[name]
                items = [self._tensor(value[index]) for index in range(length)]
                self.given.append((items, list(items)))
                value = tuple(items) if kind == "tuple" else items
            elif name not in self._others:
                value = self._tensor(value)
            if parameter.kind is parameter.KEYWORD_ONLY or skipped:
                keyword[name] = value
            else:
                positional.append(value)

        def forward(*values):  # a plain function without annotations: fx reads those of a plain function only
            return root_fn(*values, **keyword)

        return forward, positional

    def _tensor(self, value: Any) -> Any:
        """A value for which forwards may check whether it is a tensor."""
        value.stands_for_tensor = True
        return value

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A value that changes in place as tensors do, and refuses what tensors would answer differently."""
        return Value(node, self)

    def create_proxy(self, *args: Any, **kwargs: Any) -> fx.Proxy:
        """A step; a graph does not hold the context around it."""
        if not torch.is_grad_enabled():
            raise TraceError("its forward switches gradients off for some of its steps")
        return super().create_proxy(*args, **kwargs)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, fx.Proxy):
            return a.node
        if isinstance(a, dict) and type(a) is not dict:
            if type(a) is not OrderedDict:
                raise TraceError(f"its forward makes a {type(a).__name__}")
            pairs = [(key, self.create_arg(value)) for key, value in a.items()]
            return self.create_node("call_function", OrderedDict, (pairs,), {})
        # fx would store such a tensor on the module; then its device and dtype could not follow the model's.
        if isinstance(a, torch.Tensor) and not isinstance(a, nn.Parameter):
            raise TraceError("its forward makes a tensor constant")
        return super().create_arg(a)


def trace_module(
    module: nn.Module, signature: Signature, others: frozenset[str] = frozenset()
) -> ModuleGraph:
    """The graph of `module.forward` in evaluation mode, good for running it.

    Args:
        module: left as it is.
        signature: what to assume about its arguments.
        others: names of arguments that are neither tensors nor of `signature`.

    Raises:
        TraceError: it cannot be traced.
    """
    with _mode(module, training=False):
        return ModuleGraph(_trace(module, signature, others), signature)


def for_both_modes(module: nn.Module, graph: ModuleGraph) -> ModuleGraph:
    """The graph of `module.forward` for training and evaluation, good for rewriting it.

    Args:
        module: left as it is.
        graph: its evaluation graph, which is changed.

    Raises:
        TraceError: the forward differs between training and evaluation by more than flags.
    """
    with _mode(module, training=True):
        training = _trace(module, graph.signature, draws=False)
    return ModuleGraph(_unify(graph.graph, training), graph.signature)


def _random_states() -> tuple[Any, ...]:
    """States of the generators that a forward may draw from while it is traced."""
    numpy = sys.modules.get("numpy")
    drawn = () if numpy is None else (numpy.random.get_state()[1].tobytes(), numpy.random.get_state()[2])
    return bytes(torch.get_rng_state().numpy()), random.getstate(), drawn


@contextlib.contextmanager
def _mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """The training flags of the module and of those inside, which its forward may read too."""
    before = [(inner, inner.training) for inner in module.modules()]
    try:
        for inner, _ in before:
            inner.training = training
        yield
    finally:
        for inner, flag in before:
            inner.training = flag


def _trace(
    module: nn.Module, signature: Signature, others: frozenset[str] = frozenset(), *, draws: bool = True
) -> fx.Graph:
    _refuse_contexts(module)
    written: list[int] = []
    with untouched(module) as snapshot, outside_kept([module]) as outside:
        try:
            random_states = None if draws else _random_states()
            tracer = _ModuleTracer(signature, others)
            with torch.enable_grad(), watching(snapshot, written.append):
                graph = tracer.trace(module)
            _refuse_traces_left(module, snapshot, written)
            if name := outside.changed():
                raise TraceError(f"its forward stores {name!r} outside of the module")
            _refuse_changed_lists(graph, tracer.given)
            if random_states is not None and random_states != _random_states():
                raise TraceError("its forward draws random numbers to choose its path")
            graph.eliminate_dead_code(is_impure_node=acts)
        except TraceError:
            raise
        except Exception as error:  # whatever user code raises on symbolic values
            text = str(error).strip().splitlines()
            raise TraceError(f"{type(error).__name__}: {text[0][:120] if text else 'no message'}") from None
    return graph


def _refuse_traces_left(module: nn.Module, snapshot: Snapshot, written: list[int]) -> None:
    """Refuse side effects of a forward: they happen once, while it is traced, and are lost in the graph."""
    if (place := snapshot.changed_place()) is not None:
        where = "the module" if place.holder is module else f"its {type(place.holder).__name__}"
        raise TraceError(f"its forward stores {place.name!r} on {where}")
    if written or snapshot.changed_tensors():
        raise TraceError("its forward changes tensors by more than the steps of a graph")


def _refuse_contexts(module: nn.Module) -> None:
    """A graph holds steps, not the contexts around them; `create_proxy` checks those of gradients."""
    code = getattr(type(module).forward, "__code__", None)
    if code is not None and "autocast" in code.co_names:
        raise TraceError("its forward switches autocast for some of its steps")


def acts(node: fx.Node) -> bool:
    """Whether a step has a side effect, and must stay even if nothing uses its result."""
    if node.op in ("placeholder", "output", "call_module"):
        return True
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    in_place = in_place or name in _IN_PLACE or node.kwargs.get("inplace") is True
    return in_place or node.kwargs.get("out") is not None or name in _RAISING


def _refuse_changed_lists(graph: fx.Graph, given: list[tuple[list[Any], list[Any]]]) -> None:
    """A list from a caller is a new one in every run of a graph: changes of it would be lost."""
    for now, before in given:
        if not same_items(now, before):
            raise TraceError("its forward changes a list that it is given")
    for node in graph.nodes:
        if node.op == "call_method" and node.target in _LIST_CHANGES:
            raise TraceError(f"its forward calls .{node.target}() on what it is given")


def _unify(evaluation: fx.Graph, training: fx.Graph) -> fx.Graph:
    """The evaluation graph with what training changes read from `self.training`: flags, rates of dropout."""
    pairs = list(zip(evaluation.nodes, training.nodes, strict=False))
    same = len(evaluation.nodes) == len(training.nodes) and all(
        a.op == b.op and a.target == b.target and a.name == b.name for a, b in pairs
    )
    if not same:
        raise TraceError("its forward takes another path in training than in evaluation")
    for a, b in pairs:
        if (_plain(a.args), _plain(a.kwargs)) == (_plain(b.args), _plain(b.kwargs)):
            continue
        with evaluation.inserting_before(a):
            flag = evaluation.create_node("get_attr", "training")
            a.args = _merge(a.args, b.args, flag)
            a.kwargs = _merge(a.kwargs, b.kwargs, flag)
    return evaluation


def _plain(value: Any) -> Any:
    """Arguments with nodes by name, so that those of two graphs compare."""
    return map_arg(value, lambda node: f"%{node.name}")


def _merge(off: Any, on: Any, flag: fx.Node) -> Any:
    if isinstance(off, (tuple, list)):
        return type(off)(_merge(a, b, flag) for a, b in zip(off, on, strict=True))
    if isinstance(off, dict):
        return {key: _merge(off[key], on[key], flag) for key in off}
    if off is False and on is True:
        return flag
    if type(off) is type(on) is float and off == 0:  # the rate of `p if self.training else 0.0`
        return flag.graph.call_function(operator.mul, (on, flag))
    if _plain(off) != _plain(on):
        raise TraceError("its forward computes with other constants in training than in evaluation")
    return off
