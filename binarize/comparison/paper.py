"""What the BiDense paper prints in its Tables 1 to 4 (arXiv 2411.10346), as data.

Accuracies are fractions, errors metres or plain numbers, parameters thousands, operations 1e9. The last KITTI
column of Table 3 stands under `log10`; its values are those of RMSE log (0.094 at AbsRel 0.065), under which
name they are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from binarize.methods import bidense


@dataclass(frozen=True, kw_only=True)
class PaperData:
    """A data set of the paper, at the size that its networks see.

    Attributes:
        name: of the data set in recipes.
        title: for people.
        size: (H, W).
        arguments: of the toolkit's network for it.
        remark: on the printed figures.
    """

    name: str
    title: str
    size: tuple[int, int]
    arguments: Mapping[str, Any]
    remark: str = ""


DATA = {
    one.name: one
    for one in (
        PaperData(name="ade20k", title="ADE20K", size=(480, 480), arguments={"num_classes": 151}),
        PaperData(
            name="voc2012",
            title="VOC 2012",
            size=(375, 500),
            arguments={"num_classes": 21},
            remark="The paper's networks were trained on trainval, which holds the images that they are "
            "evaluated on; its figures of VOC 2012 are not comparable with honest ones.",
        ),
        PaperData(
            name="nyuv2", title="NYUv2", size=(416, 544), arguments={"task": "depth", "max_depth": 10.0}
        ),
        PaperData(
            name="kitti", title="KITTI", size=(352, 704), arguments={"task": "depth", "max_depth": 80.0}
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A row of one of the tables.

    Attributes:
        label: as printed.
        bits: likewise.
        network: of the toolkit.
        encoder: timm's name of it.
        method: None for float.
        options: of the method, beside `form=table` where it has that.
        pretrained: the encoder starts from pretrained weights.
        params_k: printed parameters in thousands; None where none are printed.
        ops_g: printed operations in 1e9, likewise.
        figures: printed figures, by data set and name.
        note: why the counted figures are not as printed, or what is odd about the printed ones.
    """

    label: str
    bits: int
    network: str = "upernet"
    encoder: str = "convnext_tiny"
    method: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    params_k: int | None = None
    ops_g: float | None = None
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """One table: its rows share their data sets.

    Attributes:
        number: 1 to 4.
        title: what it shows.
        data: names in `DATA`.
        rows: from the top.
    """

    number: int
    title: str
    data: tuple[str, ...]
    rows: tuple[PaperRow, ...]


def _segmentation(data: str, accuracy: float | None, miou: float) -> dict[str, dict[str, float]]:
    """Figures printed in percent, as fractions."""
    found = {"pixel_accuracy": accuracy, "miou": miou}
    return {data: {name: round(value / 100, 6) for name, value in found.items() if value is not None}}


def _depth(nyu: tuple[float, ...], kitti: tuple[float, ...]) -> dict[str, dict[str, float]]:
    shared = ("delta1", "delta2", "delta3", "abs_rel", "rmse")
    names = {"nyuv2": (*shared, "log10"), "kitti": (*shared, "rmse_log")}
    return {data: dict(zip(names[data], v, strict=True)) for data, v in (("nyuv2", nyu), ("kitti", kitti))}


_NORMS = (
    "The network of this row also has batch norms behind the laterals, the smoothing and the last "
    "convolution of its decoder, 2,053 more numbers in its state; the toolkit's float UPerNet is that of the "
    "row above."
)
_ODD_MIOU = "As printed: a mIoU above the pixel accuracy is hardly possible."

_METHODS: dict[str, dict[str, Any]] = {
    "ConvNeXt*": {"bits": 32, "pretrained": True},
    "ConvNeXt": {"bits": 32},
    **{
        label: {"bits": 1, "method": label.lower()}
        for label in ("BNN", "ReActNet", "AdaBin", "BiSRNet", "BiDense")
    },
}

_TABLE_1: dict[str, tuple[int, float, float, float]] = {
    "ConvNeXt*": (40_020, 288.36, 79.48, 40.96),
    "ConvNeXt": (40_023, 288.37, 70.81, 20.39),
    "BNN": (1_470, 4.84, 61.69, 8.68),
    "ReActNet": (1_531, 4.98, 62.77, 9.22),
    "AdaBin": (1_484, 5.24, 59.47, 7.16),
    "BiSRNet": (1_639, 5.07, 62.85, 9.74),
    "BiDense": (1_626, 5.37, 67.25, 18.75),
}
_TABLE_2 = {
    "ConvNeXt*": (98.58, 99.72),
    "ConvNeXt": (96.02, 84.60),
    "BNN": (83.57, 40.1),
    "ReActNet": (83.38, 42.1),
    "AdaBin": (78.27, 25.2),
    "BiSRNet": (86.30, 47.5),
    "BiDense": (92.73, 75.2),
}
_FCN: tuple[tuple[str, str, float], ...] = (
    ("LQ-Net", "resnet18", 62.5),
    ("Group-Net", "resnet18", 65.1),
    ("CBNN", "resnet18", 66.5),
    ("LQ-Net", "resnet34", 70.4),
    ("Group-Net", "resnet34", 72.8),
    ("LQ-Net", "resnet50", 70.7),
    ("Group-Net", "resnet50", 71.0),
)
_TABLE_3 = {
    "ConvNeXt*": (
        (0.871, 0.979, 0.996, 0.117, 0.407, 0.050),
        (0.958, 0.996, 0.999, 0.065, 2.416, 0.094),
    ),
    "ConvNeXt": ((0.695, 0.916, 0.975, 0.201, 0.641, 0.081), (0.902, 0.980, 0.996, 0.092, 3.429, 0.137)),
    "BNN": ((0.644, 0.887, 0.966, 0.223, 0.712, 0.091), (0.889, 0.976, 0.993, 0.102, 3.610, 0.150)),
    "ReActNet": ((0.664, 0.898, 0.969, 0.215, 0.686, 0.088), (0.893, 0.976, 0.993, 0.099, 3.449, 0.146)),
    "AdaBin": ((0.537, 0.826, 0.945, 0.256, 0.851, 0.112), (0.853, 0.962, 0.990, 0.119, 4.016, 0.173)),
    "BiSRNet": ((0.659, 0.897, 0.970, 0.214, 0.682, 0.088), (0.890, 0.976, 0.994, 0.101, 3.567, 0.147)),
    "BiDense": ((0.712, 0.921, 0.978, 0.189, 0.610, 0.078), (0.896, 0.979, 0.995, 0.095, 3.389, 0.139)),
}
_TABLE_4: tuple[tuple[str, int, float, float, float], ...] = (
    ("1) w/o DAB", 1_484, 5.11, 66.32, 18.10),
    ("2) w/o CFB", 1_626, 5.28, 63.20, 9.78),
    ("3) w/o thresholds", 1_531, 5.24, 67.04, 17.96),
    ("4) threshold b", 1_579, 5.31, 67.17, 18.01),
    ("5) threshold k mean", 1_579, 5.37, 66.72, 17.56),
    ("6) w/o scales", 1_579, 5.24, 66.96, 18.09),
    ("7) scale MAD", 1_579, 5.37, 49.3, 4.97),
    ("8) learnt scale", 1_626, 5.31, 65.14, 15.10),
)


def _row_1(label: str) -> PaperRow:
    params, ops, accuracy, miou = _TABLE_1[label]
    return PaperRow(
        label=label,
        **_METHODS[label],
        params_k=params,
        ops_g=ops,
        figures=_segmentation("ade20k", accuracy, miou),
        note=_NORMS if label == "ConvNeXt" else "",
    )


def _row_2(label: str) -> PaperRow:
    figures = _segmentation("voc2012", *_TABLE_2[label])
    return PaperRow(
        label=label, **_METHODS[label], figures=figures, note=_ODD_MIOU if label == "ConvNeXt*" else ""
    )


def _row_fcn(label: str, encoder: str, miou: float) -> PaperRow:
    three_bits = {"weight_bits": 3, "activation_bits": 3}
    return PaperRow(
        label=f"{label}, ResNet-{encoder.removeprefix('resnet')}",
        bits=3 if label == "LQ-Net" else 1,
        network="fcn32s",
        encoder=encoder,
        method=label.lower().replace("-", ""),
        options=three_bits if label == "LQ-Net" else {},
        figures=_segmentation("voc2012", None, miou),
    )


def _row_4(index: int) -> PaperRow:
    label, params, ops, accuracy, miou = _TABLE_4[index - 1]
    return PaperRow(
        label=label,
        bits=1,
        method="bidense",
        options=bidense.ABLATIONS[index],
        params_k=params,
        ops_g=ops,
        figures=_segmentation("ade20k", accuracy, miou),
    )


TABLES = {
    1: PaperTable(
        number=1,
        title="Semantic segmentation, ADE20K",
        data=("ade20k",),
        rows=tuple(map(_row_1, _TABLE_1)),
    ),
    2: PaperTable(
        number=2,
        title="Semantic segmentation, VOC 2012",
        data=("voc2012",),
        rows=(
            *map(_row_2, ("ConvNeXt*", "ConvNeXt")),
            *(_row_fcn(*row) for row in _FCN),
            *map(_row_2, ("BNN", "ReActNet", "AdaBin", "BiSRNet", "BiDense")),
        ),
    ),
    3: PaperTable(
        number=3,
        title="Monocular depth, NYUv2 and KITTI",
        data=("nyuv2", "kitti"),
        rows=tuple(
            PaperRow(label=label, **_METHODS[label], figures=_depth(*found))
            for label, found in _TABLE_3.items()
        ),
    ),
    4: PaperTable(
        number=4,
        title="Ablations of BiDense, ADE20K",
        data=("ade20k",),
        rows=(*map(_row_1, ("ConvNeXt", "ReActNet", "BiDense")), *map(_row_4, range(1, 9))),
    ),
}
