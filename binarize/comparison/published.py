"""Figures that the BiDense paper prints (arXiv 2411.10346, Tables 1, 2 and 3), for comparison."""

from __future__ import annotations

from typing import Any

from binarize.recipes import TrainingRecipe

_SEGMENTATION = ("pixel_accuracy", "miou")
_DEPTH = ("delta1", "abs_rel", "rmse")

_ADE20K = {
    "float-pretrained": (0.7948, 0.4096),
    "float": (0.7081, 0.2039),
    "bnn": (0.6169, 0.0868),
    "reactnet": (0.6277, 0.0922),
    "adabin": (0.5947, 0.0716),
    "bisrnet": (0.6285, 0.0974),
    "bidense": (0.6725, 0.1875),
}
_VOC2012 = {
    "float-pretrained": (0.9858, 0.9972),
    "float": (0.9602, 0.8460),
    "bnn": (0.8357, 0.4010),
    "reactnet": (0.8338, 0.4210),
    "adabin": (0.7827, 0.2520),
    "bisrnet": (0.8630, 0.4750),
    "bidense": (0.9273, 0.7520),
}
_NYUV2 = {
    "float-pretrained": (0.871, 0.117, 0.407),
    "float": (0.695, 0.201, 0.641),
    "bnn": (0.644, 0.223, 0.712),
    "reactnet": (0.664, 0.215, 0.686),
    "adabin": (0.537, 0.256, 0.851),
    "bisrnet": (0.659, 0.214, 0.682),
    "bidense": (0.712, 0.189, 0.610),
}
_KITTI = {
    "float-pretrained": (0.958, 0.065, 2.416),
    "float": (0.902, 0.092, 3.429),
    "bnn": (0.889, 0.102, 3.610),
    "reactnet": (0.893, 0.099, 3.449),
    "adabin": (0.853, 0.119, 4.016),
    "bisrnet": (0.890, 0.101, 3.567),
    "bidense": (0.896, 0.095, 3.389),
}
_TABLES = {
    "ade20k": (_SEGMENTATION, _ADE20K),
    "voc2012": (_SEGMENTATION, _VOC2012),
    "nyuv2": (_DEPTH, _NYUV2),
    "kitti": (_DEPTH, _KITTI),
}

REMARKS = {
    "voc2012": "The paper's networks were trained on trainval, which holds the images that they are "
    "evaluated on; its figures of VOC 2012 are not comparable with honest ones.",
}
"""Remarks on the printed figures, by data set."""


def published(recipe: TrainingRecipe) -> dict[str, float]:
    """The printed figures of a recipe's row, fractions and metres; empty if the paper has no such row."""
    network = recipe.network
    if recipe.data.name not in _TABLES or (network.name, network.encoder) != ("upernet", "convnext_tiny"):
        return {}
    if network.options.get("head", "full") != "full":
        return {}
    method = recipe.method
    if method is None:
        row = "float-pretrained" if recipe.network.pretrained else "float"
    elif set(method.options) <= {"form"}:
        row = method.name
    else:  # an ablation
        return {}
    names, rows = _TABLES[recipe.data.name]
    return dict(zip(names, rows[row], strict=True)) if row in rows else {}


def remark(recipe: TrainingRecipe) -> dict[str, Any]:
    """Remarks on the printed figures of a recipe's data set."""
    text = REMARKS.get(recipe.data.name)
    return {"remark": text} if text else {}
