"""One run of a model, written down as a flat torch.fx graph.

The run is on fake tensors (shapes, no arithmetic) and falls back to real ones where control flow depends on
data. Modules that can be traced on their own are run through their own graph (`module_graphs`), so that each
recorded step knows which node of which module's graph it came from and can be rewritten there; the others run
as they are. Nothing is refused because one function has control flow.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from binarize.errors import TraceError
from binarize.geometry import conv_size
from binarize.graph.trace.call_signature import (
    attribute,
    containers,
    named_tensors,
    plain_values,
    signature_of,
    tensors,
    trace_with_numbers,
)
from binarize.graph.trace.module_graph import ModuleGraph, Signature, acts
from binarize.graph.trace.outside_state import outside_kept
from binarize.graph.trace.own_forward import LayerStep, find_layer_step, own_forms
from binarize.graph.trace.preserve_state import Snapshot, evaluating, quiet, same_items, untouched
from binarize.graph.trace.roles import Role, function_role, module_role
from binarize.graph.trace.scripted import scripted_calls
from binarize.graph.trace.writes import setter, watching
from binarize.graph.wrappers import is_compiled
from binarize.layers.absent import QUESTIONS
from binarize.methods.forms import Form

# Functions that read something off a tensor and give none, or that only look.
_SILENT = {
    "size",
    "dim",
    "numel",
    "stride",
    "is_contiguous",
    "__len__",
    "requires_grad_",
    "get_device",
    # of these a tensor is asked for its shape, device and dtype only
    *("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "randint_like"),
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided", "new_tensor"),
}
# Functions that give a value the shape, device or dtype of another tensor.
_LIKE_ANOTHER = {"type_as", "view_as", "reshape_as", "expand_as"}


@dataclass
class Recording:
    """A flat graph of one run and what was learnt on the way.

    Every node's meta holds `role`, `owner` (path of the module whose forward made the step), `step` (name of
    the node in that module's own graph, or None), `shape`, and `constant` (computed from parameters only);
    that of a constant of known values `bounds` (least, largest).

    Attributes:
        graph: `call_module` per layer, norm, activation...; `call_function` for the rest.
        module_graphs: own graphs by path, for the modules that can be rewritten.
        opaque: reasons by path, for those that cannot.
        calls: number of calls per module path.
        outputs: the path of each tensor of the result in it (`logits`, `aux.0`), in the graph's order.
        read: parameters and buffers that functions were called with.
        computed: those of them whose values a function wanted, not only their shape, dtype or device.
        parameters: names of the model's.
        fake: the run was on fake tensors.
        written: parameters and buffers that the run wrote to or replaced, and whose forward did so (a path).
        sets_memory: the run was on real tensors because a forward sets `.data`.
        own: of layers whose classes have a forward of their own: the form of that, or why it has none.
        layer_steps: of those without a form: the step of their forward that is the layer, or why none is.
    """

    graph: fx.Graph
    module_graphs: dict[str, ModuleGraph] = field(default_factory=dict)
    opaque: dict[str, str] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    read: set[str] = field(default_factory=set)
    computed: set[str] = field(default_factory=set)
    parameters: frozenset[str] = frozenset()
    fake: bool = True
    written: dict[str, str] = field(default_factory=dict)
    sets_memory: bool = False
    own: dict[str, Form | str] = field(default_factory=dict)
    layer_steps: dict[str, LayerStep | str] = field(default_factory=dict)

    @property
    def writes_parameters(self) -> bool:
        """Whether forwards of the model change its parameters."""
        return bool(self.parameters & self.written.keys())


def record(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    *,
    module_graphs: bool = True,
) -> Recording:
    """Run `model` once in evaluation mode and write it down; model and inputs are left as they were.

    Args:
        model: any module.
        args: positional inputs, real tensors; their values matter only where control flow depends on them.
        kwargs: keyword inputs.
        module_graphs: also trace each module's forward, most of the time; only these modules can be edited.

    Raises:
        TraceError: the model does not run on these inputs.
    """
    failures, sets_memory = [], False
    own = own_forms(model)
    for fake in (True, False):
        try:
            recording = _recorded(model, fake, args, kwargs or {}, own, module_graphs)
            recording.sets_memory = sets_memory
            return recording
        except Exception as error:  # any failure of user code: try real tensors, then report
            failures.append(
                f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"
            )
            sets_memory = isinstance(error, _NeedsMemoryError)
            if any(p.device.type == "meta" for p in model.parameters()):
                break
    shapes = ", ".join("x".join(map(str, t.shape)) for t in tensors((args, kwargs or {})))
    raise TraceError(
        f"{type(model).__name__} does not run on an example input of {shapes or 'no tensor'} "
        f"({failures[-1]}); give other example_inputs (--input-size on the command line)."
    )


def _recorded(
    model: nn.Module,
    fake: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    own: dict[str, Form | str],
    module_graphs: bool,
) -> Recording:
    """One run; again, with that module as it is, whenever the graph of one fails on what it is given."""
    opaque: dict[str, str] = {}
    while True:
        try:
            return _Recorder(model, fake, opaque, own, module_graphs=module_graphs).run(args, kwargs)
        except _UnfaithfulError as error:
            # its like fail too, and each failure is a run
            failed = type(model.get_submodule(error.path))
            opaque |= {name: str(error) for name, m in model.named_modules() if type(m) is failed}


class _UnfaithfulError(Exception):
    """A module's graph that fails on values: its forward asks what they are, and symbols answered."""

    def __init__(self, path: str, error: Exception) -> None:
        text = str(error).strip().splitlines()
        super().__init__(
            f"its graph fails on what it is given: {type(error).__name__}: {text[0][:80] if text else ''}"
        )
        self.path = path


class _NeedsMemoryError(Exception):
    """A forward that gives a tensor of the model other memory, which fake tensors do not have."""


class _Recorder(TorchFunctionMode):
    def __init__(
        self,
        model: nn.Module,
        fake: bool,
        opaque: dict[str, str],
        own: dict[str, Form | str],
        *,
        module_graphs: bool,
    ) -> None:
        super().__init__()
        self._traces_modules = module_graphs
        self._model = model
        self._graph = fx.Graph()
        names = frozenset(name for name, _ in model.named_parameters(remove_duplicate=False))
        self._recording = Recording(self._graph, fake=fake, opaque=dict(opaque), parameters=names, own=own)
        # Weak: a run on real tensors that kept all of them would take as much memory as training.
        self._nodes = WeakTensorKeyDictionary()
        self._owners: list[str] = [""]
        self._module_steps: list[fx.Node | None] = [None]
        self._leaf_depth = 0
        self._leaf = ""
        self._needs_memory: _NeedsMemoryError | None = None
        self._made: dict[tuple[str, str], list[fx.Node]] = {}
        self._tensors = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
        self._detached: list[Tensor] = []  # held, or others could get their numbers
        self._patterns: dict[str, Signature] = {}
        self._paused = False

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recording:
        with contextlib.ExitStack() as stack:
            snapshot = stack.enter_context(untouched(self._model, args, kwargs))
            stack.enter_context(outside_kept(self._model.modules()))
            if not self._recording.fake:
                snapshot.keep_all()
            stack.enter_context(evaluating(self._model))
            stack.enter_context(torch.no_grad())
            stack.enter_context(quiet("torch._subclasses.fake_tensor"))
            if is_compiled(self._model):  # or what records here would be compiled too
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            if self._recording.fake:
                mode = FakeTensorMode(allow_non_fake_inputs=True)
                args, kwargs = tree_map(
                    lambda t: mode.from_tensor(t) if isinstance(t, Tensor) else t, (args, kwargs)
                )
                stack.enter_context(mode)
            stack.enter_context(watching(snapshot, lambda key: self._note_written(snapshot.at(key))))
            leaves = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
            for index, tensor in enumerate(leaves):
                self._bind(tensor, self._graph.placeholder(f"input_{index}"), "other", "")
            stack.enter_context(self._wrapped_forwards())
            stack.enter_context(scripted_calls(self._called))
            with self:
                result = self._model(*args, **kwargs)
            if self._needs_memory is not None:  # the forward may have caught it
                raise self._needs_memory
            self._note_changes(snapshot)
        named = [(name, self._nodes[t]) for name, t in named_tensors(result) if t in self._nodes]
        if not named:
            raise TraceError("no tensor of the output comes from the inputs")
        for (owner, _), nodes in self._made.items():
            if len(nodes) > max(1, self._recording.calls.get(owner, 1)):  # a function of several operations
                for node in nodes:
                    node.meta["step"] = None
        self._graph.output(tuple(node for _, node in named))
        self._recording.outputs = tuple(name or "output" for name, _ in named)
        self._forget_asides()
        return self._recording

    def _note_written(self, written: Iterable[Tensor]) -> None:
        """Note parameters and buffers that the forward which runs now writes to."""
        if self._paused:  # a trace sees to that itself
            return
        writer = self._leaf if self._leaf_depth else self._owners[-1]
        for tensor in written:
            name = self._tensors.get(id(tensor))
            if name is not None:
                self._recording.written.setdefault(name, writer)

    def _note_changes(self, snapshot: Snapshot) -> None:
        """Note what was replaced, or written to past torch; by whom is not known."""
        paths = {id(module): path for path, module in self._model.named_modules()}
        names = [self._tensors[i] for i in snapshot.changed_tensors() if i in self._tensors]
        for module, name in snapshot.replaced():
            path = paths.get(id(module), "")
            names.append(f"{path}.{name}" if path else name)
        written = self._recording.written
        for name in names:
            written.setdefault(name, name.rpartition(".")[0])
        for node in self._graph.nodes:
            if node.op == "call_module" and node.meta["role"] not in ("conv", "linear"):
                inside = (n for n in written if n.startswith(f"{node.target}."))
                if any(n in self._recording.parameters for n in inside):
                    node.meta["role"] = "other"  # a norm or activation that a forward changes stays

    def _forget_asides(self) -> None:
        """Erase steps whose results nobody uses: what hooks work out about a signal is no way it takes."""
        for node in reversed(self._graph.nodes):
            if node.op in ("call_function", "get_attr") and not node.users and not acts(node):
                self._graph.erase_node(node)

    # -- modules ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _wrapped_forwards(self) -> Iterator[None]:
        """Give every module an instance attribute `forward` that records; hooks keep running around it."""
        wrapped: list[tuple[nn.Module, bool, Any, Any]] = []
        try:
            for path, module in self._model.named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    continue
                had = "forward" in module.__dict__
                old = module.__dict__.get("forward")
                compiled = module.__dict__.get("_compiled_call_impl")
                role = module_role(module)
                original = module.forward
                if role is None:
                    new = self._container(path, module, original, had)
                elif path in self._recording.own:
                    new = self._own_forward(path, module, role, original)
                else:
                    new = self._step(path, role, original)
                wrapped.append((module, had, old, compiled))
                module.__dict__["forward"] = new
                if compiled is not None:
                    module.__dict__["_compiled_call_impl"] = None
            yield
        finally:
            for module, had, old, compiled in wrapped:
                if had:
                    module.__dict__["forward"] = old
                else:
                    module.__dict__.pop("forward", None)
                if compiled is not None:
                    module.__dict__["_compiled_call_impl"] = compiled

    def _step(self, path: str, role: Role, original: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._leaf_depth or self._paused:
                return original(*args, **kwargs)
            self._recording.calls[path] = self._recording.calls.get(path, 0) + 1
            self._leaf_depth, self._leaf = self._leaf_depth + 1, path
            try:
                result = self._shaped(role, original, args, kwargs)
            finally:
                self._leaf_depth -= 1
            if role == "identity":
                return result
            node = self._graph.create_node("call_module", path, self._args(args), self._args(kwargs))
            node.meta["input_shape"] = next((tuple(t.shape) for t in tensors((args, kwargs))), ())
            self._record_result(result, node, role)
            return result

        return forward

    def _shaped(self, role: Role, original: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of a step; on fake tensors, where the shape is plain, without running it."""
        module = getattr(original, "__self__", None)
        empty_result = getattr(module, "empty_result", None)  # of a packed layer, which takes a hundred steps
        if self._recording.fake and empty_result is not None and args and isinstance(args[0], Tensor):
            empty = empty_result(*args, **kwargs)
            return original(*args, **kwargs) if empty is None else empty
        if self._recording.fake and len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
            x = args[0]
            if isinstance(module, nn.Linear) and x.dim() and x.shape[-1] == module.in_features:
                return x.new_empty((*x.shape[:-1], module.out_features))
            if (shape := _convolved(module, x)) is not None:
                return x.new_empty(shape)
            fused = isinstance(getattr(module, "act", None), nn.Module)
            plain = role in ("norm", "act", "drop", "scale") and not fused
            if plain and not getattr(module, "inplace", False):
                return torch.empty_like(x)
        return original(*args, **kwargs)

    def _container(self, path: str, module: nn.Module, original: Any, patched: bool) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._leaf_depth or self._paused:  # a forward that calls another's `.forward` is being traced
                return original(*args, **kwargs)
            self._recording.calls[path] = self._recording.calls.get(path, 0) + 1
            self._owners.append(path)
            self._module_steps.append(None)
            try:
                traced = self._traces_modules and not patched
                own_graph = self._module_graph(path, module, args, kwargs) if traced else None
                if own_graph is None:
                    return original(*args, **kwargs)
                try:
                    return self._interpret(own_graph, module, args, kwargs)
                except (_UnfaithfulError, _NeedsMemoryError):
                    raise
                except Exception as error:
                    raise _UnfaithfulError(path, error) from error
            finally:
                self._owners.pop()
                self._module_steps.pop()

        return forward

    def _own_forward(self, path: str, module: nn.Module, role: Role, original: Any) -> Any:
        """A layer whose forward does more: run step by step if it can be, or else one step.

        So is one that is called by the name of its argument, which no binary layer knows.
        """
        container, step = self._container(path, module, original, False), self._step(path, role, original)
        plain = isinstance(self._recording.own[path], Form)

        def forward(*args: Any, **kwargs: Any) -> Any:
            whole = self._leaf_depth or self._paused or (plain and not kwargs)
            whole = whole or not self._opens(path, module, args, kwargs)
            return (step if whole else container)(*args, **kwargs)

        return forward

    def _opens(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        found = self._recording.layer_steps.get(path)
        if not isinstance(found, str):
            own_graph = self._module_graph(path, module, args, kwargs)
            if own_graph is None:  # not a container whose parts are converted, but a layer that stays
                found = self._recording.opaque.pop(path)
            elif found is None:
                try:
                    found = find_layer_step(own_graph.graph, module)
                except TraceError as error:
                    found = str(error)
            self._recording.layer_steps[path] = found
        return not isinstance(found, str)

    def _module_graph(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ModuleGraph | None:
        if (
            isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
            or path in self._recording.opaque
        ):
            return None
        if isinstance(module, fx.GraphModule):
            self._recording.opaque[path] = "is a graph module already"
            return None
        try:
            bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs)
        except TypeError as error:
            raise TraceError(f"{path or 'the model'}: {error}") from None
        signature, others, odd = signature_of(module, bound)
        if odd:
            self._recording.opaque[path] = odd
            self._recording.module_graphs.pop(path, None)
            return None
        known = self._patterns.get(path)
        if known is not None:
            if known != signature:
                self._recording.opaque[path] = "is called with different arguments"
                self._recording.module_graphs.pop(path, None)
                return None
            return self._recording.module_graphs[path]
        self._paused = True  # fx meets this mode's functions with its proxies
        try:
            own_graph = trace_with_numbers(module, signature, others)
        except TraceError as error:
            self._recording.opaque[path] = str(error)
            return None
        finally:
            self._paused = False
        self._patterns[path] = signature
        self._recording.module_graphs[path] = own_graph
        return own_graph

    def _interpret(
        self, own_graph: ModuleGraph, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run `own_graph` on real values, each step knowing its node."""
        bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs)
        bound.apply_defaults()
        env: dict[fx.Node, Any] = {}
        for node in own_graph.graph.nodes:
            if node.op == "placeholder":
                env[node] = bound.arguments[str(node.target).lstrip("*")]
                continue
            node_args = plain_values(node.args, env)
            node_kwargs = plain_values(node.kwargs, env)
            self._module_steps[-1] = node
            if node.op == "output":
                return node_args[0]
            if node.op == "get_attr":
                env[node] = attribute(module, str(node.target))
            elif node.op == "call_module":
                made = containers((node_args, node_kwargs))
                before = [copy.copy(value) for value in made]
                env[node] = module.get_submodule(str(node.target))(*node_args, **node_kwargs)
                if not all(map(same_items, made, before)):  # a graph makes a new one for each use
                    raise TraceError(f"{node.target} changes a list or dict that it is given")
            elif node.op == "call_method":
                env[node] = getattr(node_args[0], str(node.target))(*node_args[1:], **node_kwargs)
            else:
                env[node] = node.target(*node_args, **node_kwargs)  # type: ignore[operator]
            if env[node] is None and any(user.op != "output" for user in node.users):
                raise TraceError("its forward computes with None, which symbols never are")
        raise TraceError("a graph without output")

    # -- functions ----------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._called(func, func, args, kwargs or {})

    def _called(self, func: Any, run: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of `run(*args, **kwargs)`, a call of `func`, written down if it is a step."""
        if setter(func) == "data":
            self._set_data(*args)
        result = run(*args, **kwargs)
        if self._paused or self._leaf_depth:
            return result
        self._note_read(args)
        if getattr(func, "__name__", "") in _SILENT:
            self._note_made(func, args, kwargs, result)
            return result
        if self._is_layer_step():
            self._record_layer(result, args, kwargs)
            return result
        self._note_computed(func, args, kwargs, result)
        if getattr(func, "__name__", "") == "__setitem__":
            self._record_setitem(func, *args)
            self._note_part_set(args[0])
            return result
        outputs = tensors(result)
        inputs = tensors((args, kwargs))
        if len(outputs) == 1 and not inputs:
            self._note_made(func, args, kwargs, outputs[0])
        if not outputs or not inputs:
            return result
        if (
            len(outputs) == 1
            and any(outputs[0] is t for t in inputs)
            and function_role(func) in ("layout", "drop")
        ):
            return result  # contiguous(), to() and dropout that changed nothing
        if getattr(func, "__name__", "") in _LIKE_ANOTHER:
            args, kwargs = args[:1], {}
        node = self._graph.create_node("call_function", func, self._args(args), self._args(kwargs))
        node.meta["input_shape"] = tuple(inputs[0].shape)
        self._record_result(result, node, "layout" if _is_neutral(func, args) else function_role(func))
        if _works_in_place(func):
            self._note_part_set(args[0])
        return result

    def _set_data(self, tensor: Tensor, data: Tensor) -> None:
        """Note that a tensor is given other memory; refuse to give one of the model fake memory."""
        self._note_written([tensor])
        if isinstance(data, FakeTensor) and not isinstance(tensor, FakeTensor) and not tensor.is_meta:
            name = self._tensors.get(id(tensor), "a tensor")
            self._needs_memory = _NeedsMemoryError(f"its forward sets the .data of {name}")
            raise self._needs_memory

    def _note_read(self, args: Any) -> None:
        """Note that a parameter is asked for its dtype, shape...: what takes its place may have none."""
        name = self._tensors.get(id(args[0])) if args and isinstance(args[0], nn.Parameter) else None
        if name is not None:
            self._recording.read.add(name)

    def _note_computed(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Note parameters whose values a function wants; what is detached from one stands for it."""
        name = getattr(func, "__name__", "")
        if name in QUESTIONS or (name == "__get__" and not isinstance(result, Tensor)):
            return
        looked_at = name in _LIKE_ANOTHER or name == "to"
        for tensor in tensors((args[:1], {}) if looked_at else (args, kwargs)):
            known = self._tensors.get(id(tensor))
            if known is None:
                continue
            if name == "detach" or getattr(func, "__self__", None) is Tensor.data:
                self._tensors[id(result)] = known
                self._detached.append(result)
            else:
                self._recording.computed.add(known)

    def _is_layer_step(self) -> bool:
        """Whether the step at hand applies the weight of the layer whose own forward runs.

        A function of its own: see `symbols`, which take a caller that says isinstance for a user's.
        """
        found, step = self._recording.layer_steps.get(self._owners[-1]), self._module_steps[-1]
        return isinstance(found, LayerStep) and step is not None and step.name == found.step

    def _record_layer(self, result: Tensor, args: Any, kwargs: Any) -> None:
        """A function with the weight of the layer whose forward runs: it is the call of that layer."""
        path = self._owners[-1]
        given = args[0] if args else kwargs["input"]
        node = self._graph.create_node("call_module", path, (self._args(given),), {})
        node.meta["input_shape"] = tuple(given.shape)
        role = module_role(self._model.get_submodule(path))
        step = self._module_steps[-1]
        self._record_result(result, node, role or "other", None if step is None else step.name)

    def _note_made(self, func: Any, args: Any, kwargs: Any, result: Tensor) -> None:
        """What a forward makes of numbers alone is a constant; of some the values are known."""
        name = getattr(func, "__name__", "")
        value = {"tensor": next(iter(args), None)}.get(name)
        if name in ("zeros", "zeros_like", "new_zeros", "ones", "ones_like", "new_ones"):
            value = float("ones" in name)
        elif name in ("full", "full_like", "new_full"):
            index = 2 if name == "new_full" else 1
            value = args[index] if len(args) > index else kwargs.get("fill_value")
        if isinstance(value, (int, float)):
            self._node_of(result).meta["bounds"] = (float(value), float(value))

    def _record_setitem(self, func: Any, tensor: Tensor, index: Any, value: Any) -> None:
        """A tensor whose part was set is another value from then on: what it was, and what was put in."""
        node = self._graph.create_node("call_function", func, (self._args(tensor), self._args(value)), {})
        node.meta["input_shape"] = tuple(tensor.shape)
        self._record_result(tensor, node, "cat")

    def _note_part_set(self, part: Tensor) -> None:
        """Where a part of a tensor was written to by a name of its own, the tensor is another value, too."""
        whole = getattr(part, "_base", None)
        if whole is None:
            return
        given = (self._node_of(whole), self._node_of(part))
        node = self._graph.create_node("call_function", _part_set, given, {})
        node.meta.update(
            role="cat",
            owner=self._owners[-1],
            step=None,
            constant=all(n.meta["constant"] for n in given),
            input_shape=tuple(whole.shape),
            shape=tuple(whole.shape),
        )
        self._nodes[whole] = node

    # -- values -------------------------------------------------------------------------------------

    def _bind(self, tensor: Tensor, node: fx.Node, role: Role, owner: str) -> None:
        node.meta.update(role=role, owner=owner, step=None, shape=tuple(tensor.shape), constant=False)
        self._nodes[tensor] = node

    def _args(self, value: Any) -> Any:
        """Arguments for the flat graph: tensors become nodes, the rest is dropped to its repr if odd."""
        if isinstance(value, Tensor):
            return self._node_of(value)
        if isinstance(value, (tuple, list)):
            return tuple(self._args(v) for v in value)
        if isinstance(value, dict):
            return {str(k): self._args(v) for k, v in value.items()}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        return repr(value)

    def _node_of(self, tensor: Tensor) -> fx.Node:
        node = self._nodes.get(tensor)
        if node is None:
            name = self._tensors.get(id(tensor))
            node = self._graph.create_node("get_attr", name or "constant", (), {})
            if name:
                self._recording.read.add(name)
            self._bind(tensor, node, "other", self._owners[-1])
            node.meta["constant"] = True
        return node

    def _step_name(self, node: fx.Node) -> str | None:
        """The name of a step in its module's own graph; what a hook computes during a call has none."""
        step = self._module_steps[-1]
        calls = step is not None and step.op == "call_module"
        return step.name if step is not None and calls == (node.op == "call_module") else None

    def _record_result(self, result: Any, node: fx.Node, role: Role, step: str | None = None) -> None:
        outputs = tensors(result)
        constant = bool(node.all_input_nodes) and all(n.meta["constant"] for n in node.all_input_nodes)
        node.meta.update(
            role=role,
            owner=self._owners[-1],
            step=step or self._step_name(node),
            constant=constant,
            shape=tuple(outputs[0].shape) if outputs else (),
        )
        if (step := node.meta["step"]) is not None:
            self._made.setdefault((node.meta["owner"], step), []).append(node)
        if isinstance(result, Tensor):
            self._nodes[result] = node
            return
        for index, tensor in enumerate(outputs):
            item = self._graph.create_node("call_function", _item, (node, index), {})
            item.meta.update(node.meta, role="split", shape=tuple(tensor.shape))
            self._nodes[tensor] = item


def _convolved(module: Any, x: Tensor) -> tuple[int, ...] | None:
    """The shape that one of torch's own convolutions gives, if it is plain."""
    if type(module) not in (nn.Conv1d, nn.Conv2d, nn.Conv3d) or isinstance(module.padding, str):
        return None
    fits = x.dim() == len(module.kernel_size) + 2 and x.shape[1] == module.in_channels
    if not fits or x.dtype != module.weight.dtype or not x.is_contiguous():
        return None
    geometry = (module.kernel_size, module.stride, tuple((p, p) for p in module.padding), module.dilation)
    sizes = conv_size(x.shape[2:], *geometry)
    return (x.shape[0], module.out_channels, *sizes) if min(sizes) > 0 else None


def _works_in_place(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    if name.startswith("__"):
        return name in ("__iadd__", "__isub__", "__imul__", "__itruediv__", "__iand__", "__ior__")
    return name.endswith("_")


def _is_neutral(func: Any, args: tuple[Any, ...]) -> bool:
    """A sum with the number 0 or a product with 1: loops over branches start from them."""
    neutral = {"add": 0, "mul": 1}.get(function_role(func))
    return (
        len(args) == 2 and neutral is not None and any(type(a) in (int, float) and a == neutral for a in args)
    )


def _item(values: Any, index: int) -> Any:
    """Stands for an element of a step's several results."""
    return values[index]


def _part_set(values: Any, part: Any) -> Any:
    """Stands for a tensor a part of which was written to."""
    return values
