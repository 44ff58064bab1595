"""Pure tensor functions: sign and surrogate gradients, weight scaling, the DAB and the channel bypass."""

from binarize.functional.activations import (
    AdaBinSet,
    ApproxSign,
    RedistributedSign,
    ShiftedSign,
    SteSign,
    SteStep,
)
from binarize.functional.bypass import channel_bypass
from binarize.functional.convolution import Geometry, binary_dense
from binarize.functional.dab import DabRule
from binarize.functional.levels import Levels, levels_of
from binarize.functional.rules import Rule, quantize
from binarize.functional.sign import sign
from binarize.functional.weights import AdaBinWeights, CentredScaledSign, ScaledSign

__all__ = [
    "AdaBinSet",
    "AdaBinWeights",
    "ApproxSign",
    "CentredScaledSign",
    "DabRule",
    "Geometry",
    "Levels",
    "RedistributedSign",
    "Rule",
    "ScaledSign",
    "ShiftedSign",
    "SteSign",
    "SteStep",
    "binary_dense",
    "channel_bypass",
    "levels_of",
    "quantize",
    "sign",
]
