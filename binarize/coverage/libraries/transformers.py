"""Networks of transformers: depth, segmentation, detection, matting, super-resolution, keypoints.

The structure is that of the published models; widths and depths are small.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import transformers as hf  # pyright: ignore[reportMissingImports]  (optional)
from torch import Tensor, nn

from binarize.coverage.libraries import small_transformers as small
from binarize.coverage.libraries.network import Given, Network


def _network(
    name: str,
    task: str,
    cls: str,
    config: Any,
    heads: tuple[str, ...],
    **more: Any,
) -> Network:
    """A network of class `cls`; `config` makes its configuration, which the network may change."""

    def build() -> nn.Module:
        return getattr(hf, cls)(config())

    return Network(name=name, task=task, build=build, heads=heads, **more)


def _labelled(images: Tensor, training: bool) -> Given:
    """Images; in training mode also a map of labels, without which auxiliary heads give nothing."""
    if not training:
        return (images,)
    count, _, height, width = images.shape
    labels = torch.arange(height * width).remainder(small.NUMBER).reshape(height, width)
    return {"pixel_values": images, "labels": labels.repeat(count, 1, 1)}


def _prompted(images: Tensor, training: bool) -> Given:
    """Images and a coarse map of depth, from the fourth channel."""
    return {"pixel_values": images[:, :3], "prompt_depth": F.avg_pool2d(images[:, 3:].abs(), 4)}


def _by_example(images: Tensor, training: bool) -> Given:
    """An image, an example image and its mask."""
    image, prompt, mask = images.split(3, 1)
    return {"pixel_values": image, "prompt_pixel_values": prompt, "prompt_masks": mask}


_ONE = ((64, 64),)
_PATCHES = ((56, 56), (56, 84))
_AUX = ("decode_head.classifier", "auxiliary_head.classifier")

NETWORKS = (
    _network("dpt_depth", "depth", "DPTForDepthEstimation", small.dpt, ("head.head.4",), sizes=_ONE),
    _network(
        "dpt_segmentation",
        "segmentation",
        "DPTForSemanticSegmentation",
        lambda: small.dpt(**small.CLASSES),
        ("head.head.4", "auxiliary_head.head.4"),
        sizes=_ONE,
        feed=_labelled,
    ),
    _network(
        "depth_anything",
        "depth",
        "DepthAnythingForDepthEstimation",
        lambda: small.depth_anything("DepthAnythingConfig", "relative"),
        ("head.conv3",),
        sizes=_PATCHES,
    ),
    _network(
        "depth_anything_metric",
        "depth",
        "DepthAnythingForDepthEstimation",
        lambda: small.depth_anything("DepthAnythingConfig", "metric"),
        ("head.conv3",),
        sizes=_PATCHES,
    ),
    _network(
        "prompt_depth_anything",
        "depth",
        "PromptDepthAnythingForDepthEstimation",
        lambda: small.depth_anything("PromptDepthAnythingConfig", "relative"),
        ("head.conv3",),
        sizes=_PATCHES,
        channels=4,
        feed=_prompted,
    ),
    _network(
        "zoedepth",
        "depth",
        "ZoeDepthForDepthEstimation",
        small.zoedepth,
        ("metric_head.conditional_log_binomial.mlp.2",),
        beside=(
            "relative_head.conv3",
            "metric_head.attractors.*.conv2",
            "metric_head.seed_bin_regressor.conv2",
        ),
        sizes=_ONE,
    ),
    _network(
        "glpn", "depth", "GLPNForDepthEstimation", lambda: small.pyramid_vit("GLPNConfig"), ("head.head.2",)
    ),
    _network(
        "segformer",
        "segmentation",
        "SegformerForSemanticSegmentation",
        lambda: small.pyramid_vit("SegformerConfig", **small.CLASSES),
        ("decode_head.classifier",),
    ),
    _network(
        "upernet_convnext",
        "segmentation",
        "UperNetForSemanticSegmentation",
        lambda: small.upernet(small.convnext()),
        _AUX,
        feed=_labelled,
    ),
    _network(
        "upernet_swin",
        "segmentation",
        "UperNetForSemanticSegmentation",
        lambda: small.upernet(small.swin()),
        _AUX,
        feed=_labelled,
    ),
    _network(
        "beit",
        "segmentation",
        "BeitForSemanticSegmentation",
        lambda: small.beit(auxiliary_channels=16, **small.CLASSES),
        _AUX,
        idle=("beit.layers.3.*",),  # the head takes the inputs of the blocks that `out_indices` names
        sizes=_ONE,
        feed=_labelled,
    ),
    _network(
        "mobilevit",
        "segmentation",
        "MobileViTForSemanticSegmentation",
        small.mobilevit,
        ("segmentation_head.classifier.convolution",),
    ),
    _network(
        "mobilenet_v2",
        "segmentation",
        "MobileNetV2ForSemanticSegmentation",
        small.mobilenet_v2,
        ("segmentation_head.classifier.convolution",),
        idle=("mobilenet_v2.conv_1x1.convolution",),
    ),
    _network(
        "maskformer",
        "segmentation",
        "MaskFormerForInstanceSegmentation",
        small.maskformer,
        ("class_predictor", "mask_embedder.2.0"),
        beside=("model.pixel_level_module.decoder.mask_projection",),
    ),
    _network(
        "mask2former",
        "segmentation",
        "Mask2FormerForUniversalSegmentation",
        small.mask2former,
        ("class_predictor", "model.transformer_module.decoder.mask_predictor.mask_embedder.2.0"),
        beside=("model.pixel_level_module.decoder.mask_projection",),
        only=("class_queries_logits", "masks_queries_logits"),
    ),
    _network(
        "eomt",
        "segmentation",
        "EomtForUniversalSegmentation",
        small.eomt,
        ("class_predictor", "mask_head.fc3"),
        sizes=_ONE,
    ),
    _network(
        "seggpt",
        "segmentation",
        "SegGptForImageSegmentation",
        small.seggpt,
        ("decoder.decoder_pred.head",),
        sizes=_ONE,
        channels=9,
        feed=_by_example,
    ),
    _network(
        "superpoint",
        "keypoints",
        "SuperPointForKeypointDetection",
        small.superpoint,
        ("keypoint_decoder.conv_score_b", "descriptor_decoder.conv_descriptor_b"),
        counted=True,
    ),
    _network("vitpose", "keypoints", "VitPoseForPoseEstimation", small.vitpose, ("head.conv",), sizes=_ONE),
    _network(
        "swin2sr",
        "super-resolution",
        "Swin2SRForImageSuperResolution",
        lambda: small.swin2sr("pixelshuffledirect", 2),
        ("upsample.conv",),
        sizes=((16, 16), (16, 24)),
    ),
    _network(
        "swin2sr_restoration",
        "restoration",
        "Swin2SRForImageSuperResolution",
        lambda: small.swin2sr("", 1),
        ("final_convolution",),
        sizes=((16, 16), (16, 24)),
    ),
    _network(
        "vitmatte",
        "matting",
        "VitMatteForImageMatting",
        small.vitmatte,
        ("decoder.matting_head.matting_convs.3",),
        channels=4,
    ),
    _network(
        "yolos",
        "detection",
        "YolosForObjectDetection",
        small.yolos,
        ("class_labels_classifier.layers.2", "bbox_predictor.layers.2"),
    ),
    _network(
        "detr",
        "detection",
        "DetrForObjectDetection",
        small.detr,
        ("class_labels_classifier", "bbox_predictor.layers.2"),
        idle=("model.backbone.*",),  # frozen by the network
    ),
    _network(
        "rt_detr",
        "detection",
        "RTDetrForObjectDetection",
        small.rt_detr,
        (
            "model.decoder.class_embed.*",
            "model.decoder.bbox_embed.*.layers.2",
            "model.enc_score_head",
            "model.enc_bbox_head.layers.2",
        ),
    ),
    _network("sam_encoder", "features", "SamVisionModel", small.sam_encoder, (), sizes=_ONE),
)
