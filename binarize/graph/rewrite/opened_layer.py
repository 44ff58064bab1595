"""A convolution or linear subclass with a forward of its own, in which a binary layer is called."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from binarize.methods.forms import Form


class OpenedLayer(nn.Module):
    """A convolution or linear subclass taken apart: its own forward, in which a binary layer is called.

    Attributes:
        binary_name: of the binary layer among the children.
        float_class: name of the class that it was.
    """

    binary_name: str
    float_class: str

    @property
    def weight(self) -> Tensor:
        """The latent weight of the binary layer."""
        return self._modules[self.binary_name].weight  # type: ignore[union-attr, return-value]

    @property
    def bias(self) -> Tensor | None:
        """The bias that the forward adds itself, or that of the binary layer."""
        own = self._parameters.get("bias")
        return self._modules[self.binary_name].bias if own is None else own  # type: ignore[union-attr, return-value]

    def _get_name(self) -> str:
        return self.float_class


def take_apart(layer: nn.Module, form: Form, name: str) -> nn.Module:
    """Make `layer` an `OpenedLayer`, in place, with a slot for its binary layer.

    Returns:
        A float layer with its class, parameters and attributes as they were, to build the binary one from.
    """
    twin = copy.copy(layer)
    twin._parameters = dict(layer._parameters)
    twin._modules = dict(layer._modules)
    layer.float_class = type(layer).__name__  # type: ignore[assignment]
    layer.binary_name = name  # type: ignore[assignment]
    layer.__class__ = OpenedLayer
    del layer._parameters["weight"]
    if form.bias:
        del layer._parameters["bias"]
    layer._modules[name] = nn.Identity()
    return twin
