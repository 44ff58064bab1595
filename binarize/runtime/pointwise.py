"""Float 1x1 convolutions of a deployed network, its classifiers above all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def is_traced(x: Tensor) -> bool:
    """Whether what is done with `x` is being written down or transformed: kernels would not be seen."""
    functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return tracing or torch.compiler.is_compiling() or functorch.is_functorch_wrapped_tensor(x)


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution by oneDNN: with one thread torch itself takes a path that is far slower."""

    done_before = False
    """Whether the packed layer in front does it too (`PackedLayer.take_tail`)."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, Cin, H, W) -> (N, Cout, H, W); what it is given if that is done already."""
        return input if self.done_before else self.convolve(input)

    def convolve(self, input: Tensor) -> Tensor:
        """The convolution itself."""
        plain = type(input) is Tensor and input.dtype == self.weight.dtype == torch.float32
        fast = plain and input.device.type == "cpu" and input.dim() == 4 and input.numel() > 0
        if not fast or not torch.backends.mkldnn.enabled or is_traced(input):
            return super().forward(input)
        return torch.mkldnn_convolution(input, self.weight, self.bias, (0, 0), (1, 1), (1, 1), 1)


def is_pointwise(conv: nn.Conv2d) -> bool:
    """Whether a `PointwiseConv2d` can take its place."""
    return (
        set(conv.kernel_size) == {1}
        and set(conv.stride) == {1}
        and conv.padding in ((0, 0), "valid", "same")
        and conv.groups == 1
        and "forward" not in conv.__dict__
    )
