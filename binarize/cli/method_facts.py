"""What one layer that a method builds says about the method: bits, parameters, and what packed layers do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from binarize.methods import Method

_CHANNELS = (32, 64)  # of two layers: their difference is what each channel has


@dataclass(frozen=True, kw_only=True)
class MethodFacts:
    """Of a convolution 3x3 with C input and C output channels, with the method's default options.

    Attributes:
        layers: binary layers in place of the convolution.
        weight_bits: of a stored weight of each.
        activation_bits: of an activation.
        per_channel: learnt parameters beside weights and bias, for each of the C channels: of quantizers,
            scales, the norm and the activation inside.
        constant: those of the whole layer.
        activation_per_channel: of the activation that replaces the network's, for each channel.
        packed: what computes the packed layer: `kernels`, `torch` or `nobody` (it cannot be packed).
        reason: why it is not the kernels; empty if it is.
    """

    layers: int
    weight_bits: int
    activation_bits: int
    per_channel: int
    constant: int
    activation_per_channel: int
    packed: str
    reason: str = ""

    @property
    def bits(self) -> str:
        """Text: `W1A1`, with `5 x` in front where a convolution becomes five layers."""
        text = f"W{self.weight_bits}A{self.activation_bits}"
        return text if self.layers == 1 else f"{self.layers} x {text}"

    @property
    def parameters(self) -> str:
        """Text: `5 C + 2`, and what an activation behind it has."""
        parts = [f"{self.per_channel} C"] * bool(self.per_channel) + [str(self.constant)] * bool(
            self.constant
        )
        own = " + ".join(parts) or "0"
        more = self.activation_per_channel
        return f"{own}; activation {more} C" if more else own

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def facts_of(method: Method) -> MethodFacts:
    """The facts of a method, found by building a layer.

    Raises:
        ConfigError: the method refuses a convolution 3x3.
    """
    from binarize.methods.base import ActivationSite

    small, large = (_own_parameters(_layer(method, channels)) for channels in _CHANNELS)
    per_channel = (large - small) // (_CHANNELS[1] - _CHANNELS[0])
    inside = any(getattr(m, "inner", None) is not None for m in _layer(method, _CHANNELS[0]).modules())
    made = None if inside else method.activation(ActivationSite(channels=_CHANNELS[0]))
    behind = 0 if made is None else sum(p.numel() for p in made().parameters())
    packed, reason = _packed(_layer(method, _CHANNELS[1]))
    return MethodFacts(
        layers=_count(_layer(method, _CHANNELS[0])),
        weight_bits=method.bits[0],
        activation_bits=method.bits[1],
        per_channel=per_channel,
        constant=small - per_channel * _CHANNELS[0],
        activation_per_channel=behind // _CHANNELS[0],
        packed=packed,
        reason=reason,
    )


def _layer(method: Method, channels: int) -> Any:
    from torch import nn

    from binarize.layers import set_progress
    from binarize.methods import binary_layer

    built = binary_layer(nn.Conv2d(channels, channels, 3, padding=1, bias=False), method)
    set_progress(built, 1.0)
    return built


def _own_parameters(layer: Any) -> int:
    from binarize.layers import BinaryLayer

    latent = {id(m.weight) for m in layer.modules() if isinstance(m, BinaryLayer)}
    return sum(p.numel() for p in layer.parameters() if p.requires_grad and id(p) not in latent)


def _count(layer: Any) -> int:
    from binarize.layers import BinaryLayer

    return sum(isinstance(m, BinaryLayer) for m in layer.modules())


def _packed(layer: Any) -> tuple[str, str]:
    """What computes all packed layers of a module, and why not the kernels."""
    from binarize.layers import BinaryLayer
    from binarize.runtime import Refusal, lower
    from binarize.runtime.kernel_support import why_not

    found = [lower(m.eval()) for m in layer.modules() if isinstance(m, BinaryLayer)]
    refused = next((one.reason for one in found if isinstance(one, Refusal)), None)
    if refused is not None or not found:
        return "nobody", refused or "it builds no binary layer that the packed runtime knows"
    slow = next((why for one in found if not isinstance(one, Refusal) and (why := why_not(one.data()))), None)
    return ("kernels", "") if slow is None else ("torch", slow)
