"""What of a packed layer is kept in another form, and whether it is still that.

Memory can move unnoticed: by `share_memory_`, `.data = ...`, resizes, the sending to another process. What is
made of a tensor (packed words, addresses, unpacked signs) holds as long as the tensor lies where it lay and
torch has counted no change. Changes past torch (`.data`, NumPy) are not noticed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

Mark = tuple[dict[str, Any], str, int, int | None]
"""Where a tensor is registered, its name there, its address and its version."""


def marks_of(places: Iterable[tuple[dict[str, Any], str]], modules: Iterable[nn.Module]) -> tuple[Mark, ...]:
    """Marks of tensors.

    Args:
        places: tables in which tensors are registered, with their names there.
        modules: of which all own parameters and buffers are marked.
    """
    found = list(places)
    for module in modules:
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        found += [(table, name) for table in tables for name, t in table.items() if t is not None]
    return tuple((table, name, *place_of(table[name])) for table, name in found)


def place_of(tensor: Tensor) -> tuple[int, int | None]:
    """Address and version; of inference tensors, whose changes torch does not count, None."""
    return tensor.data_ptr(), None if tensor.is_inference() else tensor._version


def current(marks: tuple[Mark, ...]) -> bool:
    """Whether the marked tensors are where and what they were."""
    try:
        for table, name, place, version in marks:
            tensor = table[name]
            if tensor.data_ptr() != place or (version is not None and tensor._version != version):
                return False
    except (KeyError, AttributeError, RuntimeError):  # another kind of tensor, or none
        return False
    return True
