"""A program for inputs of one signature: prepared once, then run with one library call per run of steps."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_unflatten

from binarize.native import structs
from binarize.native.instruction_set import number_of, resolve
from binarize.native.library import check, required
from binarize.runtime import ops
from binarize.runtime.program.arguments import arguments
from binarize.runtime.program.graph import ProgramGraph, nodes_in
from binarize.runtime.program.lowering import Lowering, NativeStep, TorchStep, at_call
from binarize.runtime.program.memory import at_memory, plan
from binarize.runtime.program.operators import lower_node
from binarize.runtime.program.operators.views import WRITE_NOTHING
from binarize.runtime.program.placement import maker, place
from binarize.runtime.program.recorded import is_dense, storage_of
from binarize.runtime.program.results import Result, Returned, returned_directly
from binarize.runtime.program.timing import StepTime, step_times

ValueOf = Callable[[fx.Node], Any]


class NotFiniteError(Exception):
    """A layer's scales are not finite, which its tables cannot hold: the modules have to run."""


class Program:
    """Steps for one graph.

    Args:
        graph: after all passes.
        inputs: tensors of the shapes and strides that all calls have; None where an argument is not a tensor.
        results: how the leaves of its result have to lie (`results.described`).

    Attributes:
        graph: see above.
        threads: of the kernels, as the layers ask for; 0 for as many as torch has.

    Raises:
        NoProgramError: an operator gives something else than tensors.
        NativeError: the library is missing, or does not take a layer.
    """

    def __init__(
        self, graph: ProgramGraph, inputs: Sequence[Tensor | None], results: Sequence[Result | None]
    ) -> None:
        self.graph, self._results = graph, results
        self._strides = [None if x is None else (x.shape, x.stride(), x.dtype) for x in inputs]
        (leaves,) = arguments(graph.output)
        returned = {leaf for leaf in leaves if isinstance(leaf, fx.Node)}
        self._placement = place(graph.graph, WRITE_NOTHING, returned)
        self._wanted = _wanted(results, leaves)
        with memory_that_counts():
            self._plan()
        self._ready: list[_Instance] = [self._instance()]
        self._steps = self._ready[0].steps
        asked = [node.kwargs.get("threads") for node in graph.calls(ops.layer)]
        self.threads: Any = next((n for n in asked if n), 0)

    def _plan(self) -> None:
        """Places of all buffers, found by lowering without memory."""
        first = Lowering(self._placement, strides=self._wanted)
        values = self._lower(first)
        leaves, made = self._leaves(values), {storage_of(t) for t, _, _ in first.buffers}
        self._direct = returned_directly(self._results, leaves, lambda t: storage_of(t) in made)
        outputs = {storage_of(leaves[i]) for i in self._direct}
        self._planned = plan(first.buffers, self._last_reads(values), outputs)

    @property
    def bytes(self) -> int:
        """Of the memory that a program keeps for each call that runs at the same time: the arena."""
        return self._planned.bytes

    def _leaves(self, values: dict[fx.Node, Any]) -> list[Any]:
        (leaves,) = arguments(self.graph.output)
        return [values[leaf] if isinstance(leaf, fx.Node) else leaf for leaf in leaves]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the inputs that are tensors."""
        return tuple(tuple(given[0]) for given in self._strides if given is not None)

    def __call__(
        self, inputs: Sequence[Tensor | None], threads: int, seconds: list[float] | None = None
    ) -> Any:
        """What the network returns.

        Args:
            inputs: as prepared.
            threads: of the kernels.
            seconds: gets the time of each step (`step_times`), which is then run alone.

        Raises:
            NotFiniteError: the network has to run as modules.
            NativeError: the library refuses a step.
        """
        try:
            instance = self._ready.pop()  # each call needs memory of its own: there may be several at once
        except IndexError:
            instance = self._instance()
        try:
            leaves = instance.run(inputs, threads, seconds)
        finally:
            self._ready.append(instance)
        return tree_unflatten(leaves, self.graph.out_spec)

    def step_times(self, seconds: Sequence[float]) -> list[StepTime]:
        """What the times of one call are of."""
        return step_times(self.graph.graph, self._steps, seconds)

    def walk(self, inputs: Sequence[Tensor | None], threads: int) -> Iterator[tuple[fx.Node, ValueOf]]:
        """A call in which each operator is done alone, and then looked at.

        Yields:
            Each operator's node when it is done, and a function that gives the value of a node: of this one
            and of those that it reads.
        """
        instance = self._instance()
        at = instance.bind(inputs)
        todo = list(_single(instance.segments))[::-1]
        numbers = [step.index for step in instance.steps][::-1]

        def value_of(node: fx.Node) -> Any:
            return at_call(instance.values[node], at)

        for index, node in enumerate(self.graph.graph.nodes):
            while numbers and numbers[-1] == index:
                numbers.pop()
                instance.do(todo.pop(), at, threads)
            if node.op == "call_function":
                yield node, value_of

    def _instance(self) -> _Instance:
        with memory_that_counts():
            arena = torch.empty(self.bytes, dtype=torch.uint8, device="cpu")
            lowering = Lowering(self._placement, self._planned, arena, self._wanted)
            values = self._lower(lowering)
            returned = Returned(self._results, self._leaves(values), self._direct)
        return _Instance(lowering, values, returned, sum(x is not None for x in self._strides))

    def _lower(self, lowering: Lowering) -> dict[fx.Node, Any]:
        values: dict[fx.Node, Any] = dict(self.graph.constants)
        for node, given in zip(self.graph.inputs, self._strides, strict=True):
            if node is not None and given is not None:
                shape, strides, dtype = given
                made = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
                lowering.outside.add(made)
                values[node] = made
        for index, node in enumerate(self.graph.graph.nodes):
            lowering.index = index
            if node.op == "call_function":
                values[node] = lower_node(lowering, node, values)
        return values

    def _last_reads(self, values: dict[fx.Node, Any]) -> dict[int, int]:
        """Index of the last node that reads each memory."""
        last: dict[int, int] = {}
        for index, node in enumerate(self.graph.graph.nodes):
            for read in nodes_in((node.args, node.kwargs)):
                for tensor in tensors_in(values.get(read)):
                    last[storage_of(tensor)] = index
            for tensor in tensors_in(values.get(node)):
                last[storage_of(tensor)] = max(last.get(storage_of(tensor), 0), index)
        return last


class _Instance:
    """A program's steps on memory of their own.

    Attributes:
        values: of the graph's nodes: tensors in this memory, and on the meta device for inputs and outputs.
        segments: what is run one after the other.
    """

    def __init__(
        self, lowering: Lowering, values: dict[fx.Node, Any], returned: Returned, inputs: int
    ) -> None:
        self._held = lowering
        self.values = values
        self._returned = returned
        roots = lowering.outside.roots
        self._outputs = [(t.shape, t.stride(), t.dtype) for t in roots[inputs:]]
        self._patches = [(patch.field, patch.root, patch.offset) for patch in lowering.patches]
        self.segments = _segments(lowering.steps)
        self._isa = number_of(resolve())
        self._run = required().bz_run

    @property
    def steps(self) -> Sequence[NativeStep | TorchStep]:
        """In their order."""
        return self._held.steps

    def bind(self, inputs: Sequence[Tensor | None]) -> Callable[[Tensor], Tensor]:
        """Let the steps read these inputs and write new outputs.

        Returns:
            A function that gives the memory of a tensor at this call.
        """
        bases = [x for x in inputs if x is not None]
        bases += [torch.empty_strided(s, t, dtype=d, device="cpu") for s, t, d in self._outputs]
        addresses = [x.data_ptr() for x in bases]
        for field, root, offset in self._patches:
            field.value = addresses[root] + offset
        number_of_root = self._held.outside.number_of

        def at(tensor: Tensor) -> Tensor:
            root = number_of_root(tensor)
            if root is None:
                return tensor
            base = bases[root]
            if base.dtype == tensor.dtype:
                start = tensor.storage_offset() + base.storage_offset()
                return base.as_strided(tensor.shape, tensor.stride(), start)
            before = int(base.storage_offset()) * base.element_size() // tensor.element_size()
            start = int(tensor.storage_offset()) + before
            return at_memory(base, tuple(tensor.shape), tensor.stride(), tensor.dtype, start)

        return at

    def do(self, segment: Any, at: Callable[[Tensor], Tensor], threads: int) -> None:
        """Run one of `segments`, or a part of one."""
        if callable(segment):
            segment(at)
            return
        status = self._run(self._isa, threads, *segment, None)
        if status == structs.NOT_FINITE:
            raise NotFiniteError
        check(status, "program")

    def run(
        self, inputs: Sequence[Tensor | None], threads: int, seconds: list[float] | None = None
    ) -> list[Any]:
        """The leaves of the result, in new memory; `seconds` gets the time of each step, run alone."""
        at = self.bind(inputs)
        for segment in self.segments if seconds is None else _single(self.segments):
            began = 0.0 if seconds is None else time.perf_counter()
            self.do(segment, at, threads)
            if seconds is not None:
                seconds.append(time.perf_counter() - began)
        return self._returned([x for x in inputs if x is not None], at)


@contextlib.contextmanager
def memory_that_counts() -> Iterator[None]:
    """Memory that is made in here is no inference tensor: later calls, made in any mode, write to it."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _wanted(results: Sequence[Result | None], leaves: Sequence[Any]) -> dict[fx.Node, tuple[int, ...]]:
    """Strides that a step may give to what the network returns, by the node that makes it."""
    found: dict[fx.Node, tuple[int, ...]] = {}
    for want, leaf in zip(results, leaves, strict=True):
        if want is None or want.source is not None or not isinstance(leaf, fx.Node):
            continue
        like = torch.empty_strided(want.shape, want.strides, dtype=want.dtype, device="meta")
        if is_dense(like) and want.shape == tuple(leaf.meta["val"].shape):
            found.setdefault(maker(leaf), want.strides)
    return found


def tensors_in(value: Any) -> Sequence[Tensor]:
    """Tensors in a value of a node."""
    if isinstance(value, Tensor):
        return (value,)
    if isinstance(value, (tuple, list)):
        return [t for part in value for t in tensors_in(part)]
    return ()


def _single(segments: Sequence[Any]) -> list[Any]:
    """The same with one step each."""
    size = ctypes.sizeof(structs.Step)
    found: list[Any] = []
    for segment in segments:
        if callable(segment):
            found.append(segment)
        else:
            count, array = segment
            found += [(1, ctypes.byref(array, i * size)) for i in range(count)]
    return found


def _segments(
    steps: Sequence[NativeStep | TorchStep],
) -> list[Callable[..., None] | tuple[int, ctypes.Array[structs.Step]]]:
    """Runs of native steps as arrays of the library, and calls of torch between them."""
    found: list[Any] = []
    run: list[NativeStep] = []

    def close() -> None:
        if run:
            array = (structs.Step * len(run))()
            for i, step in enumerate(run):
                array[i].kind, array[i].arguments = step.kind, ctypes.addressof(step.arguments)
            found.append((len(run), array))
            run.clear()

    for step in steps:
        if isinstance(step, NativeStep):
            run.append(step)
        else:
            close()
            found.append(step.run)
    close()
    return found
