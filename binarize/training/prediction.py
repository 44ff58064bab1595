"""`binarize.predict`: what a network predicts for an image, prepared as in the network's training."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from binarize import files
from binarize.data.classes import Classes
from binarize.data.dataset import Depth, Labels, Truth, truth_from_json
from binarize.data.own_samples import normalised, pixels
from binarize.data.reading import read_image
from binarize.errors import ConfigError
from binarize.files import container
from binarize.modes import evaluating
from binarize.preprocessing import TRUTH_ATTRIBUTE, Preprocessing, preprocessing_of
from binarize.recipes.schema import Evaluation
from binarize.training import evaluation, pictures, saved
from binarize.training.folder import model_file
from binarize.training.metadata import has_recipe


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a network predicts for an image of height H and width W.

    Attributes:
        task: `segmentation`, `depth`, `classification`, or empty where nothing says what the output means.
        output: float32, logits (classes, H, W) or (classes,), or metres (1, H, W), at the size of the image.
        labels: class ids int64, (H, W), or () for classification; None for depth.
        probabilities: of the classes, float32, (classes, H, W) or (classes,); None for depth.
        depth: metres (H, W) float32; None for classes.
        names: of the classes, by id; empty if they are not known.
        palette: (R, G, B) of each class for pictures, or empty.
        values: what stands for each class in the masks of the data: its id, another number, or a colour as
            65536 R + 256 G + B; empty if that is not known.
    """

    task: str
    output: np.ndarray
    labels: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    depth: np.ndarray | None = None
    names: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    values: tuple[int, ...] = ()

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The likeliest classes of a whole image, each with its probability; best first.

        Raises:
            ConfigError: the network did not classify a whole image.
        """
        if self.probabilities is None or self.probabilities.ndim != 1:
            raise ConfigError(f"top: this is a prediction of {self.task or 'maps'}, not of a whole image.")
        best = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.names[i] if self.names else str(i), float(self.probabilities[i])) for i in best]

    def picture(self) -> Image.Image:
        """Labels or depth (H, W) in colours, as `binarize predict` writes them.

        Raises:
            ConfigError: the prediction is of a whole image, or the meaning of the output is not known.
        """
        truth: Labels | Depth
        if self.depth is not None:
            made, truth = torch.from_numpy(self.depth), Depth(scale=1.0, most=float(self.depth.max()))
        elif self.labels is not None and self.labels.ndim == 2 and self.names:
            made, truth = torch.from_numpy(self.labels), Labels(names=self.names, palette=self.palette)
        else:
            raise ConfigError("picture: the prediction is not a map of classes or depths.")
        return Image.fromarray(pictures.coloured(made, truth).permute(1, 2, 0).numpy())


@dataclass(frozen=True, kw_only=True)
class _Known:
    """A network with what is known of it."""

    network: nn.Module
    truth: Truth | None
    settings: Evaluation
    images: Preprocessing | None
    output: str | int | None


def predict(
    model: str | os.PathLike[str] | nn.Module,
    image: Any,
    *,
    output: str | int | None = None,
    network: nn.Module | None = None,
) -> Prediction:
    """What a network predicts for an image; the image is prepared as the network's file says.

    The same as `binarize predict`. For many images, load the network once, by `binarize.load`, and give the
    network.

    Args:
        model: a file with latent weights or a packed one, the folder of a run, `zoo:NAME`; or a network that
            `binarize.load`, `binarize.training.fit` or `binarize.deploy` gave. It is left as it is.
        image: path of a file, a PIL image, an array (H, W, 3) or a tensor (3, H, W) of uint8; or a tensor
            (C, H, W) of floats, which the network gets as it is.
        output: which of the network's outputs counts; a file of a training says it itself.
        network: the float network, for a file that holds a network of a custom class.

    Raises:
        ConfigError: no such network, one that does not take the image, or one that does not say how images
            are prepared (give a tensor of floats, or set `model.binarize_preprocessing`).
        DataError: the image cannot be read.
        FormatError: the file is damaged.
    """
    if isinstance(model, nn.Module):
        known = _of_module(model, output)
    else:
        known = _of_file(Path(model), output, network)
    shown, size = _shown(image, known)
    with evaluating(known.network):
        made = _output(known, shown, size)
    return _prediction(made, known.truth)


def _of_file(path: Path, output: str | int | None, network: nn.Module | None) -> _Known:
    file = model_file(path)
    metadata = container.read_metadata(file) if file.is_file() else {}
    if not has_recipe(metadata):  # of `convert` or `save`, or there is no such file
        return _of_module(files.load(file, network), output)
    recipe, net, truth = saved.load_with_truth(path, network)
    chosen = recipe.network.output if output is None else output
    return _Known(
        network=net,
        truth=truth,
        settings=recipe.data.evaluation,
        images=preprocessing_of(net),
        output=chosen,
    )


def _of_module(model: nn.Module, output: str | int | None) -> _Known:
    images = preprocessing_of(model)
    text = getattr(model, TRUTH_ATTRIBUTE, None)
    if text is None:
        truth = None
    else:
        try:
            truth = truth_from_json(text)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"model.{TRUTH_ATTRIBUTE} describes no truth: {text!r}.") from error
    return _Known(network=model, truth=truth, settings=_resizing(images), images=images, output=output)


def _resizing(images: Preprocessing | None) -> Evaluation:
    """How images are resized, by a preprocessing; timm's `crop_pct` is in `_by_timm`."""
    if images is None:
        return Evaluation()
    return Evaluation(short_side=images.short_side, resize=images.resize, crop=images.crop)


def _shown(image: Any, known: _Known) -> tuple[Tensor, tuple[int, int]]:
    """The network's input (1, C, H', W'), and (H, W) of the image."""
    if isinstance(image, Tensor) and image.is_floating_point():
        if image.dim() == 4 and len(image) == 1:
            image = image[0]
        if image.dim() != 3:
            raise ConfigError(f"predict: a tensor {tuple(image.shape)}, expected one image (C, H, W).")
        return image.float()[None], (image.shape[-2], image.shape[-1])
    path = isinstance(image, (str, os.PathLike))
    x = read_image(Path(image)) if path else pixels(image, "the image")
    images = known.images
    if images is None:
        raise ConfigError(
            "predict: nothing says how images are prepared for this network: give a tensor (C, H, W) of "
            "floats, as the network takes it, or set model.binarize_preprocessing = {'mean': [...], 'std': "
            "[...]}."
        )
    size = (x.shape[-2], x.shape[-1])
    settings = known.settings
    if images.crop_pct is not None and images.size is not None:
        x = _by_timm(x, images, images.size, images.crop_pct)
    else:
        x = _resized(x, settings, whole=isinstance(known.truth, Classes))
    return normalised(x, images)[None], size


def _resized(x: Tensor, settings: Evaluation, *, whole: bool) -> Tensor:
    """As the recipe's evaluation resizes an image; it crops those that get one class alone."""
    if settings.short_side is not None:
        x = v2.functional.resize(x, [settings.short_side], antialias=True)
    if whole and settings.crop is not None:
        height, width = (min(side, most) for side, most in zip(x.shape[-2:], settings.crop, strict=True))
        x = v2.functional.center_crop(x, [height, width])
    if settings.resize is not None:
        x = v2.functional.resize(x, list(settings.resize), antialias=True)
    return x


def _by_timm(x: Tensor, images: Preprocessing, size: tuple[int, int], share: float) -> Tensor:
    """As timm evaluates: resized to size / share, and cut from the middle."""
    if images.crop_mode not in (None, "center", "squash"):
        raise ConfigError(
            f"predict: crop_mode {images.crop_mode!r} of timm is not known here: give a tensor of floats."
        )
    target = [int(side / share) for side in size]
    if images.crop_mode != "squash":
        target = [min(target)]
    mode = InterpolationMode(images.interpolation)
    x = v2.functional.resize(x, target, interpolation=mode, antialias=True)
    return v2.functional.center_crop(x, list(size))


def _output(known: _Known, shown: Tensor, size: tuple[int, int]) -> Tensor:
    """The output for one image: maps (C, H, W) at its size, or logits (classes,)."""
    if isinstance(known.truth, (Labels, Depth)):
        return pictures.map_output(known.network, shown, known.settings, known.output, size)
    shown = shown.to(evaluation.device_of(known.network))
    with torch.no_grad():
        made = evaluation.predict(
            known.network, shown, output=known.output, flip=known.settings.flip, scales=known.settings.scales
        )
    return evaluation.resized(made, size)[0].cpu()


def _prediction(output: Tensor, truth: Truth | None) -> Prediction:
    task = "" if truth is None else truth.task
    made = Prediction(task=task, output=output.numpy())
    if isinstance(truth, Depth):
        return dataclasses.replace(made, depth=pictures.depth_of(output, truth).numpy())
    if truth is None and len(output) == 1:  # one number: nothing says of what
        return made
    scores = pictures.scores_of(output, truth) if isinstance(truth, Labels) else output
    names = () if truth is None else truth.names
    return dataclasses.replace(
        made,
        labels=scores.argmax(0).numpy(),
        probabilities=scores.softmax(0).numpy(),
        names=names,
        palette=truth.palette if isinstance(truth, Labels) else (),
        values=truth.stored() if isinstance(truth, Labels) else (),
    )
