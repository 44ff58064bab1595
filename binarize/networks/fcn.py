"""FCN-32s and FCN-8s: scores of classes from maps of an encoder, upsampled and summed.

Source: Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation" (CVPR 2015),
Sections 4.1 and 4.2, Figure 3; on ResNets as in Group-Net (Zhuang et al., CVPR 2019), whose FCN-32s on
ResNet-18, 34 and 50 are the networks that Table 2 of BiDense (arXiv 2411.10346) quotes.

Departures from the FCN paper: the head on the last map (fc6 and fc7 of VGG there, 4096 channels each) is that
of Group-Net's published code, conv 3x3 to a quarter of the map's channels, BN, ReLU, Dropout2d 0.1, conv 1x1.
Upsampling is bilinear with aligned corners (as in that code), also between the scores of FCN-8s, where the
paper learns transposed convolutions that start as bilinear ones: so the layers that give scores are the last
layers, and stay float in a binary network. All scores are trained at once and start at random; the paper adds
finer ones one after another and starts them at zero. Depth: the scores of one channel through a sigmoid.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from binarize.networks.dense import DenseNetwork, Task, dense_network, outputs, strides_that_do_not_fit
from binarize.networks.encoders import EncoderInfo, create_encoder
from binarize.networks.heads import DepthRange, ScoreHead

STRIDE = 32
"""Of the map that the head works on."""


class FCN(DenseNetwork):
    """A head on the map at stride 32, whose scores are resized to finer maps and summed with theirs.

    Args:
        encoder: gives the maps, finest first.
        info: their widths and strides; one is at stride 32, and one at each of `skips`.
        channels: of the result, classes or 1.
        skips: strides of finer maps with scores of their own (conv 1x1), coarsest first: none in FCN-32s, 16
            and 8 in FCN-8s.
        width: channels between the head's two convolutions.
        last: what the resized scores go through.
    """

    def __init__(
        self,
        encoder: nn.Module,
        info: EncoderInfo,
        channels: int,
        skips: Sequence[int],
        width: int | None,
        last: nn.Module,
    ) -> None:
        super().__init__(encoder, info)
        at = {stride: i for i, stride in enumerate(info.strides)}  # of several maps at a stride, the last
        self.positions = (at[STRIDE], *(at[stride] for stride in skips))
        coarsest, *finer = (info.channels[i] for i in self.positions)
        self.head = ScoreHead(coarsest, width or max(1, coarsest // 4), channels)
        self.scores = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in finer)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) of any size -> (N, classes or 1, H, W)."""
        features = self._features(x)
        coarsest, *finer = self.positions
        y = self.head(features[coarsest])
        for position, score in zip(finer, self.scores, strict=True):
            y = self._to(y, features[position]) + score(features[position])
        return self.last(self._to_input(y, x))


@dense_network
def fcn32s(
    encoder: str,
    task: Task = "segmentation",
    num_classes: int = 151,
    max_depth: float = 10.0,
    pretrained: bool = False,
    img_size: int | Sequence[int] | None = None,
    width: int | None = None,
) -> FCN:
    """FCN-32s on the timm model `encoder`, in float: (N, 3, H, W) -> (N, num_classes or 1, H, W).

    With `resnet18` and 21 classes (VOC 2012): 11,769,301 trainable parameters, 8.46 G MACs at 480x480.

    Args:
        encoder: name of a timm model with a map at stride 32.
        task: "segmentation" gives logits, "depth" gives depth in (0, max_depth).
        num_classes: for segmentation.
        max_depth: for depth, in the unit of the targets.
        pretrained: whether the encoder starts from timm's pretrained weights.
        img_size: size (H, W) for an encoder that is built for one size; other encoders refuse it.
        width: channels between the head's two convolutions; by default a quarter of the map's.

    Raises:
        ConfigError: for an unknown encoder or task, or an encoder that has no such map.
    """
    return _fcn("fcn32s", encoder, (), task, num_classes, max_depth, pretrained, img_size, width)


@dense_network
def fcn8s(
    encoder: str,
    task: Task = "segmentation",
    num_classes: int = 151,
    max_depth: float = 10.0,
    pretrained: bool = False,
    img_size: int | Sequence[int] | None = None,
    width: int | None = None,
) -> FCN:
    """FCN-8s on the timm model `encoder`, in float: (N, 3, H, W) -> (N, num_classes or 1, H, W).

    The scores at stride 32 are resized to stride 16 and summed with that map's own (conv 1x1), the sum
    likewise at stride 8, and that sum is resized to the input.

    Args:
        encoder: name of a timm model with maps at strides 8, 16 and 32.
        task: "segmentation" gives logits, "depth" gives depth in (0, max_depth).
        num_classes: for segmentation.
        max_depth: for depth, in the unit of the targets.
        pretrained: whether the encoder starts from timm's pretrained weights.
        img_size: size (H, W) for an encoder that is built for one size; other encoders refuse it.
        width: channels between the head's two convolutions; by default a quarter of the coarsest map's.

    Raises:
        ConfigError: for an unknown encoder or task, or an encoder that lacks one of these maps.
    """
    return _fcn("fcn8s", encoder, (16, 8), task, num_classes, max_depth, pretrained, img_size, width)


def _fcn(
    name: str,
    encoder: str,
    skips: Sequence[int],
    task: Task,
    num_classes: int,
    max_depth: float,
    pretrained: bool,
    img_size: int | Sequence[int] | None,
    width: int | None,
) -> FCN:
    body, info = create_encoder(encoder, pretrained=pretrained, img_size=img_size)
    if not {STRIDE, *skips} <= set(info.strides):
        needed = "maps at 8, 16 and 32" if skips else f"one at {STRIDE}"
        raise strides_that_do_not_fit(
            name, encoder, info, f"it needs {needed}, as 'resnet18' and 'convnext_tiny' have"
        )
    last = DepthRange(max_depth) if task == "depth" else nn.Identity()
    return FCN(body, info, outputs(task, num_classes), skips, width, last)
