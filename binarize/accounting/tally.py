"""Counts per layer, gathered under the names of the modules that a reader knows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from binarize.accounting.report import LayerCount
from binarize.graph.roles import known_class
from binarize.layers import BinaryLayer
from binarize.runtime import PackedLayer

_FOLDED = (nn.modules.batchnorm._BatchNorm,)
_BINARY = (BinaryLayer, PackedLayer)


@dataclass(kw_only=True)
class Count:
    """What one layer adds up to while it is being counted; see `LayerCount`."""

    binary_params: int = 0
    float_params: int = 0
    binary_work: int = 0
    float_work: int = 0
    packed_bytes: int = 0
    unknown: bool = False


class Tally:
    """The layers of a model in the order of definition; a binary layer is one with all that it holds."""

    def __init__(self, model: nn.Module) -> None:
        self.modules: dict[str, nn.Module] = dict(model.named_modules())
        self._counts: dict[str, Count] = {}
        self._owner: dict[str, str] = {}
        for path in self.modules:
            above = self._owner.get(path.rpartition(".")[0], "") if path else ""
            inside = bool(path) and isinstance(self.modules.get(above), _BINARY)
            self._owner[path] = above if inside else path

    def owner(self, path: str) -> str:
        """The path of the layer that the module at `path` is counted under."""
        return self._owner.get(path, path)

    def at(self, path: str) -> Count:
        """The count of the layer that the module at `path` belongs to."""
        return self._counts.setdefault(self.owner(path), Count())

    def is_binary(self, path: str) -> bool:
        """Whether the module at `path` is a binary layer itself."""
        return isinstance(self.modules.get(path), _BINARY)

    def add_packed_layers(self) -> None:
        """Add the weights of packed layers, one bit each, and the floats that they hold beside them."""
        for path, module in self.modules.items():
            if isinstance(module, PackedLayer):
                self.at(path).binary_params += module.spec.weights
                self.at(path).float_params += sum(
                    buffer.numel() for buffer in module.buffers() if buffer.is_floating_point()
                )
                self.at(path).packed_bytes += module.bits.numel()

    def parameters(self) -> Iterator[tuple[str, str, nn.Parameter, bool]]:
        """(module path, name in it, parameter, whether it is of one bit), each parameter once."""
        seen: set[int] = set()
        for path, module in self.modules.items():
            for name, parameter in module._parameters.items():
                if parameter is None or id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                yield path, name, parameter, name == "weight" and isinstance(module, BinaryLayer)

    def add_packed_bytes(self) -> None:
        """Add the sizes of what inference needs.

        One bit per binary weight, rounded up to bytes per layer; 4 bytes per float parameter and per element
        of a persistent float buffer. Batch norm is folded to a scale and a shift per channel, with which the
        scale of binary weights and a bias in front of it merge; a binary layer without one keeps a scale per
        filter.
        """
        for path, _, parameter, binary in self.parameters():
            module = self.modules[path]
            if isinstance(module, _FOLDED):
                continue
            if binary:
                self.at(path).packed_bytes += -(-parameter.numel() // 8)
                if not isinstance(getattr(module, "norm", None), _FOLDED):
                    self.at(path).packed_bytes += 4 * _filters(module, parameter)
                continue
            folds = isinstance(module, BinaryLayer) and parameter is module.bias
            if not (folds and isinstance(module.norm, _FOLDED)):
                self.at(path).packed_bytes += 4 * parameter.numel()
        for path, module in self.modules.items():
            if isinstance(module, _FOLDED):
                self.at(path).packed_bytes += 8 * module.num_features
                continue
            hidden = module._non_persistent_buffers_set
            for name, buffer in module._buffers.items():
                if buffer is not None and name not in hidden and buffer.is_floating_point():
                    self.at(path).packed_bytes += 4 * buffer.numel()

    def layers(self) -> tuple[LayerCount, ...]:
        """One row per layer that holds or does something."""
        return tuple(
            LayerCount(
                name=path,
                kind=known_class(self.modules[path]).__name__ if path in self.modules else "",
                binary_params=count.binary_params,
                float_params=count.float_params,
                binary_macs=None if count.unknown and self.is_binary(path) else count.binary_work,
                float_macs=None if count.unknown and not self.is_binary(path) else count.float_work,
                packed_bytes=count.packed_bytes,
            )
            for path, count in ((p, self._counts[p]) for p in self.modules if p in self._counts)
            if count != Count()
        )


def _filters(module: nn.Module, weight: nn.Parameter) -> int:
    """How many output filters `weight` holds: (Cout, ...), or (Cin, Cout / groups, ...) if transposed."""
    if getattr(module, "transposed", False):
        return weight.shape[1] * int(getattr(module, "groups", 1))
    return weight.shape[0]
