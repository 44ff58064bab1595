"""DeepLabV3+: pyramid pooling by dilated convolutions, and a decoder that takes a fine map too.

Source: Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation"
(ECCV 2018), Figure 2 and Section 4.1 (48 channels of the fine map, two 3x3 convolutions of 256); ASPP as in
Section 3.3 of "Rethinking Atrous Convolution for Semantic Image Segmentation" (arXiv 1706.05587).

Departures: convolutions are plain, as in the paper's networks on ResNet-101, not depthwise separable as in
those on Xception. An encoder that cannot be dilated keeps its own stride (32 for most), and the rates are
divided accordingly, so that they reach as far in the image. Depth: the scores of one channel through a
sigmoid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from binarize.errors import ConfigError
from binarize.networks.blocks import conv_norm_act, resize, sequential
from binarize.networks.dense import DenseNetwork, Task, dense_network, outputs, strides_that_do_not_fit
from binarize.networks.encoders import EncoderInfo, create_encoder, examine_encoder
from binarize.networks.heads import DepthRange

WIDTH = 256
LOW_CHANNELS = 48
STRIDES = (8, 16, 32)
REACH = (96, 192, 288)
"""Dilation times stride: rates 6, 12, 18 at stride 16 (Section 3.3)."""


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: (N, channels, H, W) -> (N, width, H, W).

    Branches to `width` channels each: conv 1x1; conv 3x3 of each dilation; the mean of the map, conv 1x1, and
    back to its size. Each has BN and ReLU. Concatenated, conv 1x1, BN, ReLU, Dropout 0.1.

    Note:
        With a single image the branch of the mean gives batch norm one value per channel, which it refuses in
        training mode: train with at least two images per batch.
    """

    def __init__(self, channels: int, width: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.point = sequential(*conv_norm_act(channels, width, 1))
        self.dilated = nn.ModuleList(sequential(*conv_norm_act(channels, width, 3, rate)) for rate in rates)
        self.mean = sequential(("pool", nn.AdaptiveAvgPool2d(1)), *conv_norm_act(channels, width, 1))
        merged = conv_norm_act(width * (2 + len(rates)), width, 1)
        self.project = sequential(*merged, ("drop", nn.Dropout(0.1)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, width, H, W)."""
        maps = [self.point(x), *(branch(x) for branch in self.dilated), resize(self.mean(x), x)]
        return self.project(torch.cat(maps, dim=1))


class DeepLabV3Plus(DenseNetwork):
    """ASPP on the coarsest map, resized to the finest, concatenated with it (conv 1x1 to 48), two convs 3x3.

    Args:
        encoder: gives the maps, finest first.
        info: their widths and strides; the finest is finer than the coarsest.
        channels: of the result, classes or 1.
        width: channels of ASPP and decoder.
        last: what the resized scores go through.
    """

    def __init__(
        self, encoder: nn.Module, info: EncoderInfo, channels: int, width: int, last: nn.Module
    ) -> None:
        super().__init__(encoder, info)
        rates = [max(1, reach // info.strides[-1]) for reach in REACH]
        self.aspp = ASPP(info.channels[-1], width, rates)
        self.low = sequential(*conv_norm_act(info.channels[0], LOW_CHANNELS, 1))
        self.decoder = nn.Sequential(
            sequential(*conv_norm_act(width + LOW_CHANNELS, width, 3)),
            sequential(*conv_norm_act(width, width, 3)),
        )
        self.classifier = nn.Conv2d(width, channels, 1)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) of any size -> (N, classes or 1, H, W)."""
        features = self._features(x)
        low = self.low(features[0])
        y = self._to(self.aspp(features[-1]), low)
        y = self.classifier(self.decoder(torch.cat([y, low], dim=1)))
        return self.last(self._to_input(y, x))


@dense_network
def deeplabv3plus(
    encoder: str,
    task: Task = "segmentation",
    num_classes: int = 151,
    max_depth: float = 10.0,
    pretrained: bool = False,
    img_size: int | Sequence[int] | None = None,
    width: int = WIDTH,
    output_stride: int | None = None,
) -> DeepLabV3Plus:
    """DeepLabV3+ on the timm model `encoder`, in float: (N, 3, H, W) -> (N, num_classes or 1, H, W).

    With `resnet18` and 21 classes: 16,608,181 trainable parameters, 36.29 G MACs at 480x480.

    Args:
        encoder: name of a timm model whose maps have several strides.
        task: "segmentation" gives logits, "depth" gives depth in (0, max_depth).
        num_classes: for segmentation.
        max_depth: for depth, in the unit of the targets.
        pretrained: whether the encoder starts from timm's pretrained weights.
        img_size: size (H, W) for an encoder that is built for one size; other encoders refuse it.
        width: channels of ASPP and decoder.
        output_stride: of the coarsest map, 8, 16 or 32: the encoder's last stages are dilated instead of
            strided. By default 16 (Section 4.1) where the encoder can do it, else what it has.

    Raises:
        ConfigError: for an unknown encoder or task, or an encoder that does not fit or has no such stride.
    """
    if output_stride not in (None, *STRIDES):
        raise ConfigError(f"deeplabv3plus: output_stride={output_stride!r}; expected 8, 16 or 32.")
    options = _dilated(encoder, img_size, output_stride)
    body, info = create_encoder(encoder, pretrained=pretrained, img_size=img_size, options=options)
    if info.strides[0] >= info.strides[-1]:
        needed = "it needs a fine and a coarse one, as 'resnet18' and 'convnext_tiny' have"
        raise strides_that_do_not_fit("deeplabv3plus", encoder, info, needed)
    last = DepthRange(max_depth) if task == "depth" else nn.Identity()
    return DeepLabV3Plus(body, info, outputs(task, num_classes), width, last)


def _dilated(
    encoder: str, img_size: int | Sequence[int] | None, output_stride: int | None
) -> dict[str, int] | None:
    """The option under which the encoder's coarsest map has this stride; None if that needs no option."""
    wanted = output_stride or 16
    own = examine_encoder(encoder, img_size=img_size)
    if own.strides[-1] == wanted:
        return None
    options = {"output_stride": wanted}
    try:
        found = examine_encoder(encoder, img_size=img_size, options=options).strides[-1]
    except ConfigError:
        found = own.strides[-1]
    if found == wanted:
        return options
    if output_stride is None:
        return None
    raise ConfigError(
        f"deeplabv3plus: encoder {encoder!r} cannot be built with output_stride={wanted}; leave the option "
        f"out for the encoder's own {own.strides[-1]}, or choose one that can be dilated ('resnet18')."
    )
