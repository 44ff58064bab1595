"""How to rebuild the float network that a given model was made from."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from binarize.errors import warn
from binarize.files.float_source import build, building_on
from binarize.model_info import DEFAULT_SIZE, qualified_name

_RUNTIME = {"training", "grad_checkpointing"}  # attributes that are not part of an architecture
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
Rebuild = Callable[[nn.Module], nn.Module]


def find_source(model: nn.Module, rebuild: Rebuild | None = None) -> dict[str, Any]:
    """How to rebuild `model` before its conversion: its own word if it holds, else timm's, else "custom".

    A source holds if the model that it builds has the same modules, with the same settings as they print, and
    tensors of the same names and shapes; for a source that is only guessed, every plain attribute must agree.
    A warning says where a model of timm ends as "custom".

    Args:
        model: a float model, or a converted one.
        rebuild: what was done to the float model (executes the plan), None for nothing.
    """
    for source, guessed in _candidates(model):
        if _reproduces(source, model, rebuild, strict=guessed):
            return source
    _warn_of_arguments(model)
    return {"source": "custom", "class": qualified_name(model)}


def _warn_of_arguments(model: nn.Module) -> None:
    """Warn that a file cannot say how timm's network is built; of a custom class, everyone expects that."""
    config: Any = getattr(model, "pretrained_cfg", None)
    name = config.get("architecture") if isinstance(config, Mapping) else None
    if isinstance(name, str):
        warn(
            f"save: {name} of timm, with the arguments that can be read off this model, is not the same "
            "network, so the file cannot say how to build it: binarize.load will need the float model "
            f"(model=...). Built by binarize.files.create_timm({name!r}, ...), a model keeps its arguments; "
            f"or give save(..., source={{'source': 'timm', 'name': {name!r}, 'kwargs': {{...}}}})."
        )


def _candidates(model: nn.Module) -> Iterator[tuple[dict[str, Any], bool]]:
    """Sources to try, and whether each is a guess."""
    spec = getattr(model, "binarize_spec", None)
    if isinstance(spec, Mapping) and spec.get("source") in ("timm", "networks"):
        with contextlib.suppress(TypeError, ValueError, KeyError):  # something that JSON cannot hold
            kwargs = json.loads(json.dumps(dict(spec["kwargs"]), allow_nan=False))
            yield {"source": spec["source"], "name": str(spec["name"]), "kwargs": kwargs}, False
    if isinstance(spec, Mapping) and spec.get("source") == "custom" and spec.get("code"):
        yield dict(spec), False
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
    default = config.get("input_size") or DEFAULT_SIZE
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
            with building_on(device), torch.random.fork_rng(devices=[]):
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
