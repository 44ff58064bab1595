"""Where a float model comes from (timm, our networks, elsewhere): what a file says to rebuild it."""

from __future__ import annotations

import contextlib
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from binarize.errors import ConfigError, unknown_name

# What timm would download, or read from a file, for: a source names an architecture and no weights.
_RESERVED = {
    "cache_dir",
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_strict",
    "scriptable",
    "exportable",
    "no_jit",
}
_RUNTIME = {"training", "grad_checkpointing"}  # attributes that are no part of an architecture
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
Rebuild = Callable[[nn.Module], nn.Module]


def create_timm(name: str, *, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """`timm.create_model`, with clear errors and a model that remembers how it was made.

    Args:
        name: a timm model, with or without the tag of its weights.
        pretrained: whether to load timm's pretrained weights (from its cache or the network).
        **kwargs: of the architecture (`num_classes`, `in_chans`, `features_only`...), with values
            as JSON has them.

    Raises:
        ConfigError: for an unknown model (with near names), arguments that it does not take, or weights
            that cannot be had.
    """
    import timm

    from binarize.networks.on_meta import readable_numbers

    check_arguments(name, kwargs)
    if not timm.is_model(name):
        raise ConfigError(unknown_name("timm model", name, timm.list_models(), "binarize models"))
    try:
        with readable_numbers():
            model = timm.create_model(name, pretrained=pretrained, **kwargs)
    except Exception as error:  # any constructor of a thousand models, and the download
        what = "its pretrained weights" if pretrained else f"the arguments {kwargs}"
        raise ConfigError(f"timm model {name!r} cannot be built with {what}: {first_line(error)}") from error
    spec: Any = {"source": "timm", "name": name, "kwargs": dict(kwargs)}
    model.binarize_spec = spec
    return model


def parse_kwargs(text: str) -> dict[str, Any]:
    """The arguments in the `num_classes=10&in_chans=1` part of a model's name.

    A value is a number, `true`, `false`, `none`, numbers with commas between (`0,1,2`), or else a text.

    Raises:
        ConfigError: for a part that is not `name=value`, or a name that comes twice.
    """
    kwargs: dict[str, Any] = {}
    for part in text.split("&"):
        name, equals, value = part.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(
                f"{text!r}: {part!r} is not name=value; write e.g. 'num_classes=10&in_chans=1'."
            )
        if name in kwargs:
            raise ConfigError(f"{text!r}: {name!r} is given twice.")
        kwargs[name] = _value(value)
    return kwargs


def build(source: Mapping[str, Any]) -> nn.Module:
    """The float model that `source` describes, without pretrained weights; the random state is left alone.

    Raises:
        ConfigError: if it cannot be built.
    """
    with torch.random.fork_rng(devices=[]):
        return _build(source)


def find_source(model: nn.Module, rebuild: Rebuild | None = None) -> dict[str, Any]:
    """How to rebuild `model` before its conversion: its own word if it holds, else timm's, else "custom".

    A source holds if the model that it builds has the same modules, with the same settings as they print, and
    tensors of the same names and shapes; for a source that is only guessed, every plain attribute must agree.

    Args:
        model: a float model, or a converted one.
        rebuild: what was done to the float model (executes the plan), None for nothing.
    """
    for source, guessed in _candidates(model):
        if _reproduces(source, model, rebuild, strict=guessed):
            return source
    return {"source": "custom", "class": qualified_name(model)}


def on_meta(source: Mapping[str, Any]) -> nn.Module | None:
    """What `build` would give, without memory for its tensors; None if it cannot be built that way."""
    try:
        with torch.device("meta"), _quiet():
            return build(source)
    except ConfigError:
        return None


def qualified_name(model: nn.Module) -> str:
    """Module and name of the model's class."""
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _build(source: Mapping[str, Any]) -> nn.Module:
    name, kwargs = source["name"], dict(source["kwargs"])
    check_arguments(name, kwargs)  # first of all: a file must not be able to ask for a download
    if source["source"] == "timm":
        return create_timm(name, **kwargs)
    from binarize import networks

    try:
        return networks.build(name, **kwargs)
    except ConfigError:
        raise
    except Exception as error:  # a constructor of an encoder
        raise ConfigError(f"network {name!r} cannot be built with {kwargs}: {first_line(error)}") from error


def _candidates(model: nn.Module) -> Iterator[tuple[dict[str, Any], bool]]:
    """Sources to try, and whether each is a guess."""
    spec = getattr(model, "binarize_spec", None)
    if isinstance(spec, Mapping) and spec.get("source") in ("timm", "networks"):
        with contextlib.suppress(TypeError, ValueError, KeyError):  # something that JSON cannot hold
            kwargs = json.loads(json.dumps(dict(spec["kwargs"]), allow_nan=False))
            yield {"source": spec["source"], "name": str(spec["name"]), "kwargs": kwargs}, False
    config: Any = getattr(model, "pretrained_cfg", None)
    name = config.get("architecture") if isinstance(config, Mapping) else None
    if not isinstance(name, str):
        return
    kwargs = _inferred(model, config)
    yield {"source": "timm", "name": name, "kwargs": kwargs}, True
    indices = getattr(getattr(model, "feature_info", None), "out_indices", None)
    if indices is not None:
        kwargs = {k: v for k, v in kwargs.items() if k != "num_classes"}
        kwargs |= {"features_only": True, "out_indices": [int(i) for i in indices]}
        yield {"source": "timm", "name": name, "kwargs": kwargs}, True


def _inferred(model: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in which a timm model visibly differs from its default configuration."""
    kwargs: dict[str, Any] = {}
    classes = getattr(model, "num_classes", None)
    if isinstance(classes, int) and classes != config.get("num_classes"):
        kwargs["num_classes"] = classes
    default = config.get("input_size") or (3, 224, 224)
    stem = config.get("first_conv")
    stem = stem[0] if isinstance(stem, (tuple, list)) and stem else stem
    weight = dict(model.named_parameters()).get(f"{stem}.weight")
    if weight is not None and weight.dim() > 1 and weight.shape[1] != default[0]:
        kwargs["in_chans"] = int(weight.shape[1])
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if (
        config.get("fixed_input_size")
        and isinstance(size, (tuple, list))
        and tuple(size) != tuple(default[1:])
    ):
        kwargs["img_size"] = [int(s) for s in size]
    if isinstance(getattr(model, "drop_rate", None), float) and model.drop_rate > 0:
        kwargs["drop_rate"] = model.drop_rate
    paths = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath" and m.drop_prob]
    if paths:
        kwargs["drop_path_rate"] = round(float(max(paths)), 4)  # it grows linearly to this
    return kwargs


def _reproduces(
    source: Mapping[str, Any], model: nn.Module, rebuild: Rebuild | None, *, strict: bool
) -> bool:
    for device in ("meta", "cpu"):  # some models cannot be built on the meta device
        try:
            with torch.device(device), torch.random.fork_rng(devices=[]), _quiet():
                candidate = build(source)
                if rebuild is not None:
                    candidate = rebuild(candidate)
        except Exception:  # whatever goes wrong, this source does not rebuild the model
            continue
        same = _structure(candidate) == _structure(model)
        return same and (not strict or _settings(candidate) == _settings(model))
    return False


def _structure(model: nn.Module) -> tuple[dict[str, tuple[int, ...]], str]:
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return shapes, _ADDRESS.sub("", repr(model))


def _settings(model: nn.Module) -> dict[str, Any]:
    """The plain public attributes of all modules: what their printed form leaves out, such as rates."""
    plain = (bool, int, float, str, type(None))
    return {
        f"{path}.{name}": value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, plain) and not name.startswith("_") and name not in _RUNTIME
    }


def check_arguments(name: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments of a model that choose weights, or that JSON cannot hold.

    Raises:
        ConfigError: naming the argument.
    """
    reserved = sorted(_RESERVED & kwargs.keys())
    if reserved:
        raise ConfigError(f"{name!r}: {reserved} cannot be set here; weights are chosen with --pretrained.")
    for key, value in kwargs.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise ConfigError(
                f"{name!r}: {key}={value!r} is nothing that a file can name; use plain values."
            ) from None


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    if "," in text:
        return [_value(part) for part in text.split(",") if part]
    for read in (int, float):
        try:
            value = read(text)
        except ValueError:
            continue
        if math.isfinite(value):
            return value
    return text


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings: initialisers say that they do nothing on the meta device."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def first_line(error: BaseException) -> str:
    """The first line of somebody else's error, short enough to stand in a message of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0][:300]}" if lines else type(error).__name__
