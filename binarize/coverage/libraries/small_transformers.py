"""Small configurations of transformers' networks: the structure of the published models, few channels."""

from __future__ import annotations

from typing import Any

import transformers  # pyright: ignore[reportMissingImports]  (optional)

hf: Any = transformers  # its configurations take more arguments than their signatures show
NUMBER = 5
"""Number of classes."""

_TRANSFORMER: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3}
_VIT: dict[str, Any] = {**_TRANSFORMER, "intermediate_size": 96}
CLASSES = {"id2label": {i: str(i) for i in range(NUMBER)}, "label2id": {str(i): i for i in range(NUMBER)}}
_PYRAMID = {"neck_hidden_sizes": [16, 24, 32, 48], "fusion_hidden_size": 32}


def dinov2() -> Any:
    return hf.Dinov2Config(
        **_TRANSFORMER,
        mlp_ratio=2,
        image_size=56,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )


def beit(**more: Any) -> Any:
    given = {"image_size": 64, "patch_size": 16, "out_indices": [1, 2, 3, 4], **_VIT, **more}
    return hf.BeitConfig(use_relative_position_bias=True, use_mean_pooling=True, **given)


def swin(out: tuple[str, ...] = ("stage1", "stage2", "stage3", "stage4")) -> Any:
    return hf.SwinConfig(
        image_size=64,
        embed_dim=24,
        depths=[1, 1, 2, 1],
        num_heads=[1, 2, 3, 6],
        window_size=4,
        out_features=list(out),
    )


def convnext() -> Any:
    stages = ["stage1", "stage2", "stage3", "stage4"]
    return hf.ConvNextConfig(hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1], out_features=stages)


def resnet(out: tuple[str, ...]) -> Any:
    return hf.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=list(out),
    )


def dpt(**more: Any) -> Any:
    return hf.DPTConfig(
        image_size=64, patch_size=16, backbone_out_indices=[0, 1, 2, 3], **{**_VIT, **_PYRAMID, **more}
    )


def depth_anything(cls: str, kind: str) -> Any:
    return getattr(hf, cls)(
        backbone_config=dinov2(),
        patch_size=14,
        reassemble_hidden_size=48,
        head_hidden_size=16,
        depth_estimation_type=kind,
        max_depth=20 if kind == "metric" else 1,
        **_PYRAMID,
    )


def zoedepth() -> Any:
    return hf.ZoeDepthConfig(
        backbone_config=beit(reshape_hidden_states=False),
        bottleneck_features=32,
        num_attractors=[4, 3, 2, 1],
        bin_embedding_dim=16,
        num_relative_features=16,
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0}],
        **_PYRAMID,
    )


def pyramid_vit(cls: str, **more: Any) -> Any:
    return getattr(hf, cls)(
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 3],
        mlp_ratios=[2, 2, 2, 2],
        decoder_hidden_size=32,
        **more,
    )


def upernet(backbone: Any) -> Any:
    return hf.UperNetConfig(backbone_config=backbone, hidden_size=32, auxiliary_channels=16, **CLASSES)


def mobilevit() -> Any:
    return hf.MobileViTConfig(
        image_size=64,
        hidden_sizes=[24, 32, 40],
        neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 64],
        num_attention_heads=2,
        output_stride=16,
        aspp_out_channels=32,
        **CLASSES,
    )


def mobilenet_v2() -> Any:
    return hf.MobileNetV2Config(image_size=64, depth_multiplier=1.0, output_stride=16, **CLASSES)


def maskformer() -> Any:
    decoder = hf.DetrConfig(
        encoder_layers=1,
        decoder_layers=2,
        d_model=32,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=6,
        backbone_config=resnet(("stage4",)),
    )
    return hf.MaskFormerConfig(
        backbone_config=swin(), decoder_config=decoder, fpn_feature_size=32, mask_feature_size=32, **CLASSES
    )


def mask2former() -> Any:
    return hf.Mask2FormerConfig(
        backbone_config=swin(),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=48,
        dim_feedforward=48,
        encoder_layers=1,
        decoder_layers=3,
        num_attention_heads=2,
        num_queries=6,
        **CLASSES,
    )


def eomt() -> Any:
    return hf.EomtConfig(
        **_TRANSFORMER,
        mlp_ratio=2,
        image_size=64,
        patch_size=16,
        num_blocks=2,
        num_queries=6,
        **CLASSES,
    )


def seggpt() -> Any:
    return hf.SegGptConfig(
        **_TRANSFORMER,
        mlp_dim=96,
        image_size=[128, 64],
        pretrain_image_size=64,
        decoder_hidden_size=16,
        merge_index=0,
        intermediate_hidden_state_indices=[0, 1, 2, 3],
    )


def swin2sr(upsampler: str, upscale: int) -> Any:
    return hf.Swin2SRConfig(
        image_size=16,
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=4,
        upscale=upscale,
        upsampler=upsampler,
    )


def vitmatte() -> Any:
    backbone = hf.VitDetConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        mlp_ratio=2,
        image_size=64,
        pretrain_image_size=64,
        patch_size=16,
        num_channels=4,
        window_size=2,
        window_block_indices=[0],
        residual_block_indices=[1],
        use_relative_position_embeddings=True,
        out_features=["stage2"],
    )
    return hf.VitMatteConfig(
        backbone_config=backbone,
        hidden_size=48,
        convstream_hidden_sizes=[16, 24, 32],
        fusion_hidden_sizes=[32, 24, 24, 16],
    )


def yolos() -> Any:
    return hf.YolosConfig(image_size=[64, 64], patch_size=16, num_detection_tokens=6, **_VIT, **CLASSES)


def detr() -> Any:
    return hf.DetrConfig(
        backbone_config=resnet(("stage4",)),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=6,
        **CLASSES,
    )


def rt_detr() -> Any:
    backbone = hf.RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    return hf.RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=32,
        encoder_in_channels=[24, 32, 48],
        encoder_ffn_dim=48,
        encoder_attention_heads=2,
        d_model=32,
        decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=48,
        decoder_attention_heads=2,
        decoder_layers=2,
        num_queries=6,
        num_denoising=0,
        **CLASSES,
    )


def vitpose() -> Any:
    backbone = hf.VitPoseBackboneConfig(
        image_size=[64, 64],
        patch_size=[16, 16],
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        mlp_ratio=2,
        out_indices=[2],
    )
    return hf.VitPoseConfig(backbone_config=backbone, use_simple_decoder=False, **CLASSES)


def sam_encoder() -> Any:
    return hf.SamVisionConfig(
        hidden_size=48,
        output_channels=32,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=64,
        patch_size=16,
        window_size=2,
        global_attn_indexes=[1],
        num_pos_feats=16,
        mlp_dim=96,
    )


def superpoint() -> Any:
    return hf.SuperPointConfig(
        encoder_hidden_sizes=[16, 16, 24, 32],
        decoder_hidden_size=48,
        descriptor_decoder_dim=32,
        max_keypoints=20,
        border_removal_distance=2,
    )
