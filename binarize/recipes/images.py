"""The settings of images in a recipe, for training and for evaluation, and the numbers that settings are."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _number(value: Any) -> Any:
    """`yes` where a number belongs is a mistake, not a 1."""
    if isinstance(value, bool):
        raise ValueError("input should be a number")
    return value


Int = Annotated[int, BeforeValidator(_number)]
Float = Annotated[float, BeforeValidator(_number)]
Positive = Annotated[Float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[Float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[Int, Field(ge=1)]
Whole = Annotated[Int, Field(ge=0)]
Share = Annotated[Float, Field(ge=0, le=1)]
PositiveShare = Annotated[Float, Field(gt=0, le=1)]
Size = tuple[Count, Count]


class Part(BaseModel):
    """A part of a recipe: no setting that is not known, none that changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Augmentation(Part):
    """What a training image and its truth go through.

    See `training_transform` in `data.transforms`, for classification in `data.class_transforms`.

    Attributes:
        size: (H, W) of the random crop that the network sees.
        resize: (H, W) first.
        flip: left to right every other time.

    For segmentation and depth:
        border: (top, bottom, left, right) to cut to first.
        bottom: (H, W) to cut from the middle of the bottom first.
        long_side: what the longer side is resized to, times a number drawn from `scale`.
        scale: least and largest.
        rotate: degrees, at most, either way.
        colour: gamma, brightness and channels as in BTS.

    For classification:
        pad: pixels around the image before the crop, 4 on CIFAR.
        area: least and largest share of the image in a random crop, which is resized to `size`; [0.08, 1] on
            ImageNet.
        ratio: least and largest width / height of that crop.
        rand_augment: magnitude of RandAugment's two operations, 9 being usual; 0 for none.
        erase: how often a random rectangle is erased, 0 to 1.
    """

    size: Size
    resize: Size | None = None
    border: tuple[Whole, Whole, Whole, Whole] | None = None
    bottom: Size | None = None
    long_side: Count | None = None
    scale: tuple[Positive, Positive] = (1.0, 1.0)
    rotate: NotNegative = 0.0
    flip: bool = True
    colour: bool = False
    pad: Whole = 0
    area: tuple[PositiveShare, PositiveShare] | None = None
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    rand_augment: Annotated[Int, Field(ge=0, le=30)] = 0
    erase: Share = 0.0

    @model_validator(mode="after")
    def _in_order(self) -> Augmentation:
        if self.border is not None:
            top, bottom, left, right = self.border
            if top >= bottom or left >= right:
                raise ValueError(
                    f"border {list(self.border)} (top, bottom, left, right) holds no row or no column"
                )
        for name in ("scale", "area", "ratio"):
            span = getattr(self, name)
            if span is not None and span[0] > span[1]:
                raise ValueError(f"{name} {list(span)}: the least comes first")
        if self.pad and self.area is not None:
            raise ValueError("pad and area are two ways to crop: take one")
        return self


class Evaluation(Part):
    """What an image goes through before it is evaluated.

    See `evaluation_transform` in `data.transforms`, for classification in `data.class_transforms`.

    Attributes:
        resize: (H, W) of the image; predictions are resized to the truth.
        short_side: resize image and truth first.
        crop: (H, W) of both to look at, in the middle.
        bottom: (H, W) of both, from the middle of the bottom; for segmentation and depth.
        batch: images at once; only images of one size can be.
        flip: mean of the predictions for the image and its mirror image.
        scales: mean of the predictions at these sizes, times that of the image.
    """

    resize: Size | None = None
    short_side: Count | None = None
    crop: Size | None = None
    bottom: Size | None = None
    batch: Count = 1
    flip: bool = False
    scales: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0,)
