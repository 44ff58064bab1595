"""UPerNet as in the BiDense paper's comparison: a timm encoder, pyramid pooling, a feature pyramid, a head.

Source: "BiDense: Binarization for Dense Prediction" (arXiv 2411.10346), Tables 1 to 4; the decoder is the
compact form of UPerNet (Xiao et al., ECCV 2018) whose three smoothing convolutions are one and the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binarize.errors import ConfigError, unknown_name
from binarize.networks.encoders import EncoderInfo, create_encoder

Task = Literal["segmentation", "depth"]
TASKS = ("segmentation", "depth")

PSP_BINS = (1, 2, 4, 6)
OUT_WIDTH = 128
DEPTH_CHANNELS = 32


def resize(x: Tensor, like: Tensor) -> Tensor:
    """`x` (N, C, h, w) resized bilinearly to the height and width of `like` (N, *, H, W): (N, C, H, W)."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)


def _conv_norm_act(cin: int, cout: int, kernel: int) -> list[tuple[str, nn.Module]]:
    conv = nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False)
    return [("conv", conv), ("norm", nn.BatchNorm2d(cout)), ("act", nn.ReLU())]


def _sequential(*steps: tuple[str, nn.Module]) -> nn.Sequential:
    block = nn.Sequential()
    for name, module in steps:
        block.add_module(name, module)
    return block


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
            _sequential(("pool", nn.AdaptiveAvgPool2d(b)), *_conv_norm_act(channels, width, 1)) for b in bins
        )
        self.bottleneck = _sequential(
            *_conv_norm_act(channels + width * len(bins), channels, 3), ("drop", nn.Dropout2d(dropout))
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
        self.fusion = _sequential(*_conv_norm_act(width * len(channels), width, 3))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Maps (N, channels[i], H_i, W_i), finest first -> (N, channels[0], H_0, W_0)."""
        levels = [features[0]]
        levels += [lateral(features[i]) for i, lateral in enumerate(self.laterals, start=1)]
        # Coarsest first: the norm behind the shared convolution keeps statistics of its calls in their order.
        pairs = reversed(list(itertools.pairwise(levels)))
        merged = [self.smooth(resize(up, f) + f) for f, up in pairs]
        pyramid = [*reversed(merged), levels[-1]]
        return self.fusion(torch.cat([pyramid[0], *(resize(p, pyramid[0]) for p in pyramid[1:])], dim=1))


class SegmentationHead(nn.Module):
    """conv 3x3, BN, ReLU, conv 1x1: (N, C, H, W) -> logits (N, num_classes, H, W)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_classes, H, W)."""
        return self.classifier(self.act(self.norm(self.conv(x))))


class DepthHead(nn.Module):
    """conv 3x3, ReLU, conv 1x1, sigmoid: (N, C, H, W) -> depth (N, 1, H, W) in (0, max_depth)."""

    def __init__(self, channels: int, max_depth: float) -> None:
        super().__init__()
        self.max_depth = max_depth
        self.conv = nn.Conv2d(channels, DEPTH_CHANNELS, 3, padding=1)
        self.act = nn.ReLU()
        self.classifier = nn.Conv2d(DEPTH_CHANNELS, 1, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 1, H, W)."""
        return self.gate(self.classifier(self.act(self.conv(x)))) * self.max_depth


class UPerNet(nn.Module):
    """An encoder, then PSP on its coarsest map, FPN over all, a conv 3x3 and a head at the input's size.

    Encoders restrict their input in two ways. One that needs multiples of a number sees the image padded
    with zeros at the right and the bottom, and the output is cropped. One that takes a single size sees the
    image resized to it: give `img_size` to `upernet` to build it for the size that it will be used at.

    Args:
        encoder: gives the maps, finest first.
        info: their widths and layout.
        head: works on (N, width, H, W) at the size of the input.
        width: channels of the map that the head sees.
    """

    def __init__(
        self, encoder: nn.Module, info: EncoderInfo, head: nn.Module, width: int = OUT_WIDTH
    ) -> None:
        super().__init__()
        if info.channels[-1] < len(PSP_BINS):
            raise ConfigError(
                f"upernet: the encoder's last map has {info.channels[-1]} channels, pyramid pooling over "
                f"{len(PSP_BINS)} bins needs at least {len(PSP_BINS)}; choose a wider encoder."
            )
        self.encoder_info = info
        self.encoder = encoder
        self.psp = PSP(info.channels[-1])
        self.fpn = FPN(info.channels)
        self.out = nn.Conv2d(info.channels[0], width, 3, padding=1)
        self.head = head
        self.binarize_spec: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) of any size -> (N, classes or 1, H, W)."""
        features = self._features(x)
        features[-1] = self.psp(features[-1])
        return self.head(self._to_input(self.out(self.fpn(features)), x))

    def _features(self, x: Tensor) -> list[Tensor]:
        """The maps that are used, (N, C_i, H_i, W_i), of `x` brought to a size that the encoder takes."""
        info = self.encoder_info
        if info.fixed_size is not None:
            x = F.interpolate(x, size=info.fixed_size, mode="bilinear", align_corners=True)
        elif info.multiple > 1:
            height, width = x.shape[-2:]
            x = F.pad(x, (0, -width % info.multiple, 0, -height % info.multiple))
        maps = self.encoder(x)
        features = [maps[i] for i in info.indices]
        return [f.permute(0, 3, 1, 2) for f in features] if info.channels_last else features

    def _to_input(self, y: Tensor, x: Tensor) -> Tensor:
        """`y` resized bilinearly to the size of `x`, without what `_features` padded."""
        multiple = self.encoder_info.multiple
        if multiple == 1:
            return resize(y, x)
        height, width = x.shape[-2:]
        padded = (height + -height % multiple, width + -width % multiple)
        return F.interpolate(y, size=padded, mode="bilinear", align_corners=True)[..., :height, :width]


def upernet(
    encoder: str,
    task: Task = "segmentation",
    num_classes: int = 151,
    max_depth: float = 10.0,
    pretrained: bool = False,
    img_size: int | Sequence[int] | None = None,
    width: int = OUT_WIDTH,
) -> UPerNet:
    """UPerNet on the timm model `encoder`, in float: (N, 3, H, W) -> (N, num_classes or 1, H, W).

    With `convnext_tiny` and 151 classes: 39,850,551 trainable parameters, 69.33 G MACs at 480x480.

    Args:
        encoder: name of a timm model that gives at least two feature maps; its last four are used.
        task: "segmentation" gives logits, "depth" gives depth in (0, max_depth).
        num_classes: for segmentation; 151 is ADE20K with the unlabelled class.
        max_depth: for depth, in the unit of the targets (NYUv2 10 m, KITTI 80 m).
        pretrained: whether the encoder starts from timm's pretrained weights.
        img_size: size (H, W) for an encoder that is built for one size; other encoders refuse it.
        width: channels of the map at the input's size that the head works on, where most of a small
            network's MACs are.

    Raises:
        ConfigError: for an unknown encoder or task, or one that cannot be used.
    """
    if task not in TASKS:
        raise ConfigError(unknown_name("task of upernet", task, TASKS))
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ConfigError(f"upernet: num_classes={num_classes!r}; expected an integer of at least 1.")
    if not isinstance(max_depth, (int, float)) or not max_depth > 0:
        raise ConfigError(f"upernet: max_depth={max_depth!r}; expected a positive number.")
    if not isinstance(width, int) or width < 1:
        raise ConfigError(f"upernet: width={width!r}; expected an integer of at least 1.")
    body, info = create_encoder(encoder, pretrained=pretrained, img_size=img_size)
    is_depth = task == "depth"
    head = DepthHead(width, max_depth) if is_depth else SegmentationHead(width, num_classes)
    network = UPerNet(body, info, head, width)
    kwargs: dict[str, Any] = {"encoder": encoder, "task": task}
    kwargs |= {"max_depth": max_depth} if is_depth else {"num_classes": num_classes}
    if img_size is not None:
        kwargs["img_size"] = img_size
    if width != OUT_WIDTH:
        kwargs["width"] = width
    network.binarize_spec = {"source": "networks", "name": "upernet", "kwargs": kwargs}
    return network
