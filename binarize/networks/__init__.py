"""Float networks for dense prediction on timm encoders. They know nothing of binarization."""

from __future__ import annotations

from binarize.networks.catalog import build, create, names
from binarize.networks.deeplab import DeepLabV3Plus, deeplabv3plus
from binarize.networks.dense import DenseNetwork
from binarize.networks.dpt import DPT, dpt
from binarize.networks.encoders import EncoderInfo, create_encoder
from binarize.networks.fcn import FCN, fcn8s, fcn32s
from binarize.networks.segformer import SegFormer, segformer
from binarize.networks.upernet import UPerNet, upernet

__all__ = [
    "DPT",
    "FCN",
    "DeepLabV3Plus",
    "DenseNetwork",
    "EncoderInfo",
    "SegFormer",
    "UPerNet",
    "build",
    "create",
    "create_encoder",
    "deeplabv3plus",
    "dpt",
    "fcn8s",
    "fcn32s",
    "names",
    "segformer",
    "upernet",
]
