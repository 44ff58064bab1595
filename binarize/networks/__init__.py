"""Float networks for dense prediction on timm encoders. They know nothing of binarization."""

from __future__ import annotations

from binarize.networks.catalog import build, create, names
from binarize.networks.encoders import EncoderInfo, create_encoder
from binarize.networks.upernet import UPerNet, upernet

__all__ = ["EncoderInfo", "UPerNet", "build", "create", "create_encoder", "names", "upernet"]
