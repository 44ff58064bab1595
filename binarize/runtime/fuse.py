"""What a deployed network can save between layers: activations where sums are made, float 1x1 layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx, nn

from binarize.errors import TraceError
from binarize.graph.flow import Flow
from binarize.graph.places import Places
from binarize.graph.record import record
from binarize.layers import BiasPReLU, Maxout
from binarize.runtime.kernels import activation_of
from binarize.runtime.packed import PackedLayer, is_traced

_STATELESS = (nn.ReLU, nn.Hardtanh)
_LARGEST = 2**26  # elements of inputs that are run: shapes come from files, too


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution by oneDNN: with one thread torch itself takes a path that is far slower."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, Cin, H, W) -> (N, Cout, H, W)."""
        plain = type(input) is Tensor and input.dtype == self.weight.dtype == torch.float32
        fast = plain and input.device.type == "cpu" and input.dim() == 4 and input.numel() > 0
        if not fast or not torch.backends.mkldnn.enabled or is_traced(input):
            return super().forward(input)
        return torch.mkldnn_convolution(input, self.weight, self.bias, (0, 0), (1, 1), (1, 1), 1)


def fuse(model: nn.Module) -> None:
    """Let packed layers do the activation behind them, and 1x1 convolutions take the fast path; in place.

    Activations are found in a run on inputs of the shapes that the model was converted with; without those,
    or if such a run fails, they stay where they are. Names of parameters and buffers do not change.

    Args:
        model: deployed, in evaluation mode.
    """
    places = Places(model)
    for module in list(model.modules()):
        if type(module) is nn.Conv2d and _is_pointwise(module):
            module.__class__ = PointwiseConv2d
    for layer, activation in _pairs(model):
        layer.take_activation(activation)
        if isinstance(activation, (BiasPReLU, Maxout)):
            activation.done_before = True
        else:
            places.replace(activation, nn.Identity())


def _is_pointwise(conv: nn.Conv2d) -> bool:
    return (
        set(conv.kernel_size) == {1}
        and set(conv.stride) == {1}
        and conv.padding in ((0, 0), "valid", "same")
        and conv.groups == 1
        and "forward" not in conv.__dict__
    )


def _pairs(model: nn.Module) -> Iterator[tuple[PackedLayer, nn.Module]]:
    """Packed layers and the activations that see their result, and nothing else."""
    plan = getattr(model, "binarize_plan", None)
    shapes = plan.inputs if plan is not None else ()
    if not shapes:
        return
    found = _found(model, shapes)
    # A forward may do other things at other sizes: what is not the same at a second one stays. A model that
    # takes no other size does not matter.
    other = tuple((*shape[:-2], *(n + n // 2 + 32 - n // 2 % 32 for n in shape[-2:])) for shape in shapes)
    again = _found(model, other) if all(len(shape) == 4 for shape in shapes) else None
    yield from (found or []) if again is None else [pair for pair in found or [] if pair in again]


def _found(model: nn.Module, shapes: Sequence[Sequence[int]]) -> list[tuple[PackedLayer, nn.Module]] | None:
    """The pairs in a run on inputs of these shapes; None if there is no such run."""
    if sum(math.prod(shape) for shape in shapes) > _LARGEST:
        return None
    try:
        recording = record(model, tuple(torch.zeros(shape) for shape in shapes))
    except TraceError:
        return None
    if not recording.fake:  # values decide what is done: a run tells about one input only
        return []
    flow = Flow(model, recording)
    pairs = []
    for path, calls in flow.calls.items():
        activation = flow.modules.get(path)
        known = isinstance(activation, (BiasPReLU, Maxout)) or type(activation) in _STATELESS
        if activation is None or not known or activation_of(activation) is None or flow.has_aliases(path):
            continue
        if _hooked(activation) or flow.is_read(path):
            continue
        layer = _in_front(flow, calls)
        if layer is not None:
            pairs.append((layer, activation))
    return pairs


def _in_front(flow: Flow, calls: list[fx.Node]) -> PackedLayer | None:
    """The one layer that all calls' inputs come from directly, each result used by nothing else."""
    if len(calls) != 1:
        return None
    source = flow.source(calls[0])
    if source is None or len(source.users) != 1:
        return None
    layer = flow.module(source)
    if not isinstance(layer, PackedLayer) or _hooked(layer) or flow.has_aliases(str(source.target)):
        return None
    return layer if len(flow.calls[str(source.target)]) == 1 else None


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
