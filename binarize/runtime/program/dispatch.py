"""The forward of a deployed network: its program where there is one, else its modules.

A program is made when inputs of one signature (shapes, strides, dtypes, other arguments; the instruction set
of the kernels) are seen for the second time: one of them is often the only one. Hooks, training, gradients,
autocast and everything that watches what torch does get the modules; so do networks whose forward changes
state or cannot be captured, and calls of submodules.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from binarize.errors import BinarizeWarning, NativeError
from binarize.graph.trace.outside_state import Outside
from binarize.graph.trace.preserve_state import Snapshot
from binarize.native.instruction_set import resolve
from binarize.native.library import available
from binarize.runtime.layer import PackedLayer
from binarize.runtime.memory import return_memory
from binarize.runtime.program.capture import NoProgramError, capture
from binarize.runtime.program.compare import StepError, compare
from binarize.runtime.program.executor import NotFiniteError, Program, memory_that_counts
from binarize.runtime.program.graph import ProgramGraph
from binarize.runtime.program.known import PATIENCE, Known
from binarize.runtime.program.passes import run_passes
from binarize.runtime.program.results import described
from binarize.runtime.program.state import State, calls_noted
from binarize.runtime.program.timing import StepTime
from binarize.runtime.tracing import is_watched

FAR = 1e-3
"""Median difference of a recorded run's result from the modules', relative to the largest value, from which
on there is no program. The operators are the same; only the last digits of float layers may differ."""


class Programs:
    """What a call of a deployed model runs: torch's place for a compiled call (`nn.Module.compile`) holds it.

    Args:
        model: deployed, in evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self._start(model)

    def _start(self, model: nn.Module) -> None:
        self._of = weakref.ref(model)  # the model holds this: it has to go when its user drops it
        self._known = Known()
        self._state: State | None = None
        self._lock = threading.Lock()
        self._timed: list[tuple[Program, list[float]]] | None = None
        model.__dict__["_compiled_call_impl"] = self  # torch does not copy or pickle what is there

    @property
    def _model(self) -> nn.Module:
        model = self._of()
        if model is None:
            raise RuntimeError("the network of these programs is gone")
        return model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As a call of the model."""
        if not _usual():
            return self._modules(args, kwargs)
        leaves, spec = tree_flatten((args, kwargs))
        key = _signature(leaves, spec)
        if key is None:
            return self._modules(args, kwargs)
        if (state := self._state) is not None:
            if state.hooked():
                return self._modules(args, kwargs)
            if not state.same():
                if state.trains():
                    return self._modules(args, kwargs)
                self._known.clear()
                self._state = None
        found = self._known.get(key)
        if found is None:
            if self._known.wanted(key):
                return self._make(key, leaves, args, kwargs)
            return self._modules(args, kwargs)
        if not isinstance(found, Program) or self._state is None or self._state.learns():
            return self._modules(args, kwargs)
        timed = self._timed
        seconds: list[float] | None = None if timed is None else []
        try:
            result = found(_tensors(leaves), found.threads or torch.get_num_threads(), seconds)
        except NotFiniteError:
            return self._modules(args, kwargs)
        if timed is not None and seconds is not None:
            timed.append((found, seconds))
        return result

    @contextlib.contextmanager
    def timed(self) -> Iterator[list[StepTime]]:
        """While this is open, programs run step by step; afterwards, the list has the steps of all calls.

        It stays empty if the modules run.
        """
        times: list[StepTime] = []
        self._timed = timed = []
        try:
            yield times
        finally:
            self._timed = None
            for program, seconds in timed:
                times += program.step_times(seconds)

    def reasons(self) -> tuple[str, ...]:
        """Why there is no program, for the signatures of which that is known."""
        return tuple(found for found in self._known.values() if isinstance(found, str))

    def programs(self) -> tuple[Program, ...]:
        """The programs that there are."""
        return tuple(found for found in self._known.values() if isinstance(found, Program))

    def compared(self, *args: Any, **kwargs: Any) -> list[StepError]:
        """Each operator of the program for these inputs, which is made if need be, against its definition.

        Raises:
            NoProgramError: there is none; the message says why.
        """
        leaves, spec = tree_flatten((args, kwargs))
        key = _signature(leaves, spec)
        with torch.no_grad():
            found = self._known.get(key)
            for _ in range(PATIENCE):
                if found is None:
                    self(*args, **kwargs)
                    found = self._known.get(key)
            if not isinstance(found, Program):
                raise NoProgramError(found or "such inputs, or this way to call it, get the modules")
            try:
                return compare(found, _tensors(leaves), torch.get_num_threads())
            except NotFiniteError as error:
                raise NoProgramError("scales that are not finite") from error

    def _modules(self, args: Any, kwargs: Any) -> Any:
        return self._model._call_impl(*args, **kwargs)

    def _make(self, key: Any, leaves: Sequence[Any], args: Any, kwargs: Any) -> Any:
        """Run the modules once more, watching what they change, and make the program.

        Only one thread makes programs; the others, and forwards that call their network, get the modules.
        """
        if not self._lock.acquire(blocking=False):
            return self._modules(args, kwargs)
        try:
            model = self._model
            if any(module.training for module in model.modules()):
                return self._modules(args, kwargs)
            try:
                state = self._state or State(model)
            except NoProgramError as error:
                self._known.keep(key, str(error))
                return self._modules(args, kwargs)
            if state.made_in_training:  # by another thread, meanwhile
                return self._modules(args, kwargs)
            self._state = state
            if state.hooked() or self._known.get(key) is not None:
                return self._modules(args, kwargs)
            snapshot, outside = Snapshot(model), Outside(model.modules())
            with calls_noted(threading.get_ident()) as called:
                result = self._modules(args, kwargs)
            try:
                _check_changes(snapshot.changed_place(), outside.changed())
                _check_calls(state, called)
                found: Program | str = self._program(leaves, args, kwargs, result)
            except NoProgramError as error:
                found = str(error)
            except Exception as error:  # a fault of ours must not be one of the user's call
                found = f"internal error: {type(error).__name__}: {error}"
                warnings.warn(
                    f"{type(model).__name__} has no program for these inputs and runs as modules, which is "
                    f"slower: {found}. Please report it.",
                    BinarizeWarning,
                    stacklevel=3,
                )
            self._known.keep(key, found)
            return_memory()
            return result
        finally:
            self._lock.release()

    def _program(self, leaves: Sequence[Any], args: Any, kwargs: Any, expected: Any) -> Program:
        """The program for these inputs, of a graph that gives what the modules gave."""
        captured, given = capture(self._model, args, kwargs), _tensors(leaves)
        wanted, spec = tree_flatten(expected)
        made = captured.run([x.clone() if x is not None else None for x in given])
        if spec != captured.out_spec or any(_far(a, b) for a, b in zip(wanted, made, strict=True)):
            raise NoProgramError("what torch.export recorded gives another result than the modules")
        results = described(wanted, given, captured.constants.values())
        with memory_that_counts():
            graph = ProgramGraph.of(captured, _precision(self._model))
            run_passes(graph)
        try:
            program = Program(graph, given, results)
            program(given, program.threads or torch.get_num_threads())
        except NotFiniteError:
            pass
        except NativeError as error:
            raise NoProgramError(str(error)) from error
        return program

    def __getstate__(self) -> dict[str, Any]:
        return {"_model": self._model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._start(state["_model"])


def _precision(model: nn.Module) -> str:
    """In which the maps of a network may be stored: in less than float32 if all of its layers allow it."""
    found = {m.options.precision for m in model.modules() if isinstance(m, PackedLayer)}
    return found.pop() if len(found) == 1 else "float32"


def _usual() -> bool:
    """Whether nothing is asked for that only modules can do."""
    return available() and not torch.is_autocast_enabled("cpu") and not is_watched()


def _check_changes(inside: Any, outside: str) -> None:
    """Refuse networks whose forward changes something.

    Raises:
        NoProgramError: it does.
    """
    if inside is not None and not isinstance(inside.holder, PackedLayer):
        raise NoProgramError(f"its forward changes {inside.name}")
    if outside:
        raise NoProgramError(f"its forward changes {outside}, outside of the network")


def _check_calls(state: State, called: Sequence[nn.Module]) -> None:
    """Refuse networks that run what the state does not cover.

    Raises:
        NoProgramError: they do.
    """
    if name := state.replaced_forward():
        raise NoProgramError(f"the forward of a {name} was replaced on the instance")
    if name := state.strangers(called):
        raise NoProgramError(f"it calls a {name} that is not one of its submodules")


def _signature(leaves: Sequence[Any], spec: Any) -> Any:
    """What inputs of one program have in common; None for those that no program takes."""
    # steps and the places of their memory are those of an instruction set
    parts: list[Any] = [spec, resolve() if available() else None]
    grad = torch.is_grad_enabled()
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            plain = type(leaf) is Tensor and leaf.device.type == "cpu" and leaf.layout == torch.strided
            if not plain or (grad and leaf.requires_grad) or leaf.is_neg() or leaf.is_conj():
                return None
            parts.append((leaf.shape, leaf.stride(), leaf.dtype))
        elif leaf is None or type(leaf) in (bool, int, float, str):
            parts.append((type(leaf), leaf))
        else:
            return None
    return tuple(parts)


def _tensors(leaves: Sequence[Any]) -> list[Tensor | None]:
    return [leaf if isinstance(leaf, Tensor) else None for leaf in leaves]


def _far(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor):
        return a is not b and a != b
    if a.shape != b.shape or a.dtype != b.dtype:
        return True
    if not a.numel() or not a.is_floating_point():
        return False
    largest = a.abs().max().clamp_min(torch.finfo(a.dtype).tiny)
    median = ((a - b).abs() / largest).nan_to_num(0.0, 1.0, 1.0).median()
    return bool(median > FAR)
