"""DPT: maps of a plain vision transformer at four resolutions, fused from coarse to fine.

Source: Ranftl, Bochkovskiy and Koltun, "Vision Transformers for Dense Prediction" (ICCV 2021), Figure 1 and
Section 3 (Reassemble, Fusion); norms and heads as the appendix and the authors' code have them.

Departures: the class token is dropped ("ignore" of Section 3), as timm's maps have none. Widths within
Reassemble are 1/8, 1/4, 1/2 and all of the tokens' width: 96, 192, 384, 768 of ViT-Base as in the paper,
whose ViT-Large has 256, 512, 1024, 1024 (`channels`). Depth lies in (0, max_depth) by a sigmoid; the paper's
is a relative inverse depth behind a ReLU. The first fusion has no map to add, and so no unit for one. Fusion
has its conv 1x1 in front of the resizing instead of behind it, which computes the same at a quarter of the
cost (in float; a binary network differs there, and merges the maps as other top-down pathways do).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from binarize.errors import ConfigError
from binarize.networks.dense import DenseNetwork, Task, dense_network
from binarize.networks.encoders import EncoderInfo, block_strides, create_encoder
from binarize.networks.heads import DepthHead, ScoreHead

WIDTH = 256
SCALES = (4, 2, 1, 0.5)
"""Resolution of the reassembled maps, in times that of the tokens: strides 4, 8, 16, 32 for patches of 16."""


class Reassemble(nn.Module):
    """A map of tokens at another resolution: (N, tokens, h, w) -> (N, width, s h, s w) (Reassemble).

    conv 1x1 to `channels`; a transposed convolution of kernel and stride s, nothing, or a convolution 3x3 of
    stride 2; conv 3x3 to `width` without bias.

    Args:
        tokens: width of a token.
        channels: of the map in between.
        width: of the result.
        scale: s: 4, 2, 1 or 0.5.
    """

    def __init__(self, tokens: int, channels: int, width: int, scale: float) -> None:
        super().__init__()
        self.project = nn.Conv2d(tokens, channels, 1)
        self.resample: nn.Module = nn.Identity()
        if scale > 1:
            self.resample = nn.ConvTranspose2d(channels, channels, int(scale), stride=int(scale))
        elif scale < 1:
            self.resample = nn.Conv2d(channels, channels, 3, stride=round(1 / scale), padding=1)
        self.out = nn.Conv2d(channels, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, tokens, h, w) -> (N, width, s h, s w), rounded up for s = 0.5."""
        return self.out(self.resample(self.project(x)))


class ResidualUnit(nn.Module):
    """x + conv 3x3(ReLU(conv 3x3(ReLU(x)))), each with BN or without: (N, width, H, W) -> the same shape."""

    def __init__(self, width: int, norms: bool) -> None:
        super().__init__()
        self.act1, self.act2 = nn.ReLU(), nn.ReLU()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=not norms)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=not norms)
        self.norm1 = nn.BatchNorm2d(width) if norms else nn.Identity()
        self.norm2 = nn.BatchNorm2d(width) if norms else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> the same shape."""
        y = self.norm1(self.conv1(self.act1(x)))
        return self.norm2(self.conv2(self.act2(y))) + x


class Fusion(nn.Module):
    """A residual unit, conv 1x1, bilinear resizing: (N, width, H, W) -> (N, width, H', W') (Fusion)."""

    def __init__(self, width: int, norms: bool) -> None:
        super().__init__()
        self.unit = ResidualUnit(width, norms)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        """(N, width, H, W) -> (N, width, H', W'): the size of the map `like`, or twice that of `x`."""
        y = self.project(self.unit(x))
        height, width = y.shape[-2:]
        size = (2 * height, 2 * width) if like is None else like.shape[-2:]
        return F.interpolate(y, size=size, mode="bilinear", align_corners=True)


class DPT(DenseNetwork):
    """Reassemble on four maps of one stride, fusion from the last to the first, and a head.

    Args:
        encoder: a plain vision transformer that gives four maps, of early blocks first.
        info: their widths and layout.
        channels: of each map within Reassemble, finest first.
        width: channels of the fused maps.
        norms: whether the residual units have BN: with it for segmentation, without it for depth.
        before: in front of the resizing to the input's size; None where the head comes before that too.
        head: the last part.
    """

    def __init__(
        self,
        encoder: nn.Module,
        info: EncoderInfo,
        channels: Sequence[int],
        width: int,
        norms: bool,
        before: nn.Module | None,
        head: nn.Module,
    ) -> None:
        super().__init__(encoder, info)
        stages = zip(info.channels, channels, SCALES, strict=True)
        self.reassemble = nn.ModuleList(Reassemble(t, c, width, s) for t, c, s in stages)
        self.skips = nn.ModuleList(ResidualUnit(width, norms) for _ in SCALES[:-1])
        self.fusions = nn.ModuleList(Fusion(width, norms) for _ in SCALES)
        self.before = before
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) of any size -> (N, classes or 1, H, W)."""
        features = self._features(x)
        maps = [stage(f) for stage, f in zip(self.reassemble, features, strict=True)]
        y = maps[-1]
        for i in range(len(maps) - 1, 0, -1):
            finer = maps[i - 1]
            y = self.skips[i - 1](finer) + self.fusions[i](y, finer)
        y = self.fusions[0](y)
        if self.before is not None:
            return self.head(self._to_input(self.before(y), x))
        return self._to_input(self.head(y), x)


@dense_network
def dpt(
    encoder: str,
    task: Task = "segmentation",
    num_classes: int = 151,
    max_depth: float = 10.0,
    pretrained: bool = False,
    img_size: int | Sequence[int] | None = None,
    width: int = WIDTH,
    channels: Sequence[int] | None = None,
) -> DPT:
    """DPT on the timm model `encoder`, in float: (N, 3, H, W) -> (N, num_classes or 1, H, W).

    Args:
        encoder: name of a plain vision transformer of timm; the maps are those behind each quarter of its
            blocks (of ViT-Base the blocks 3, 6, 9, 12).
        task: "segmentation" gives logits, "depth" gives depth in (0, max_depth).
        num_classes: for segmentation.
        max_depth: for depth, in the unit of the targets.
        pretrained: whether the encoder starts from timm's pretrained weights.
        img_size: size (H, W) for an encoder that is built for one size; other encoders refuse it.
        width: channels of the fused maps.
        channels: four widths within Reassemble, finest map first; by default 1/8, 1/4, 1/2 and all of the
            tokens' width.

    Raises:
        ConfigError: for an unknown encoder or task, an encoder that is not a plain vision transformer of
            four blocks or more, or not four `channels`.
    """
    blocks = _blocks(encoder)
    body, info = create_encoder(
        encoder, pretrained=pretrained, img_size=img_size, options={"out_indices": blocks}
    )
    chosen = (
        tuple(channels)
        if channels is not None
        else tuple(max(1, info.channels[0] // d) for d in (8, 4, 2, 1))
    )
    if len(chosen) != len(SCALES) or not all(isinstance(c, int) and c > 0 for c in chosen):
        raise ConfigError(f"dpt: channels={channels!r}; expected four positive integers, as 96,192,384,768.")
    if task == "depth":
        narrow = max(1, width // 2)
        before = nn.Conv2d(width, narrow, 3, padding=1)
        return DPT(body, info, chosen, width, False, before, DepthHead(narrow, max_depth))
    return DPT(body, info, chosen, width, True, None, ScoreHead(width, width, num_classes))


def _blocks(encoder: str) -> tuple[int, ...]:
    """The last block of each quarter of a plain vision transformer."""
    strides = block_strides(encoder)
    if len(set(strides)) != 1 or len(strides) < len(SCALES):
        listed = ", ".join(map(str, strides))
        raise ConfigError(
            f"dpt: encoder {encoder!r} gives maps at strides {listed}; it needs a plain "
            f"vision transformer, whose blocks, {len(SCALES)} or more, all have one stride, as "
            f"'vit_small_patch16_224'. A network that takes this encoder is 'upernet:{encoder}'."
        )
    return tuple(len(strides) * quarter // len(SCALES) - 1 for quarter in range(1, len(SCALES) + 1))
