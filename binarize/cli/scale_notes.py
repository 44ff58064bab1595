"""What one scale per channel costs a packed network, in words: `convert` and `deploy` print it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

REMEDY = "--set granularity=layer or group of `convert`, then train"


def note(model: nn.Module) -> str:
    """The note on a converted or deployed network; empty if none of its layers has a scale per channel.

    Depthwise layers are left out: there a scale per channel is one of the output.
    """
    from binarize.layers import BinaryLayer
    from binarize.runtime import PackedLayer, PackedSpec, describe
    from binarize.runtime.kernel_support import is_depthwise, per_channel

    layers = [m for m in model.modules() if isinstance(m, (BinaryLayer, PackedLayer))]
    specs = [m.spec if isinstance(m, PackedLayer) else describe(m) for m in layers]
    slow = sum(isinstance(s, PackedSpec) and per_channel(s) and not is_depthwise(s) for s in specs)
    if not slow:
        return ""
    return (
        f"scales   one per channel in {slow} of {len(layers)} binary layers. It stands inside the sum, so "
        f"packed kernels are slower than with one scale per layer or group ({REMEDY}), and round the scales "
        "(exact_scales=True: they do not, which is slower still, and without AVX-512 done by torch). "
        "Times: docs/performance.md; error: docs/kernels.md."
    )
