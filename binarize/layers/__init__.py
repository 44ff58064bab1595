"""Trainable modules of binary networks: quantizers, convolutions, linear layers, activations, bypass."""

from binarize.layers.activations import (
    BiasPReLU,
    ChannelPReLU,
    Maxout,
    Pieces,
    Piecewise,
    PiecewiseLinear,
    RPReLU,
)
from binarize.layers.base import BinaryLayer
from binarize.layers.bypass import Bypass
from binarize.layers.conv import BinaryConv1d, BinaryConv2d, BinaryConvTranspose2d
from binarize.layers.linear import BinaryLinear
from binarize.layers.norm import ChannelLastBatchNorm
from binarize.layers.quantizers import (
    DAB,
    AdaBinSign,
    ApproxSignQuantizer,
    Quantizer,
    Redistribution,
    ScheduledSign,
    ShiftedSignQuantizer,
    SignForm,
    SignSTE,
    StepSTE,
    TokenSign,
)
from binarize.layers.recipe import LayerRecipe, Recipe, Site
from binarize.layers.stand_ins import AbsentTensor, DroppedBias, StandsForLayer
from binarize.layers.training_state import Numbers, WeightState, set_progress

__all__ = [
    "DAB",
    "AbsentTensor",
    "AdaBinSign",
    "ApproxSignQuantizer",
    "BiasPReLU",
    "BinaryConv1d",
    "BinaryConv2d",
    "BinaryConvTranspose2d",
    "BinaryLayer",
    "BinaryLinear",
    "Bypass",
    "ChannelLastBatchNorm",
    "ChannelPReLU",
    "DroppedBias",
    "LayerRecipe",
    "Maxout",
    "Numbers",
    "Pieces",
    "Piecewise",
    "PiecewiseLinear",
    "Quantizer",
    "RPReLU",
    "Recipe",
    "Redistribution",
    "ScheduledSign",
    "ShiftedSignQuantizer",
    "SignForm",
    "SignSTE",
    "Site",
    "StandsForLayer",
    "StepSTE",
    "TokenSign",
    "WeightState",
    "set_progress",
]
