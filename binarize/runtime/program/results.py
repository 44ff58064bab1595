"""What a network returns: tensors that lie in memory, and share it, as those of the modules do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from binarize.runtime.program.capture import NoProgramError
from binarize.runtime.program.recorded import once, overlaps, storage_of


@dataclass(frozen=True)
class Result:
    """A tensor among the leaves of a result.

    Attributes:
        shape: of the tensor.
        strides: likewise.
        dtype: likewise.
        source: number of the input (of those that are tensors), or the constant, in whose memory it lies;
            None for memory of its own.
        same: whether it is that input or constant itself.
        offset: in values, from where the source begins, or from where the first leaf in its memory does.
        memory: number of its own memory, which leaves may share; with a source, -1.
        first: index of the first leaf that is the same tensor.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    source: int | Tensor | None
    same: bool
    offset: int
    memory: int
    first: int

    @property
    def size(self) -> int:
        """Values from the first to the last one in memory."""
        return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))


def described(
    leaves: Sequence[Any], inputs: Sequence[Tensor | None], constants: Collection[Tensor]
) -> tuple[Result | None, ...]:
    """How the results of a call of the modules lie; None for leaves that are not tensors.

    Args:
        leaves: of the result.
        inputs: of that call.
        constants: tensors that the network holds.

    Raises:
        NoProgramError: results that a program cannot give.
    """
    given = [x for x in inputs if x is not None]
    held = {storage_of(tensor): tensor for tensor in constants}
    itself = {id(tensor): tensor for tensor in constants}
    tensors = [(i, x) for i, x in enumerate(leaves) if isinstance(x, Tensor)]
    memories: dict[int, list[Tensor]] = {}
    for _, x in tensors:
        _check(x)
        memories.setdefault(storage_of(x), []).append(x)
    numbers = {key: number for number, key in enumerate(memories)}
    found: list[Result | None] = [None] * len(leaves)
    for i, x in tensors:
        key = storage_of(x)
        shared = memories[key]
        source, start = _source(x, given, itself.get(id(x), held.get(key)))
        if len({y.dtype for y in shared}) > 1:
            raise NoProgramError("it returns one memory with several dtypes")
        if source is None and overlaps(x):
            raise NoProgramError("it returns a tensor whose values overlap in memory")
        start = start if source is not None else min(y.storage_offset() for y in shared)
        same = x is (given[source] if isinstance(source, int) else source)
        first = next(j for j, y in tensors if y is x)
        number = numbers[key] if source is None else -1
        found[i] = Result(
            tuple(x.shape), x.stride(), x.dtype, source, same, int(x.storage_offset() - start), number, first
        )
    return tuple(found)


def _check(x: Tensor) -> None:
    if type(x) not in (Tensor, nn.Parameter) or x.device.type != "cpu" or x.layout != torch.strided:
        raise NoProgramError("it returns a tensor that is not a plain one on the CPU")
    if x.is_conj() or x.is_neg():
        raise NoProgramError("it returns a conjugate that is not computed yet")


def _source(x: Tensor, given: Sequence[Tensor], held: Tensor | None) -> tuple[int | Tensor | None, int]:
    """The input or constant in whose memory a result lies, and where that begins."""
    near: list[int | Tensor] = [i for i, y in enumerate(given) if storage_of(y) == storage_of(x)]
    near += [] if held is None else [held]
    if not near:
        return None, 0
    if len(near) > 1:
        raise NoProgramError("it returns a part of an input that shares memory with another one")
    source = given[near[0]] if isinstance(near[0], int) else near[0]
    if source.dtype != x.dtype:
        raise NoProgramError("it returns the memory of an input or a constant with another dtype")
    return near[0], int(source.storage_offset())


def returned_directly(
    wanted: Sequence[Result | None], leaves: Sequence[Any], own: Callable[[Tensor], bool]
) -> set[int]:
    """Leaves that steps may write to the memory which is returned; the others are copied to it.

    Args:
        wanted: how the leaves have to lie.
        leaves: as the steps make them.
        own: whether the program has made the memory of a leaf.
    """
    groups: dict[int, list[int]] = {}
    for i, want in enumerate(wanted):
        if want is not None and want.source is None:
            groups.setdefault(want.memory, []).append(i)
    found: set[int] = set()
    taken: set[int] = set()
    for group in groups.values():
        roots = {storage_of(leaves[i]) for i in group}
        starts = {leaves[i].storage_offset() - _of(wanted[i]).offset for i in group}
        fits = all(own(leaves[i]) and _lies(leaves[i], _of(wanted[i])) for i in group)
        if fits and len(roots) == len(starts) == 1 and not roots & taken:
            found.update(group)
            taken |= roots
    return found


def _of(want: Result | None) -> Result:
    if want is None:
        raise TypeError("expected a tensor's place")
    return want


def _lies(x: Tensor, want: Result) -> bool:
    strides = zip(x.shape, x.stride(), want.strides, strict=True)
    return x.dtype == want.dtype and x.numel() > 0 and all(n == 1 or a == b for n, a, b in strides)


class Returned:
    """Makes the leaves of a result.

    Args:
        wanted: how they have to lie.
        leaves: as the steps make them.
        direct: see `returned_directly`.
    """

    def __init__(self, wanted: Sequence[Result | None], leaves: Sequence[Any], direct: set[int]) -> None:
        self._parts = list(zip(wanted, leaves, strict=True))
        self._direct = {
            i: leaves[i].as_strided(want.shape, want.strides)
            for i, want in enumerate(wanted)
            if want is not None and i in direct
        }
        self._sizes: dict[int, int] = {}
        for want in wanted:
            if want is not None:
                end = want.offset + want.size if all(want.shape) else 0
                self._sizes[want.memory] = max(self._sizes.get(want.memory, 0), end)

    def __call__(self, inputs: Sequence[Tensor], at: Callable[[Tensor], Tensor]) -> list[Any]:
        """The leaves.

        Args:
            inputs: of this call, those that are tensors.
            at: gives the memory of a tensor at this call.
        """
        made: list[Any] = []
        memories: dict[int, Tensor] = {}
        for i, (want, leaf) in enumerate(self._parts):
            if want is None:
                made.append(leaf)
            elif want.first < i:
                made.append(made[want.first])
            elif want.source is not None:
                made.append(_from_source(want, inputs))
            elif i in self._direct:
                made.append(at(self._direct[i]))
            else:
                if want.memory not in memories:
                    size = self._sizes[want.memory]
                    memories[want.memory] = torch.empty(size, dtype=want.dtype, device="cpu")
                made.append(memories[want.memory].as_strided(want.shape, want.strides, want.offset))
                once(made[-1]).copy_(once(at(leaf), made[-1]))
        return made


def _from_source(want: Result, inputs: Sequence[Tensor]) -> Tensor:
    source = inputs[want.source] if isinstance(want.source, int) else _tensor(want.source)
    if want.same:
        return source
    return source.detach().as_strided(want.shape, want.strides, source.storage_offset() + want.offset)


def _tensor(value: Tensor | None) -> Tensor:
    if value is None:
        raise TypeError("expected a tensor")
    return value
