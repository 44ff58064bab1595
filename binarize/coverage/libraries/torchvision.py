"""Networks of torchvision: segmentation, detection, optical flow, and a few classifiers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import detection, optical_flow, segmentation

from binarize.coverage.libraries.network import Given, Network

_CLASSES = 5
_EDGE = 64  # pixels that detectors resize images to


def _segmentation(make: Callable[..., nn.Module], heads: tuple[str, ...], **more: Any) -> Network:
    def build() -> nn.Module:
        return make(weights=None, weights_backbone=None, num_classes=_CLASSES, **more)

    return Network(name=make.__name__, task="segmentation", build=build, heads=heads)


def _scenes(images: Tensor, training: bool) -> Given:
    """A list of images; in training mode also the objects in each, with masks and keypoints."""
    if not training:
        return (list(images),)
    height, width = images.shape[2:]
    box = torch.tensor(
        [[4.0, 4.0, width / 2, height / 2], [width / 4, height / 4, width - 4.0, height - 4.0]]
    )
    masks = torch.zeros(2, height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, box.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    centres = torch.stack([box[:, 0::2].mean(1), box[:, 1::2].mean(1), torch.ones(2)], 1)
    target = {
        "boxes": box,
        "labels": torch.tensor([1, 1]),
        "masks": masks,
        "keypoints": centres[:, None].repeat(1, 17, 1),
    }
    return list(images), [dict(target) for _ in images]


def _detection(make: Callable[..., nn.Module], heads: tuple[str, ...], **more: Any) -> Network:
    def build() -> nn.Module:
        return make(weights=None, weights_backbone=None, **more)

    return Network(
        name=make.__name__, task="detection", build=build, heads=heads, feed=_scenes, first=(0,), counted=True
    )


def _two_frames(images: Tensor, training: bool) -> Given:
    """Two images and how often the flow is refined."""
    return images[:, :3], images[:, 3:], 2


def _flow(make: Callable[..., nn.Module], heads: tuple[str, ...], **more: Any) -> Network:
    return Network(
        name=make.__name__,
        task="optical flow",
        build=lambda: make(weights=None, **more),
        heads=heads,
        sizes=((128, 128), (128, 160)),
        channels=6,
        feed=_two_frames,
    )


def _classifier(make: Callable[..., nn.Module], heads: tuple[str, ...]) -> Network:
    return Network(
        name=make.__name__,
        task="classes",
        build=lambda: make(weights=None, num_classes=_CLASSES),
        heads=heads,
    )


def _small_vit() -> nn.Module:
    return models.VisionTransformer(
        image_size=64,
        patch_size=16,
        num_layers=2,
        num_heads=3,
        hidden_dim=48,
        mlp_dim=96,
        num_classes=_CLASSES,
    )


_RESIZED = {"min_size": _EDGE, "max_size": 2 * _EDGE}
_REGIONS = ("rpn.head.cls_logits", "rpn.head.bbox_pred", "roi_heads.box_predictor.*")

NETWORKS = (
    _segmentation(
        segmentation.deeplabv3_mobilenet_v3_large, ("classifier.4", "aux_classifier.4"), aux_loss=True
    ),
    _segmentation(segmentation.fcn_resnet50, ("classifier.4", "aux_classifier.4"), aux_loss=True),
    _segmentation(
        segmentation.lraspp_mobilenet_v3_large, ("classifier.low_classifier", "classifier.high_classifier")
    ),
    _detection(
        detection.retinanet_resnet50_fpn,
        ("head.*.cls_logits", "head.*.bbox_reg"),
        num_classes=_CLASSES,
        **_RESIZED,
    ),
    _detection(
        detection.fcos_resnet50_fpn,
        ("head.*.cls_logits", "head.*.bbox_reg", "head.*.bbox_ctrness"),
        num_classes=_CLASSES,
        **_RESIZED,
    ),
    _detection(detection.ssd300_vgg16, ("head.*_head.module_list.*",), num_classes=_CLASSES),
    _detection(
        detection.ssdlite320_mobilenet_v3_large, ("head.*_head.module_list.*.1",), num_classes=_CLASSES
    ),
    _detection(detection.fasterrcnn_mobilenet_v3_large_320_fpn, _REGIONS, num_classes=_CLASSES, **_RESIZED),
    _detection(
        detection.maskrcnn_resnet50_fpn,
        (*_REGIONS, "roi_heads.mask_predictor.mask_fcn_logits"),
        num_classes=_CLASSES,
        **_RESIZED,
    ),
    _detection(
        detection.keypointrcnn_resnet50_fpn,
        (*_REGIONS, "roi_heads.keypoint_predictor.kps_score_lowres"),
        num_classes=2,
        **_RESIZED,
    ),
    _flow(optical_flow.raft_small, ("update_block.flow_head.conv2",)),
    _flow(optical_flow.raft_large, ("update_block.flow_head.conv2", "mask_predictor.conv")),
    _classifier(models.resnet18, ("fc",)),
    _classifier(models.mobilenet_v3_small, ("classifier.3",)),
    _classifier(models.swin_t, ("head",)),
    Network(name="vit_2_layers", task="classes", build=_small_vit, heads=("heads.head",), sizes=((64, 64),)),
)
