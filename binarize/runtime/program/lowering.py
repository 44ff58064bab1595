"""From the graph of a program to steps on memory: what each operator does to addresses.

A graph is lowered twice by the same code: on tensors without memory (the meta device), which shows the size
of each buffer and how long it is used, and on the planned memory. Results are views of one arena; views of
them cost nothing. Inputs and outputs lie elsewhere at each call: the addresses that depend on them are noted
and set then.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from binarize.native import structs
from binarize.native.library import required
from binarize.runtime.program.capture import NoProgramError
from binarize.runtime.program.memory import Planned, at_memory
from binarize.runtime.program.placement import Placement
from binarize.runtime.program.recorded import storage_of


class Patch:
    """An address in a structure of the library that depends on where an input or output lies."""

    __slots__ = ("field", "offset", "root")

    def __init__(self, address: int, root: int, offset: int) -> None:
        self.field = ctypes.c_void_p.from_address(address)
        self.root, self.offset = root, offset


@dataclass
class NativeStep:
    """One step of the library (`bz_step`), of the node with this index."""

    kind: int
    arguments: ctypes.Structure
    index: int


@dataclass
class TorchStep:
    """A step that torch computes: `run` takes a function that gives the memory of a tensor at this call."""

    run: Callable[[Callable[[Tensor], Tensor]], None]
    what: str = ""
    index: int = 0


@dataclass
class Outside:
    """Memory that is another one at each call.

    Attributes:
        roots: tensors on the meta device, one for each input and each output that a step writes.
    """

    roots: list[Tensor] = field(default_factory=list)
    _index: dict[int, int] = field(default_factory=dict)

    def add(self, tensor: Tensor) -> int:
        """Note the memory of a tensor on the meta device, and give its number."""
        key = storage_of(tensor)
        if key not in self._index:
            self._index[key] = len(self.roots)
            self.roots.append(tensor)
        return self._index[key]

    def number_of(self, tensor: Tensor) -> int | None:
        """The number of a tensor's memory; None for memory of the program."""
        return self._index.get(storage_of(tensor)) if tensor.is_meta else None


class Lowering:
    """What operators see while they are lowered.

    Args:
        placement: which results are written into which concatenation.
        planned: where the buffers lie (`plan`). Without it (the first time) all memory is on the meta device.
        arena: (bytes,) uint8.
        strides: that results of nodes should have; others are copied at the end.

    Attributes:
        steps: so far.
        patches: addresses to set at each call.
        outside: memory of inputs and outputs.
        buffers: of the first time: (tensor, bytes, index of the node).
    """

    def __init__(
        self,
        placement: Placement,
        planned: Planned | None = None,
        arena: Tensor | None = None,
        strides: dict[fx.Node, tuple[int, ...]] | None = None,
    ) -> None:
        self.steps: list[NativeStep | TorchStep] = []
        self.patches: list[Patch] = []
        self.outside = Outside()
        self.buffers: list[tuple[Tensor, int, int]] = []
        self.index = 0
        self.library = required()
        self.placement = placement
        self.wanted = strides or {}
        self._joined: dict[fx.Node, Tensor] = {}
        self._planned, self._arena = planned, arena
        self._count = 0
        self._hosts: dict[int, Tensor] = {}
        self._held: list[Any] = []

    def empty(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory for a result: (N, C, H, W) channels-last, all else contiguous."""
        return self.strided(shape, strides_of(shape), dtype)

    def strided(
        self, shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Memory for a tensor of these strides."""
        size = dtype.itemsize * (1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)))
        size = size if all(shape) else 0
        number, self._count = self._count, self._count + 1
        like = torch.empty_strided(tuple(shape), tuple(strides), dtype=dtype, device="meta")
        if self._planned is None or self._arena is None:
            self.buffers.append((like, size, self.index))
            return like
        self.buffers.append((self._arena, 0, self.index))
        place = self._planned.places[number]
        if place is None:
            return self._host(number, like)
        if place.host is None:
            flat = self._arena.narrow(0, place.offset, size).view(dtype)
            return flat.as_strided(tuple(shape), tuple(strides))
        host = self._host(place.host, self._planned.hosts[place.host])
        return at_memory(host, tuple(shape), tuple(strides), dtype, place.offset // dtype.itemsize)

    def _host(self, number: int, like: Tensor) -> Tensor:
        """An output, by the number of its buffer: others may lie in its memory before it is written."""
        if number not in self._hosts:
            made = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device="meta")
            self.outside.add(made)
            self._hosts[number] = made
        return self._hosts[number]

    def placed(self, node: fx.Node) -> Tensor | None:
        """The part of a concatenation that a node's result is written to; None if it has its own memory."""
        found = self.placement.of(node)
        if found is None:
            return None
        if found.whole not in self._joined:
            val = found.whole.meta["val"]
            self._joined[found.whole] = self.empty(tuple(val.shape), val.dtype)
        whole = self._joined[found.whole]
        return whole.narrow(found.dim, found.start, found.size)

    def placed_or_empty(
        self, node: fx.Node, shape: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Memory for a map that a node makes."""
        place = self.placed(node)
        return self.empty(shape, dtype) if place is None else place

    def rows(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory for a tensor whose last dim lies side by side."""
        return self.strided(shape, rows(shape), dtype)

    def scratch(self, size: int) -> Tensor:
        """Memory of `size` bytes that this node alone uses."""
        return self.strided((size,), (1,), torch.uint8)

    def hold(self, *things: Any) -> None:
        """Keep what a structure points to."""
        self._held.extend(things)

    def native(self, kind: str, arguments: ctypes.Structure) -> None:
        """Add a step of the library."""
        self._held.append(arguments)
        self.steps.append(NativeStep(structs.STEPS[kind], arguments, self.index))

    def torch(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        results: Sequence[Tensor | None],
        what: str = "",
    ) -> None:
        """Add a call of torch whose results are copied to memory of the program.

        Args:
            function: gives a tensor or several.
            args: tensors of the program in any lists.
            kwargs: likewise.
            results: where each tensor goes; None for those that nothing reads.
            what: the operator's name.
        """

        def run(at: Callable[[Tensor], Tensor]) -> None:
            given, named = at_call(args, at), at_call(kwargs, at)
            made = function(*given, **named)
            parts = made if isinstance(made, (tuple, list)) else (made,)
            for part, place in zip(parts, results, strict=True):
                if place is not None:
                    at(place).copy_(part)

        self.steps.append(TorchStep(run, what, self.index))

    def point(self, structure: ctypes.Structure, name: str, tensor: Tensor | None, index: int = 0) -> None:
        """Let a field of a structure be the address of a tensor, now or at each call.

        Args:
            structure: of the library.
            name: of a field that is a pointer, or an array of them.
            tensor: of the program; None for a null pointer.
            index: in the array.

        Raises:
            NoProgramError: the tensor has no memory, in no call.
        """
        address = ctypes.addressof(structure) + getattr(type(structure), name).offset
        address += index * ctypes.sizeof(ctypes.c_void_p)
        self._held.append(structure)
        if tensor is None:
            ctypes.c_void_p.from_address(address).value = None
            return
        root = self.outside.number_of(tensor)
        if root is not None:
            offset = int(tensor.storage_offset()) * tensor.element_size()
            self.patches.append(Patch(address, root, offset))
        elif not tensor.is_meta:
            ctypes.c_void_p.from_address(address).value = tensor.data_ptr()
            self._held.append(tensor)
        elif self._planned is not None:
            raise NoProgramError(f"the place of {name} is not known")

    def is_constant(self, *values: Any) -> bool:
        """Whether all tensors in these values lie where they did when the program was made.

        What is an input, an output or computed has no values yet: no structure may be made of them.
        """
        arena = None if self._arena is None else storage_of(self._arena)
        tensors = [t for t in tree_leaves(values) if isinstance(t, Tensor)]
        return not any(t.is_meta or storage_of(t) == arena for t in tensors)

    def map(self, structure: structs.Map, maps: Tensor) -> None:
        """Let a `bz_map` be a tensor (N, C, H, W) whose channels are next to each other."""
        n, c, h, w = maps.stride()
        structure.image, structure.row, structure.pixel = n, h, w
        structure.channel = 1 if maps.shape[1] == 1 else c
        structure.bf16 = maps.dtype == torch.bfloat16
        self.point(structure, "data", maps)


def strides_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a map: channels-last for (N, C, H, W), else contiguous."""
    if len(shape) == 4:
        _, c, h, w = shape
        return (c * h * w, 1, w * c, c)
    return rows(shape)


def rows(shape: Sequence[int]) -> tuple[int, ...]:
    """Contiguous strides: the last dim lies side by side."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def at_call(value: Any, at: Callable[[Tensor], Tensor]) -> Any:
    """A value with each of its tensors as `at` gives it, whatever lists they are in."""
    if isinstance(value, Tensor):
        return at(value)
    if isinstance(value, (list, tuple)):
        return type(value)(at_call(v, at) for v in value)
    if isinstance(value, dict):
        return {k: at_call(v, at) for k, v in value.items()}
    return value
