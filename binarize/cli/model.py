"""From the MODEL argument to a float model: a timm name, a network spec, or a callable in a Python file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from binarize.errors import ConfigError
from binarize.model_info import input_size
from binarize.option_texts import parse_kwargs

if TYPE_CHECKING:
    from torch import nn


def resolve(text: str, *, pretrained: bool = False) -> nn.Module:
    """The float model that the MODEL argument `text` names.

    Raises:
        ConfigError: if nothing has this name, or it does not give a model.
    """
    from binarize.model_names import create

    if text.endswith(".safetensors") and Path(text).is_file():
        raise ConfigError(
            f"{text} is a file of weights or of a converted network, not a MODEL. Look at it with `binarize "
            "summary`, or give a MODEL and start from these weights with --checkpoint."
        )
    _check_path(text)
    return create(text, pretrained=pretrained)


def _check_path(text: str) -> None:
    """Refuse a path that names no model; a model of timm may be called as a folder here is.

    Raises:
        ConfigError: the message says what could be meant.
    """
    import timm

    path = Path(text)
    if not text or is_code(text) or not path.exists() or timm.is_model(text):
        return
    if path.is_dir():
        raise ConfigError(
            f"{text} is a folder without a trained network (model.safetensors), and not the name of a MODEL."
        )
    raise ConfigError(
        f"{text} is a file, but not of a network (.safetensors), nor a Python file with a callable that "
        "returns one (nets.py:CALLABLE)."
    )


def weights_of(text: str, model: nn.Module, *, pretrained: bool, checkpoint: bool) -> tuple[str, str]:
    """Where the weights of the float model that `text` names come from, in a word, and a remark on it.

    Args:
        text: the MODEL argument.
        model: the result of `resolve`.
        pretrained: whether --pretrained was given.
        checkpoint: whether --checkpoint was given.

    Returns:
        `checkpoint`, `pretrained`, `encoder` (the rest is random), `own` (a callable's) or `random`; a
        sentence, empty if all is as expected.
    """
    if checkpoint:
        return "checkpoint", ""
    if is_code(text):
        return "own", ""
    name, _, query = text.removeprefix("timm:").partition("?")
    if ":" in name:
        if pretrained or parse_kwargs(query).get("pretrained") is True:
            return "encoder", "The encoder is pretrained; all other weights are random numbers."
    elif pretrained:
        config: Any = getattr(model, "pretrained_cfg", None) or {}
        known, own = config.get("num_classes"), getattr(model, "num_classes", None)
        if not own or known == own:
            return "pretrained", ""
        return "pretrained", (
            f"The classifier of {own} classes is random: the pretrained one is for {known} classes."
        )
    return "random", (
        "The weights are random numbers: nothing was trained. Start from trained ones with --pretrained (of "
        "timm) or --checkpoint FILE."
    )


def network_file(text: str) -> Path | None:
    """The file of a network that the argument `text` names: a run's, the zoo's, or itself; None for a MODEL.

    Raises:
        ConfigError: the zoo has no such entry.
    """
    from binarize.files.zoo import PREFIX
    from binarize.training.folder import MODEL, model_file

    path = Path(text)
    if text.startswith(PREFIX) or (path / MODEL).is_file():
        return model_file(path)
    named = path.is_file() and ":" not in text and path.suffix != ".py"
    return path if path.suffix == ".safetensors" or named else None


def is_code(text: str) -> bool:
    """Whether the MODEL argument `text` names a callable, in a Python file or a module."""
    from binarize.model_names import is_code

    return is_code(text)


def label(text: str) -> str:
    """The stem of output file names for the MODEL argument `text`."""
    from binarize.user_code import is_file, parts

    if not is_file(text):
        return text
    place, name, _ = parts(text)
    return f"{Path(place).stem}-{name}"


def with_channels(size: tuple[int, ...] | None, model: nn.Module) -> tuple[int, int, int]:
    """`--input-size` as (C, H, W); missing numbers come from the conversion, or from the model."""
    default = input_size(model)
    if size is None:
        return default
    channels, height, width = size if len(size) == 3 else (default[0], *size)
    return channels, height, width


def takes_images(model: nn.Module) -> bool:
    """Whether a network can be one of images: its first convolution or recurrent layer is a Conv2d."""
    from torch import nn

    kinds = (nn.modules.conv._ConvNd, nn.RNNBase)
    first = next((m for m in model.modules() if isinstance(m, kinds)), None)
    return isinstance(first, (nn.Conv2d, nn.ConvTranspose2d))
