"""UPerNet as in the BiDense paper's comparison: a timm encoder, pyramid pooling, a feature pyramid, a head.

Source: "BiDense: Binarization for Dense Prediction" (arXiv 2411.10346), Tables 1 to 4; the decoder is the
compact form of UPerNet (Xiao et al., ECCV 2018) whose three smoothing convolutions are one and the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from binarize.errors import ConfigError, unknown_name
from binarize.networks.blocks import conv_norm_act, resize, sequential
from binarize.networks.dense import DenseNetwork, Task, dense_network
from binarize.networks.encoders import EncoderInfo, create_encoder
from binarize.networks.heads import DepthHead, SegmentationHead

PSP_BINS = (1, 2, 4, 6)
OUT_WIDTH = 128
HEADS = ("full", "quarter")


class PSP(nn.Module):
    """Pyramid pooling: the map at several coarse resolutions, concatenated to it and merged.

    (N, C, H, W) -> (N, C, H, W). Each branch: mean over a grid of b x b bins, conv 1x1 to C / #bins, BN,
    ReLU, bilinear back; then conv 3x3 back to C, BN, ReLU, Dropout2d.

    Note:
        With a single image the branch of one bin gives batch norm one value per channel, which it refuses
        in training mode: train with at least two images per batch.
    """

    def __init__(self, channels: int, bins: Sequence[int] = PSP_BINS, dropout: float = 0.1) -> None:
        super().__init__()
        width = channels // len(bins)
        self.branches = nn.ModuleList(
            sequential(("pool", nn.AdaptiveAvgPool2d(b)), *conv_norm_act(channels, width, 1)) for b in bins
        )
        self.bottleneck = sequential(
            *conv_norm_act(channels + width * len(bins), channels, 3), ("drop", nn.Dropout2d(dropout))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        pooled = [resize(branch(x), x) for branch in self.branches]
        return self.bottleneck(torch.cat([x, *pooled], dim=1))


class FPN(nn.Module):
    """Feature pyramid over maps f_1 (finest) .. f_n (coarsest), of widths `channels`.

    f_i, i > 1, goes through its lateral conv 1x1 to the width of f_1. Then P_i = smooth(up(f_{i+1}) + f_i)
    for i < n: not cumulative (P_i sees f_{i+1}, not P_{i+1}), one shared conv 3x3 `smooth`, called for
    P_{n-1} first and for P_1 last as in the authors' code. Result: P_1, .., P_{n-1}, f_n at the size of f_1,
    concatenated, through conv 3x3, BN, ReLU: (N, channels[0], H_1, W_1).
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        width = channels[0]
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels[1:])
        self.smooth = nn.Conv2d(width, width, 3, padding=1)
        self.fusion = sequential(*conv_norm_act(width * len(channels), width, 3))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Maps (N, channels[i], H_i, W_i), finest first -> (N, channels[0], H_0, W_0)."""
        levels = [features[0]]
        levels += [lateral(features[i]) for i, lateral in enumerate(self.laterals, start=1)]
        # Coarsest first: the norm behind the shared convolution keeps statistics of its calls in their order.
        pairs = reversed(list(itertools.pairwise(levels)))
        merged = [self.smooth(resize(up, f) + f) for f, up in pairs]
        pyramid = [*reversed(merged), levels[-1]]
        return self.fusion(torch.cat([pyramid[0], *(resize(p, pyramid[0]) for p in pyramid[1:])], dim=1))


class UPerNet(DenseNetwork):
    """An encoder, then PSP on its coarsest map, FPN over all, a conv 3x3 and a head; see `DenseNetwork`.

    Args:
        encoder: gives the maps, finest first.
        info: their widths and layout.
        head: works on (N, width, H, W) at the size of the input, or of the finest map.
        width: channels of the map that the head sees.
        quarter: whether the head works at the size of the finest map (a quarter of the input's for most
            encoders), and its output is resized; or at the size of the input.
    """

    quarter = False  # pickles of earlier versions do not hold it

    def __init__(
        self,
        encoder: nn.Module,
        info: EncoderInfo,
        head: nn.Module,
        width: int = OUT_WIDTH,
        quarter: bool = False,
    ) -> None:
        super().__init__(encoder, info)
        if info.channels[-1] < len(PSP_BINS):
            raise ConfigError(
                f"upernet: the encoder's last map has {info.channels[-1]} channels, pyramid pooling over "
                f"{len(PSP_BINS)} bins needs at least {len(PSP_BINS)}; choose a wider encoder."
            )
        self.quarter = quarter
        self.psp = PSP(info.channels[-1])
        self.fpn = FPN(info.channels)
        self.out = nn.Conv2d(info.channels[0], width, 3, padding=1)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) of any size -> (N, classes or 1, H, W)."""
        features = self._features(x)
        features[-1] = self.psp(features[-1])
        y = self.out(self.fpn(features))
        if self.quarter:
            return self._to_input(self.head(y), x)
        return self.head(self._to_input(y, x))


@dense_network
def upernet(
    encoder: str,
    task: Task = "segmentation",
    num_classes: int = 151,
    max_depth: float = 10.0,
    pretrained: bool = False,
    img_size: int | Sequence[int] | None = None,
    width: int = OUT_WIDTH,
    head: Literal["full", "quarter"] = "full",
) -> UPerNet:
    """UPerNet on the timm model `encoder`, in float: (N, 3, H, W) -> (N, num_classes or 1, H, W).

    With `convnext_tiny` and 151 classes: 39,850,551 trainable parameters; 69.33 G MACs at 480x480, 33.31 G
    with `head="quarter"`.

    Args:
        encoder: name of a timm model that gives at least two feature maps; its last four are used.
        task: "segmentation" gives logits, "depth" gives depth in (0, max_depth).
        num_classes: for segmentation; 151 is ADE20K with the unlabelled class.
        max_depth: for depth, in the unit of the targets (NYUv2 10 m, KITTI 80 m).
        pretrained: whether the encoder starts from timm's pretrained weights.
        img_size: size (H, W) for an encoder that is built for one size; other encoders refuse it.
        width: channels of the map that the head works on, where most of a small network's MACs are.
        head: "full" resizes that map to the input's size and runs the head there, as the BiDense paper;
            "quarter" runs the head on the finest map (a quarter of the input's height and width) and resizes
            its output, as UPerNet is usually built (Xiao et al., ECCV 2018, Section 3.2). The parameters are
            the same.

    Raises:
        ConfigError: for an unknown encoder, task or head, or one that cannot be used.
    """
    if head not in HEADS:
        raise ConfigError(unknown_name("head of upernet", head, HEADS))
    body, info = create_encoder(encoder, pretrained=pretrained, img_size=img_size)
    is_depth = task == "depth"
    last = DepthHead(width, max_depth) if is_depth else SegmentationHead(width, num_classes)
    return UPerNet(body, info, last, width, head == "quarter")
