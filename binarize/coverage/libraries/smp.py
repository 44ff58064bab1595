"""Networks of segmentation_models_pytorch: every decoder, under encoders of many kinds."""

from __future__ import annotations

import warnings
from typing import Any

import segmentation_models_pytorch as smp  # pyright: ignore[reportMissingImports]  (optional)
from torch import nn

from binarize.coverage.libraries.network import Network

_CLASSES = 5


def _network(
    decoder: str, encoder: str, heads: tuple[str, ...] = ("segmentation_head.0",), **more: Any
) -> Network:
    sizes = more.pop("sizes", ((64, 64), (64, 96)))

    def build() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # encoders of its own that timm has too
            return smp.create_model(
                decoder, encoder_name=encoder, encoder_weights=None, classes=_CLASSES, **more
            )

    name = f"{decoder}_{encoder}".replace("-", "_")
    return Network(name=name, task="segmentation", build=build, heads=heads, sizes=sizes)


_WITH_LABEL = ("segmentation_head.0", "classification_head.3")

NETWORKS = (
    _network("unet", "resnet18"),
    _network("unet", "efficientnet-b0", activation="sigmoid"),
    _network("unet", "tu-convnext_atto"),
    _network("unetplusplus", "timm-efficientnet-b0"),
    _network("manet", "mobileone_s0", decoder_channels=(64, 48, 32, 24, 16)),
    _network("linknet", "mobilenet_v2"),
    _network("fpn", "resnet18", _WITH_LABEL, aux_params={"classes": 3, "dropout": 0.1}),
    _network("pspnet", "timm-skresnet18"),
    _network("pan", "resnet18", sizes=((128, 128), (128, 160))),
    _network("deeplabv3", "mobilenet_v2"),
    _network("deeplabv3plus", "efficientnet-b0", activation="softmax2d"),
    _network("upernet", "mit_b0"),
    _network("segformer", "mit_b0"),
    _network("dpt", "tu-vit_tiny_patch16_224", ("segmentation_head.head.4",), dynamic_img_size=True),
)
