"""Feature maps in front of and behind the first binarization, beside the entropy of the bits (Figure 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from binarize.errors import ConfigError
from binarize.inspect.activation_entropy import entropy_of_counts, level_counts
from binarize.inspect.binarizers import find_binarizers
from binarize.inspect.running import Batch, Report, run_batches


@dataclass(frozen=True, kw_only=True)
class FeatureMaps:
    """Maps around the first binarization of a network.

    Attributes:
        layer: path of the binarizer.
        before: for each image (h, w) float32: mean over the channels of the float activations.
        after: for each image (h, w) float32: mean over the channels of the bits as -1 and +1 (of K bits, the
            index of the level between -1 and +1), whatever scale the method gives them.
        entropy: (images,) float64, bits: mean over channels of the entropy within the image.
    """

    layer: str
    before: tuple[np.ndarray, ...]
    after: tuple[np.ndarray, ...]
    entropy: np.ndarray


def feature_maps(model: nn.Module, batches: Iterable[Batch], *, report: Report | None = None) -> FeatureMaps:
    """The maps around the first binarization that images meet.

    Args:
        model: converted or packed; runs in evaluation mode, its mode is restored.
        batches: images (N, 3, H, W), alone or with truths; few, because all maps are kept.
        report: called with the number of images done.

    Raises:
        ConfigError: no images, no binary layer, or a first one that sees tokens instead of a map.
    """
    binarizers = find_binarizers(model)
    if not binarizers:
        raise ConfigError("feature_maps: the network has no binary layer.")
    seen: dict[str, Any] = {}
    found: list[tuple[Tensor, Tensor, Tensor]] = []

    def hooks(size: Callable[[], int]) -> Iterable[RemovableHandle]:
        for binarizer in binarizers:

            def look(module: nn.Module, args: Any, one: Any = binarizer) -> None:
                if seen.setdefault("layer", one.name) == one.name:
                    found.append(_maps(one, args[one.argument].detach(), size()))

            yield binarizer.module.register_forward_pre_hook(look)

    run_batches(model, batches, hooks, report)
    if not found:
        raise ConfigError("feature_maps: the network called none of its binary layers.")
    before, after = ([one.cpu().numpy() for maps in found for one in maps[i]] for i in (0, 1))
    return FeatureMaps(
        layer=seen["layer"],
        before=tuple(before),
        after=tuple(after),
        entropy=np.concatenate([maps[2].cpu().numpy() for maps in found]),
    )


def _maps(binarizer: Any, x: Tensor, images: int) -> tuple[Tensor, Tensor, Tensor]:
    if x.dim() != 4 or binarizer.dim is None or len(x) != images:
        raise ConfigError(
            f"feature_maps: {binarizer.name}, the first binary layer, sees a tensor of shape "
            f"{tuple(x.shape)}; expected a map (N, C, H, W) or (N, H, W, C) to draw."
        )
    codes = binarizer.codes(x)
    top = 2**binarizer.bits - 1
    counts = level_counts(binarizer, codes, images)
    if counts is None:
        raise ConfigError(f"feature_maps: {binarizer.name}: activations of shape {tuple(x.shape)}.")
    bits = 2.0 * codes.float() / top - 1.0
    means = entropy_of_counts(counts).mean(1)
    return x.float().mean(binarizer.dim), bits.mean(binarizer.dim), means
