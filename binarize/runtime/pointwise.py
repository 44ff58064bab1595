"""Float 1x1 convolutions of a deployed network, its classifiers above all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from binarize.runtime.lazy import Behind, ordinary

_functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
_is_tracing = torch.jit.is_tracing  # pyright: ignore[reportPrivateImportUsage]
_is_compiling = torch.compiler.is_compiling
_dispatch_modes: Any = torch._C._len_torch_dispatch_stack  # pyright: ignore[reportAttributeAccessIssue]


def is_traced(x: Tensor) -> bool:
    """Whether what is done with `x` is being written down or transformed: kernels would not be seen."""
    watched = _is_tracing() or _is_compiling() or _dispatch_modes() > 0
    return watched or _functorch.is_functorch_wrapped_tensor(x)


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution, by the packed layer in front or by oneDNN.

    With one thread torch itself takes a path that is far slower.
    """

    binarize_stands_for = nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        """(N, Cin, H, W) -> (N, Cout, H, W)."""
        if type(input) is Behind and input.waits and self._fits(input):
            return input.through(self)
        return self.convolve(ordinary(input))

    def _fits(self, input: Tensor) -> bool:
        parts = [self.weight] if self.bias is None else [self.weight, self.bias]
        learns = torch.is_grad_enabled() and any(part.requires_grad for part in parts)
        plain = all(part.dtype == torch.float32 and part.device.type == "cpu" for part in parts)
        return plain and not learns and input.shape[1] == self.in_channels

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
