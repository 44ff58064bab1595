"""SegFormer: a decoder of 1x1 convolutions alone, on a hierarchical transformer.

Source: Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers"
(NeurIPS 2021), Figure 2 and Section 3.2, Equation 4; BN and ReLU behind the fusion and the dropout of 0.1 as
in the authors' code.

Departures: timm has no MiT. `pvt_v2_b0` to `pvt_v2_b5` have its form: four stages, overlapping patches, keys
and values at a lower resolution, a depthwise convolution in the MLP. The decoder's linear layers are 1x1
convolutions, which compute the same. Depth: the scores of one channel through a sigmoid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from binarize.errors import ConfigError
from binarize.networks.blocks import conv_norm_act, sequential
from binarize.networks.dense import DenseNetwork, Task, dense_network, outputs, strides_that_do_not_fit
from binarize.networks.encoders import EncoderInfo, create_encoder
from binarize.networks.heads import DepthRange

WIDTH = 256


class SegFormer(DenseNetwork):
    """Each map by a conv 1x1 to one width and the finest size; all together by conv 1x1, BN, ReLU, conv 1x1.

    Args:
        encoder: gives the maps, finest first.
        info: their widths and layout.
        channels: of the result, classes or 1.
        width: channels of all maps in the decoder.
        last: what the resized scores go through.
    """

    align_corners = False

    def __init__(
        self, encoder: nn.Module, info: EncoderInfo, channels: int, width: int, last: nn.Module
    ) -> None:
        super().__init__(encoder, info)
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in info.channels)
        merged = conv_norm_act(width * len(info.channels), width, 1)
        self.fusion = sequential(*merged, ("drop", nn.Dropout2d(0.1)))
        self.classifier = nn.Conv2d(width, channels, 1)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) of any size -> (N, classes or 1, H, W)."""
        features = self._features(x)
        finest, *others = (lateral(f) for lateral, f in zip(self.laterals, features, strict=True))
        coarsest_first = [self._to(y, finest) for y in reversed(others)]
        y = self.classifier(self.fusion(torch.cat([*coarsest_first, finest], dim=1)))
        return self.last(self._to_input(y, x))


@dense_network
def segformer(
    encoder: str,
    task: Task = "segmentation",
    num_classes: int = 151,
    max_depth: float = 10.0,
    pretrained: bool = False,
    img_size: int | Sequence[int] | None = None,
    width: int = WIDTH,
) -> SegFormer:
    """SegFormer's decoder on the timm model `encoder`, in float: (N, 3, H, W) -> (N, num_classes or 1, H, W).

    Args:
        encoder: name of a timm model with maps at several strides: `pvt_v2_b0` for MiT-B0, up to `pvt_v2_b5`.
            Other hierarchical encoders (Swin, also convolutional ones) work too.
        task: "segmentation" gives logits, "depth" gives depth in (0, max_depth).
        num_classes: for segmentation.
        max_depth: for depth, in the unit of the targets.
        pretrained: whether the encoder starts from timm's pretrained weights.
        img_size: size (H, W) for an encoder that is built for one size; other encoders refuse it.
        width: channels of the decoder's maps; the paper takes 256 for B0 and B1, 768 for larger ones.

    Raises:
        ConfigError: for an unknown encoder or task, or an encoder whose maps have one stride.
    """
    if encoder.startswith(("mit_b", "mit-b")):
        size = encoder[5:]
        same = f"'pvt_v2_b{size}' has" if size in {*"012345"} else "'pvt_v2_b0' to 'pvt_v2_b5' have"
        raise ConfigError(f"segformer: timm has no encoder {encoder!r}; {same} the form of MiT.")
    body, info = create_encoder(encoder, pretrained=pretrained, img_size=img_size)
    if info.strides[0] >= info.strides[-1]:
        needed = "it needs several strides, as 'pvt_v2_b0' and 'swin_tiny_patch4_window7_224' have"
        raise strides_that_do_not_fit("segformer", encoder, info, needed)
    last = DepthRange(max_depth) if task == "depth" else nn.Identity()
    return SegFormer(body, info, outputs(task, num_classes), width, last)
