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
from binarize.layers.attention import AttentionShapes, BinaryAttention, BinaryProduct
from binarize.layers.base import BinaryLayer
from binarize.layers.bypass import Bypass
from binarize.layers.conv import BinaryConv1d, BinaryConv2d, BinaryConvTranspose2d
from binarize.layers.linear import BinaryLinear
from binarize.layers.norm import ChannelLastBatchNorm
from binarize.layers.quantizers import (
    DAB,
    AdaBinSign,
    ApproxSignQuantizer,
    LevelForm,
    Quantizer,
    Redistribution,
    ScheduledSign,
    ShiftedSignQuantizer,
    SignForm,
    SignSTE,
    StepSTE,
    TokenSign,
)
from binarize.layers.recipe import AttentionRecipe, LayerCost, LayerRecipe, Recipe, Site
from binarize.layers.stand_ins import AbsentTensor, DroppedBias, StandsForLayer
from binarize.layers.training_state import Numbers, WeightState, set_progress

__all__ = [
    "DAB",
    "AbsentTensor",
    "AdaBinSign",
    "ApproxSignQuantizer",
    "AttentionRecipe",
    "AttentionShapes",
    "BiasPReLU",
    "BinaryAttention",
    "BinaryConv1d",
    "BinaryConv2d",
    "BinaryConvTranspose2d",
    "BinaryLayer",
    "BinaryLinear",
    "BinaryProduct",
    "Bypass",
    "ChannelLastBatchNorm",
    "ChannelPReLU",
    "DroppedBias",
    "LayerCost",
    "LayerRecipe",
    "LevelForm",
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
