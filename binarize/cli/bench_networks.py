"""What `binarize bench` times: a packed network, its float network, an image, and their options."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binarize.cli.options import DEFAULT_METHOD, configure
from binarize.cli.targets import beside
from binarize.errors import ConfigError, first_line, unknown_name
from binarize.model_info import DEFAULT_SIZE, converted_size, plan_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from binarize.runtime import RuntimeOptions

TORCHVISION = "torchvision:"
"""Prefix of a MODEL that is a network of torchvision, with random weights."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Options that a single network and the suite share.

    Attributes:
        method: for a MODEL; `convert`'s default if None.
        settings: options of the method as `option=value`.
        batch: images at once.
        threads: of the kernels.
        against: names of baselines; the default ones if None.
        rounds: as of `binarize.bench.bench`.
        passes: as of `binarize.bench.bench`.
        exact: `deploy`'s exact_scales.
        precision: as of `deploy`.
        memory_kept: as of `binarize.bench.bench`.
    """

    method: str | None
    settings: tuple[str, ...]
    batch: int
    threads: int
    against: tuple[str, ...] | None
    rounds: int
    passes: int | None
    exact: bool
    precision: str
    memory_kept: bool

    @property
    def turns(self) -> dict[str, Any]:
        """Arguments of `binarize.bench.bench`."""
        return {"rounds": self.rounds, "passes": self.passes, "memory_kept": self.memory_kept}


def output_files(out: Path | None) -> tuple[Path, ...]:
    """The files that --out names: for programs, for people."""
    return beside(out, "json", "png")


def networks(model: str, custom: str | None, asked: Asked) -> tuple[nn.Module, nn.Module, tuple[int, ...]]:
    """The packed network, a float one like it, and the (C, H, W) that it was trained or converted on.

    Args:
        model: a file, or a MODEL.
        custom: the float model of a file that holds a custom class, as a MODEL.
        asked: the other options.

    Raises:
        ConfigError: a float network in a file, one that takes no images, or options that do not fit.
    """
    import binarize
    from binarize import runtime
    from binarize.cli.model import network_file

    trained = None
    path = network_file(model)
    if path is not None:
        if asked.method or asked.settings:
            raise ConfigError("bench: --method and --set are for a MODEL that is not a file.")
        converted, plain, trained = _from_file(path, custom)
    else:
        if custom is not None:
            raise ConfigError(f"bench: --model {custom} is for a file; {model!r} is a model itself.")
        chosen = configure(asked.method or DEFAULT_METHOD, asked.settings)
        plain = float_network(model)
        converted = binarize.apply(plain, chosen)
    plan = plan_of(converted)
    if plan is None:
        raise ConfigError(f"{model} holds a float network: convert it first.")
    shape = converted_size(converted) or DEFAULT_SIZE
    if plan.inputs and converted_size(converted) is None:
        raise ConfigError(f"{model} takes inputs of {plan.inputs}; bench is for networks that take images.")
    if trained is not None:
        shape = (shape[0], *trained)
    options: dict[str, Any] = {
        "threads": asked.threads,
        "exact_scales": asked.exact,
        "precision": asked.precision,
    }
    if runtime.deployed_layers(converted):
        packed = runtime.configure(converted, **options)
    else:
        packed = runtime.deploy(converted, **options)
    return packed, plain.eval(), shape


def _from_file(path: Path, custom: str | None) -> tuple[nn.Module, nn.Module, tuple[int, ...] | None]:
    """The network in a file, its float network, and the (H, W) that it was trained on, if any."""
    from binarize import files
    from binarize.cli.model import resolve
    from binarize.files import container
    from binarize.training.metadata import trained_size

    trained = trained_size(container.read_metadata(path))
    source = files.read_header(path).source
    if custom is not None and source["source"] == "custom":
        plain = resolve(custom)
    elif source["source"] == "custom" and "code" not in source:
        raise ConfigError(f"{path} holds a custom class: give its float form, --model FILE.py:CALLABLE.")
    else:
        plain = files.build(source)
    return files.load(path, plain if custom is not None else None), plain, trained


def float_network(model: str) -> nn.Module:
    """The float network of a MODEL; of torchvision too, which other commands do not know.

    Raises:
        ConfigError: there is no such network, or torchvision is missing.
    """
    from binarize.cli.model import resolve
    from binarize.option_texts import parse_kwargs

    if not model.startswith(TORCHVISION):
        return resolve(model)
    try:
        from torchvision import models
    except ImportError as error:
        raise ConfigError(
            f"{model} needs torchvision ({first_line(error)}): pip install torchvision."
        ) from error
    name, _, query = model.removeprefix(TORCHVISION).partition("?")
    known = models.list_models()
    if name not in known:
        raise ConfigError(unknown_name("network of torchvision", name, known))
    options = {"weights": None, **parse_kwargs(query, f"model {model!r}: option")}
    if name in models.list_models(models.segmentation):
        options = {"weights_backbone": None, **options}  # it would be downloaded
    try:
        return models.get_model(name, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"network {model!r} cannot be built: {first_line(error)}") from error


def images(model: str, shape: tuple[int, ...], size: tuple[int, ...] | None, batch: int) -> Tensor:
    """Random images (N, C, H, W) of the size in --size, or else of (C, H, W) `shape`."""
    from binarize.bench.random_images import random_images

    channels = shape[0]
    if size is not None and len(size) == 3 and size[0] != channels:
        raise ConfigError(f"bench: --size {','.join(map(str, size))}: {model} takes {channels} channels.")
    height, width = (shape if size is None else size)[-2:]
    return random_images((batch, channels, height, width), 0)


def setting(packed: nn.Module) -> dict[str, Any]:
    """What was timed: the method with its options, and the options of `deploy`."""
    from binarize import runtime

    layers = runtime.deployed_layers(packed).values()
    options = next((dataclasses.asdict(layer.options) for layer in layers), {})
    options.pop("threads", None)
    return {"method": plan_of(packed).method, **options, "deploy_options": options}


def setting_lines(found: dict[str, Any]) -> list[str]:
    """The options of `convert` and `deploy` that were timed, and which of them are the defaults."""
    from binarize import methods
    from binarize.runtime import RuntimeOptions

    method = found["method"]
    usual = methods.create(method["name"]).as_dict()["options"]
    lines = [f"convert  {method['name']}, {_options(method['options'], usual)}"]
    if found["deploy_options"]:
        default: RuntimeOptions = RuntimeOptions()
        lines.append(f"deploy   {_options(found['deploy_options'], dataclasses.asdict(default))}")
    return lines


def _options(given: dict[str, Any], usual: dict[str, Any]) -> str:
    changed = [f"{name}={value}" for name, value in given.items() if usual.get(name) != value]
    same = [f"{name}={value}" for name, value in given.items() if usual.get(name) == value]
    parts = [", ".join(changed), f"by default {', '.join(same)}" if same else ""]
    return "; ".join(part for part in parts if part) or "no options"
