"""From the MODEL argument to a float model: a timm name, a network spec, or a callable in a Python file."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from binarize.errors import BinarizeError, ConfigError, first_line, near_names, with_article
from binarize.model_info import input_size
from binarize.option_texts import parse_kwargs

if TYPE_CHECKING:
    from torch import nn

_FILE = re.compile(r"(?P<path>.+\.py)(:(?P<name>[^?:]*)(\?(?P<query>.*))?)?")


def resolve(text: str, *, pretrained: bool = False) -> nn.Module:
    """The float model that the MODEL argument `text` names.

    Raises:
        ConfigError: if nothing has this name, or it does not give a model.
    """
    match = _FILE.fullmatch(text)
    if match:
        if pretrained:
            raise ConfigError(
                f"{text}: --pretrained is for timm models; a file's callable loads its own weights."
            )
        return _from_file(text, Path(match["path"]), match["name"], match["query"])
    if text.endswith(".safetensors") and Path(text).is_file():
        raise ConfigError(
            f"{text} is a file of weights or of a converted network, not a MODEL. Look at it with `binarize "
            "summary`, or give a MODEL and start from these weights with --checkpoint."
        )
    name, _, query = text.partition("?")
    if ":" in name:
        from binarize import networks

        if pretrained:
            text = f"{text}{'&' if query else '?'}pretrained=true"
        try:
            return networks.create(text)
        except BinarizeError:
            raise
        except Exception as error:  # a constructor given a value of a wrong kind, or a download
            raise ConfigError(f"network {text!r} cannot be built: {first_line(error)}") from error
    from binarize.files import check_arguments, create_timm

    kwargs = parse_kwargs(query, f"model {text!r}: option")
    check_arguments(name, kwargs)
    return create_timm(name, pretrained=pretrained, **kwargs)


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
    if is_file(text):
        return "own", ""
    name, _, query = text.partition("?")
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
    return path if path.suffix == ".safetensors" or (path.is_file() and ":" not in text) else None


def is_file(text: str) -> bool:
    """Whether the MODEL argument `text` names a callable in a Python file."""
    return _FILE.fullmatch(text) is not None


def label(text: str) -> str:
    """The stem of output file names for the MODEL argument `text`."""
    match = _FILE.fullmatch(text)
    return f"{Path(match['path']).stem}-{match['name'] or ''}" if match else text


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


def _from_file(text: str, path: Path, name: str | None, query: str | None) -> nn.Module:
    from torch import nn

    if not path.is_file():
        raise ConfigError(f"{text}: there is no file {str(path)!r}.")
    if not name:
        raise ConfigError(f"{text}: name a callable in the file that returns the model, {path}:build_model.")
    kwargs = parse_kwargs(query or "", f"{text}: option")
    with _importing(path):
        module = _imported(text, path)
        make = getattr(module, name, None)
        if make is None:
            near = near_names(
                name, [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            )
            hint = f"; did you mean {' or '.join(near)}?" if near else "."
            raise ConfigError(f"{text}: {path.name} has no {name!r}{hint}")
        if not callable(make):
            raise ConfigError(
                f"{text}: {name!r} is {with_article(type(make).__name__)}, "
                "expected a callable without arguments."
            )
        try:
            model = make(**kwargs)
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{text}: {name}() failed: {_last_line(error, path)}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"{text}: {name}() returned {with_article(type(model).__name__)}, expected a torch.nn.Module."
        )
    return model


@contextlib.contextmanager
def _importing(path: Path) -> Iterator[None]:
    """Allow the file to import modules from its folder, as a script could."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the file removed it itself
            sys.path.remove(folder)


def _imported(text: str, path: Path) -> ModuleType:
    name = "binarize_model_" + re.sub(r"\W", "_", path.stem)
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ConfigError(f"{text}: {str(path)!r} cannot be imported as Python.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look classes up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigError(f"{text}: importing {path.name} failed: {_last_line(error, path)}") from error
    return module


def _last_line(error: BaseException, path: Path) -> str:
    """The last line of the traceback, with the last line of the user's file in it."""
    line = traceback.format_exception_only(error)[-1].strip()
    resolved = str(path.resolve())
    numbers = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == resolved
    ]
    return f"{line} ({path.name}, line {numbers[-1]})" if numbers else line
