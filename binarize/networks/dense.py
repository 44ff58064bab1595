"""What all dense networks share: an encoder, inputs of any size, arguments and their checks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, ParamSpec, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from binarize.errors import ConfigError, unknown_name
from binarize.networks.blocks import resize
from binarize.networks.encoders import EncoderInfo

Task = Literal["segmentation", "depth"]
TASKS = ("segmentation", "depth")


class DenseNetwork(nn.Module):
    """An encoder of timm, to which subclasses add a decoder and a head: (N, 3, H, W) -> (N, outputs, H, W).

    Encoders restrict their input in two ways. One that needs multiples of a number sees the image padded
    with zeros at the right and the bottom, and the output is cropped. One that takes a single size sees the
    image resized to it: give `img_size` to the function that builds the network for the size that it will be
    used at.

    Args:
        encoder: gives the maps, finest first.
        info: their widths and layout.
    """

    align_corners: ClassVar[bool] = True
    """Of all bilinear resizing of maps and scores."""

    def __init__(self, encoder: nn.Module, info: EncoderInfo) -> None:
        super().__init__()
        self.encoder_info = info
        self.encoder = encoder
        self.binarize_spec: dict[str, Any] = {}

    def _features(self, x: Tensor) -> list[Tensor]:
        """The maps that are used, (N, C_i, H_i, W_i), of `x` brought to a size that the encoder takes."""
        info = self.encoder_info
        if info.fixed_size is not None:
            x = F.interpolate(x, size=info.fixed_size, mode="bilinear", align_corners=True)
        elif info.multiple > 1:
            height, width = x.shape[-2:]
            x = F.pad(x, (0, -width % info.multiple, 0, -height % info.multiple))
        maps = self.encoder(x)
        features = [maps[i] for i in info.indices]
        return [f.permute(0, 3, 1, 2) for f in features] if info.channels_last else features

    def _to(self, y: Tensor, like: Tensor) -> Tensor:
        """`y` resized bilinearly to the size of the map `like`."""
        return resize(y, like, align_corners=self.align_corners)

    def _to_input(self, y: Tensor, x: Tensor) -> Tensor:
        """`y` resized bilinearly to the size of the image `x`, without what `_features` padded."""
        multiple = self.encoder_info.multiple
        if multiple == 1:
            return self._to(y, x)
        height, width = x.shape[-2:]
        padded = (height + -height % multiple, width + -width % multiple)
        whole = F.interpolate(y, size=padded, mode="bilinear", align_corners=self.align_corners)
        return whole[..., :height, :width]


P = ParamSpec("P")
N = TypeVar("N", bound=DenseNetwork)


def dense_network(build: Callable[P, N]) -> Callable[P, N]:
    """A decorator for functions that build a dense network, named as the network.

    It checks the arguments that all of them have (`task`, `num_classes`, `max_depth`, `width`), and keeps in
    `binarize_spec` how the network is built again: encoder and task, classes or range of depth, and all else
    that is not the default. Weights are not built again, so `pretrained` is left out.
    """
    signature = inspect.signature(build)

    @functools.wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs) -> N:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        _check(build.__name__, given.arguments)
        network = build(*args, **kwargs)
        network.binarize_spec = {
            "source": "networks",
            "name": build.__name__,
            "kwargs": _to_build_again(given.arguments, signature),
        }
        return network

    return checked


def outputs(task: Task, num_classes: int) -> int:
    """Channels of a network's output."""
    return 1 if task == "depth" else num_classes


def strides_that_do_not_fit(network: str, encoder: str, info: EncoderInfo, needed: str) -> ConfigError:
    """The error for an encoder whose maps have other strides than a network needs.

    Args:
        network: its name.
        encoder: name of the timm model.
        info: of this encoder.
        needed: what the network needs, and encoders that have it.
    """
    strides = ", ".join(map(str, info.strides))
    others = "dpt" if len(set(info.strides)) == 1 else "upernet"
    return ConfigError(
        f"{network}: encoder {encoder!r} gives maps at strides {strides}; {needed}. A network that takes "
        f"this encoder is '{others}:{encoder}'."
    )


def _check(network: str, arguments: Mapping[str, Any]) -> None:
    task, num_classes, max_depth = (arguments[k] for k in ("task", "num_classes", "max_depth"))
    if task not in TASKS:
        raise ConfigError(unknown_name(f"task of {network}", task, TASKS))
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ConfigError(f"{network}: num_classes={num_classes!r}; expected an integer of at least 1.")
    if not isinstance(max_depth, (int, float)) or not max_depth > 0:
        raise ConfigError(f"{network}: max_depth={max_depth!r}; expected a positive number.")
    width = arguments["width"] if arguments.get("width") is not None else 1
    if not isinstance(width, int) or width < 1:
        raise ConfigError(f"{network}: width={width!r}; expected an integer of at least 1.")


def _to_build_again(arguments: Mapping[str, Any], signature: inspect.Signature) -> dict[str, Any]:
    range_of_task = "max_depth" if arguments["task"] == "depth" else "num_classes"
    always = ("encoder", "task", range_of_task)
    never = {"pretrained", "num_classes", "max_depth"} - {range_of_task}
    return {
        name: value
        for name, value in arguments.items()
        if name in always or (name not in never and value != signature.parameters[name].default)
    }
