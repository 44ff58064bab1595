"""Counts per layer, under the names of the modules of the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from binarize.accounting.report import LayerCount
from binarize.graph.trace.roles import known_class
from binarize.layers import BinaryAttention, BinaryLayer, BinaryProduct
from binarize.runtime import PackedLayer, stored
from binarize.runtime.stored import size

_BINARY = (BinaryLayer, PackedLayer, BinaryAttention, BinaryProduct)


@dataclass(kw_only=True)
class Count:
    """The counts of one layer so far; see `LayerCount`."""

    binary_params: int = 0
    float_params: int = 0
    binary_work: int = 0
    float_work: int = 0
    packed_bytes: int = 0
    unknown: bool = False


class Tally:
    """The layers of a model in the order of definition.

    A binary layer and its modules are one, and so is binary attention.
    """

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
        """Whether the module at `path` is a binary layer or product itself."""
        return isinstance(self.modules.get(path), _BINARY)

    def bits(self, path: str) -> tuple[int, int]:
        """Of a weight and of an activation of the binary layer at `path`; of another module (0, 0)."""
        module = self.modules.get(path)
        if isinstance(module, PackedLayer):
            return module.spec.weight_planes, module.spec.quantizer.planes
        if isinstance(module, BinaryLayer):
            return module.weight_rule.planes, getattr(module.quantizer, "planes", 1)
        return 0, 0

    def add_packed_layers(self) -> None:
        """Add the weights of packed layers, as bits, and the floats that they hold beside them.

        Bits that two layers share count once, as the latent weights that they are of.
        """
        seen: set[int] = set()
        for path, module in self.modules.items():
            if isinstance(module, PackedLayer):
                if id(module.bits) not in seen:
                    self.at(path).binary_params += module.spec.weights * module.spec.weight_planes
                seen.add(id(module.bits))
                self.at(path).float_params += sum(
                    buffer.numel() for buffer in module.buffers() if buffer.is_floating_point()
                )

    def parameters(self) -> Iterator[tuple[str, str, nn.Parameter, bool]]:
        """(module path, name in it, parameter, whether it is kept as bits), each parameter once."""
        seen: set[int] = set()
        for path, module in self.modules.items():
            for name, parameter in module._parameters.items():
                if parameter is None or id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                yield path, name, parameter, name == "weight" and isinstance(module, BinaryLayer)

    def add_packed_bytes(self) -> None:
        """Add the sizes of the tensors that a packed file of the network holds (`runtime.stored`).

        Of a packed layer, the bits of its weights, rounded up to bytes, and its vectors; of all else,
        parameters and persistent buffers, floats in 32 bits.
        """
        for name, tensor in stored(self.modules[""]).tensors.items():
            path = name.rpartition(".")[0]
            while path not in self.modules:
                path = path.rpartition(".")[0]
            self.at(path).packed_bytes += size(tensor)

    def layers(self) -> tuple[LayerCount, ...]:
        """One row per layer that has parameters or work."""
        return tuple(
            LayerCount(
                name=path,
                kind=known_class(self.modules[path]).__name__ if path in self.modules else "",
                binary_params=count.binary_params,
                float_params=count.float_params,
                binary_macs=None if count.unknown and self.is_binary(path) else count.binary_work,
                float_macs=None if count.unknown and not self.is_binary(path) else count.float_work,
                packed_bytes=count.packed_bytes,
                weight_bits=self.bits(path)[0],
                activation_bits=self.bits(path)[1],
            )
            for path, count in ((p, self._counts[p]) for p in self.modules if p in self._counts)
            if count != Count()
        )
