"""`torch.ops.binarize`: the operators that a packed network is made of.

Each has a fake implementation (shapes only) and one for the CPU, and can be called by torch's dispatcher,
in `torch.compile`, `torch.export` and AOTInductor. Importing this package registers them all.

Activations are four optional vectors over channels (before, negative, positive, after) and, for a clamp, two
bounds (`binarize.native.epilogue.Activation`).
"""

from binarize.runtime.ops.elementwise import piecewise, pointwise
from binarize.runtime.ops.float_layers import attention, linear, mean, stem
from binarize.runtime.ops.packed_layer import layer, native_of, normed
from binarize.runtime.ops.planes import plane_words

__all__ = [
    "attention",
    "layer",
    "linear",
    "mean",
    "native_of",
    "normed",
    "piecewise",
    "plane_words",
    "pointwise",
    "stem",
]
