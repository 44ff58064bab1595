"""One run of a model, written down as a flat torch.fx graph.

The run is on fake tensors (shapes, no arithmetic) and falls back to real ones where control flow depends on
data. Modules that can be traced on their own are run through their own graph (`module_graphs`), so that each
recorded step knows which node of which module's graph it came from and can be rewritten there; the others run
as they are. Nothing is refused because one function has control flow.
"""

from __future__ import annotations

import contextlib
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_flatten, tree_map

from binarize.errors import TraceError
from binarize.graph.trace.call_signature import named_tensors, tensors
from binarize.graph.trace.flat_graph import FlatGraph
from binarize.graph.trace.function_calls import FunctionCalls, NeedsMemoryError
from binarize.graph.trace.layer_step import own_forms
from binarize.graph.trace.module_calls import GraphMismatchError, ModuleCalls
from binarize.graph.trace.outside_state import outside_kept
from binarize.graph.trace.preserve_state import Snapshot, quiet, untouched
from binarize.graph.trace.recording import Recording
from binarize.graph.trace.scripted import scripted_calls
from binarize.graph.trace.writes import watching
from binarize.graph.wrappers import is_compiled
from binarize.methods.forms import Form
from binarize.modes import evaluating


class RunError(TraceError):
    """A model that does not run on an example input.

    Attributes:
        cause: the error of its forward, in one line.
    """

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


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
    cause, sets_memory = "", False
    own = own_forms(model)
    for fake in (True, False):
        try:
            recording = _recorded(model, fake, args, kwargs or {}, own, module_graphs)
            recording.sets_memory = sets_memory
            return recording
        except Exception as error:  # any failure of user code: try real tensors, then report
            cause = _in_one_line(error)
            sets_memory = isinstance(error, NeedsMemoryError)
            if any(p.device.type == "meta" for p in model.parameters()):
                break
    shapes = ", ".join("x".join(map(str, t.shape)) for t in tensors((args, kwargs or {})))
    raise RunError(
        f"{type(model).__name__} does not run on an example input of {shapes or 'no tensor'} ({cause}); give "
        "other example_inputs (--input-size on the command line, for images).",
        cause,
    )


def _in_one_line(error: Exception) -> str:
    """Kind and first line of an error; of one without a text, the place where it was raised."""
    name, text = type(error).__name__, str(error).strip()
    if text:
        return f"{name}: {text.splitlines()[0][:200]}"
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return name
    others = (str(Path(torch.__file__).parent), str(Path(__file__).parent))  # `torch._assert`, which records
    last = next((f for f in reversed(frames) if not f.filename.startswith(others)), frames[-1])
    line = f", {last.line[:120]!r}" if last.line else ""
    return f"{name} at {Path(last.filename).name}, line {last.lineno}{line}"


def _recorded(
    model: nn.Module,
    fake: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    own: dict[str, Form | str],
    module_graphs: bool,
) -> Recording:
    """Record one run. If a module's graph fails on real values, record again without graphs for its class."""
    opaque: dict[str, str] = {}
    while True:
        try:
            names = frozenset(name for name, _ in model.named_parameters(remove_duplicate=False))
            recording = Recording(fx.Graph(), fake=fake, opaque=dict(opaque), parameters=names, own=own)
            return _run(model, recording, args, kwargs, module_graphs=module_graphs)
        except GraphMismatchError as error:
            # other modules of this class fail too, and each failure is a run
            failed = type(model.get_submodule(error.path))
            opaque |= {name: str(error) for name, m in model.named_modules() if type(m) is failed}


def _run(
    model: nn.Module,
    recording: Recording,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    module_graphs: bool,
) -> Recording:
    """Record one run into `recording`."""
    run = FlatGraph(model, recording)
    modules = ModuleCalls(model, run, module_graphs=module_graphs)
    functions = FunctionCalls(model, run)
    with contextlib.ExitStack() as stack:
        snapshot = stack.enter_context(untouched(model, args, kwargs))
        stack.enter_context(outside_kept(model.modules()))
        if not recording.fake:
            snapshot.keep_all()
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(quiet("torch._subclasses.fake_tensor"))
        if is_compiled(model):  # otherwise the recording code would be compiled too
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if recording.fake:
            mode = FakeTensorMode(allow_non_fake_inputs=True)
            args, kwargs = tree_map(
                lambda t: mode.from_tensor(t) if isinstance(t, Tensor) else t, (args, kwargs)
            )
            stack.enter_context(mode)
        stack.enter_context(watching(snapshot, lambda key: run.note_written(snapshot.at(key))))
        leaves = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        for index, tensor in enumerate(leaves):
            run.bind(tensor, recording.graph.placeholder(f"input_{index}"), "other", "")
        stack.enter_context(modules.wrapped_forwards())
        stack.enter_context(scripted_calls(functions.called))
        with functions:
            result = model(*args, **kwargs)
        if functions.needs_memory is not None:  # the forward may have caught it
            raise functions.needs_memory
        _note_changes(model, run, snapshot)
    named = [(name, run.nodes[t]) for name, t in named_tensors(result) if t in run.nodes]
    if not named:
        raise TraceError("no tensor of the output comes from the inputs")
    for (owner, _), nodes in run.made.items():
        if len(nodes) > max(1, recording.calls.get(owner, 1)):  # a function of several operations
            for node in nodes:
                node.meta["step"] = None
    recording.graph.output(tuple(node for _, node in named))
    recording.outputs = tuple(name or "output" for name, _ in named)
    run.erase_unused()
    return recording


def _note_changes(model: nn.Module, run: FlatGraph, snapshot: Snapshot) -> None:
    """Note what was replaced, or written to past torch; by whom is not known."""
    paths = {id(module): path for path, module in model.named_modules()}
    names = [run.tensor_names[i] for i in snapshot.changed_tensors() if i in run.tensor_names]
    for module, name in snapshot.replaced():
        path = paths.get(id(module), "")
        names.append(f"{path}.{name}" if path else name)
    written = run.recording.written
    for name in names:
        written.setdefault(name, name.rpartition(".")[0])
    for node in run.graph.nodes:
        if node.op == "call_module" and node.meta["role"] not in ("conv", "linear"):
            inside = (n for n in written if n.startswith(f"{node.target}."))
            if any(n in run.recording.parameters for n in inside):
                node.meta["role"] = "other"  # a norm or activation that a forward changes stays
