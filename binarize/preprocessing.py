"""How images become the input that a network was trained on; files and ONNX models carry it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from binarize.errors import ConfigError
from binarize.model_info import converted_size

ENTRY = "binarize.preprocessing"
"""Key of the text entry in headers of files and in the metadata of ONNX models."""

ATTRIBUTE = "binarize_preprocessing"
"""Attribute of a model: its `Preprocessing`, or the result of `Preprocessing.as_dict`."""

TRUTH_ENTRY = "binarize.truth"
"""Key of the text entry that says what a network's output means: the task, names of classes, depths."""

TRUTH_ATTRIBUTE = "binarize_truth"
"""Attribute of a model: the text of that entry."""

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Steps from an image of 8 bits, R, G, B, to the network's input, in this order.

    Resize (`short_side`, `resize`, or `crop_pct`), cut (`crop`), divide by 255, subtract `mean`, divide by
    `std`.

    Attributes:
        mean: one per channel, of pixels in [0, 1].
        std: likewise.
        size: (H, W) that the network was trained or converted on; None if not known.
        interpolation: `bilinear`, `bicubic`..., with antialiasing.
        short_side: length in pixels that the shorter side is resized to.
        resize: (H, W) that the image is resized to, whatever its shape.
        crop: (H, W) to cut from the middle, at most the image's size, between `short_side` and `resize`.
        crop_pct: of timm's evaluation: `size` is this share of the resized image, cut from its middle.
        crop_mode: of timm: `center` (the shorter side is resized), `squash` (both sides) or `border`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: Size | None = None
    interpolation: str = "bilinear"
    short_side: int | None = None
    resize: Size | None = None
    crop: Size | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain values for JSON; `from_dict` is the inverse."""
        fields = json.loads(json.dumps(dataclasses.asdict(self)))
        return {"channels": "RGB" if len(self.mean) == 3 else len(self.mean), "range": [0, 1], **fields}

    def dumps(self) -> str:
        """The text of the entry."""
        return json.dumps(self.as_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `as_dict`; keys that are not known are left out.

        Raises:
            ConfigError: no mean and std, or values of other kinds.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        fields = {name: value for name, value in given.items() if name in known and value is not None}
        try:
            for name in ("mean", "std"):
                fields[name] = tuple(float(number) for number in fields[name])
            for name in ("size", "resize", "crop"):
                if name in fields:
                    height, width = fields[name]
                    fields[name] = (int(height), int(width))
            made = cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"preprocessing: {given!r}; expected mean and std, a number per channel, and if known size "
                "(height, width)."
            ) from error
        if len(made.mean) != len(made.std) or not all(map(math.isfinite, (*made.mean, *made.std))):
            raise ConfigError(f"preprocessing: mean {made.mean} and std {made.std} do not fit together.")
        return made

    def at(self, size: Sequence[int]) -> Preprocessing:
        """The same for inputs of another (H, W)."""
        new = (int(size[0]), int(size[1]))
        resize, crop = (None if old is None else new for old in (self.resize, self.crop))
        return dataclasses.replace(self, size=new, resize=resize, crop=crop)

    def __str__(self) -> str:
        """One line of text for printing."""
        mean, std = (" ".join(f"{number:g}" for number in numbers) for numbers in (self.mean, self.std))
        text = (
            f"{'RGB' if len(self.mean) == 3 else f'{len(self.mean)} channels'} / 255, mean {mean}, std {std}"
        )
        if self.resize is not None:
            return f"{text}, resized to {self.resize[0]}x{self.resize[1]}"
        return text if self.size is None else f"{text}, {self.size[0]}x{self.size[1]}"


def preprocessing_of(model: nn.Module) -> Preprocessing | None:
    """The preprocessing of a model's images: its own attribute, or timm's configuration of it or its encoder.

    Args:
        model: float, converted or deployed.

    Returns:
        None for a model without preprocessing, or with other channels than those that its encoder was trained
        on.

    Raises:
        ConfigError: its attribute is not a preprocessing.
    """
    own = getattr(model, ATTRIBUTE, None)
    if isinstance(own, Preprocessing):
        return own
    if isinstance(own, Mapping):
        return Preprocessing.from_dict(own)
    config: Any = getattr(model, "pretrained_cfg", None)
    whole = isinstance(config, Mapping) and config.get("num_classes") is not None
    if not isinstance(config, Mapping):
        config = getattr(getattr(model, "encoder", None), "pretrained_cfg", None)
    if not isinstance(config, Mapping) or not config.get("mean") or not config.get("std"):
        return None
    shape = converted_size(model) or tuple(config.get("input_size") or ())
    if len(shape) != 3 or shape[0] != len(config["mean"]):
        return None
    fields: dict[str, Any] = {"mean": config["mean"], "std": config["std"], "size": shape[1:]}
    if whole:  # a classifier of timm is evaluated on the middle of a larger image
        fields |= {name: config.get(name) for name in ("interpolation", "crop_pct", "crop_mode")}
    return Preprocessing.from_dict(fields)
