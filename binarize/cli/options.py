"""Values of options: input sizes, options of methods, names of output files."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from binarize.errors import ConfigError
from binarize.option_texts import pairs

if TYPE_CHECKING:
    from torch import nn

    from binarize.methods import Method

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_METHOD = "bidense"
"""The default of every command that converts."""


class InputSize(click.ParamType):
    """`224`, `480x640` (height x width) or `3,480,640` (channels, height, width)."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Two or three positive numbers; a single one is height and width."""
        if isinstance(value, tuple):
            return value
        parts = re.split(r"[,x]", str(value).strip().lower())
        if not all(re.fullmatch(r"[0-9]{1,6}", part) for part in parts) or len(parts) > 3:
            self.fail(f"{value!r}: expected 224, 480x640 (HxW) or 3,480,640 (C,H,W).", param, ctx)
        numbers = tuple(int(part) for part in parts)
        if min(numbers) < 1:
            self.fail(f"{value!r}: sizes are at least 1.", param, ctx)
        return numbers * 2 if len(numbers) == 1 else numbers


def out_option(help: str, *, file_okay: bool = True, **settings: Any) -> Callable[[Command], Command]:
    """The option for the output of a command, with the same names in all commands.

    Args:
        help: its line in the help text.
        file_okay: False for a folder.
        **settings: as of `click.option`.
    """
    kind = click.Path(path_type=Path, file_okay=file_okay)
    return click.option("--out", "--output", "-o", "out", type=kind, help=help, **settings)


def best_option(command: Command) -> Command:
    """The option `best`: the network of a run's best epoch, in place of that of the last one."""
    help = "Of a run's folder, the network of the epoch that was best on the validation split."
    return click.option("--best", is_flag=True, help=help)(command)


def model_option(command: Command) -> Command:
    """The option `custom`: what builds the float network of a file that holds a custom class."""
    help = "The float model, if the file holds a custom class."
    return click.option("--model", "custom", metavar="FILE.py:CALLABLE", help=help)(command)


def float_model(custom: str | None) -> nn.Module | None:
    """The network that --model builds; None without it.

    Raises:
        ConfigError: nothing has this name, or it gives no network.
    """
    from binarize.cli.model import resolve

    return None if custom is None else resolve(custom)


def chosen_file(path: Path, best: bool) -> Path:
    """The path that a command was given, or with --best the file in that run's folder.

    Raises:
        ConfigError: there is no such network.
    """
    if not best:
        return path
    from binarize.training.outcome import best_file

    return best_file(path)


def device_option(command: Command) -> Command:
    """The option `device`: its name, which `environment.on_device` checks; None for the usual choice."""
    text = "Where to run: cpu, cuda, cuda:1, mps.  [default: an accelerator, else cpu]"
    return click.option("--device", metavar="NAME", help=text)(command)


def size_option(help: str, *, name: str) -> Callable[[Command], Command]:
    """The option for the size of images, with the same names in all commands.

    Args:
        help: its line in the help text.
        name: of the parameter that gets it.
    """
    return click.option("--size", "--input-size", name, type=InputSize(), help=help)


def exact_scales_option(command: Command) -> Command:
    """The option `exact`: scales per channel that are not rounded; False where it is not given."""

    def note(context: click.Context, param: click.Parameter, given: bool) -> None:
        if given:
            click.echo(
                "Note: --approximate is the default now; --exact-scales is the other choice.", err=True
            )

    for option in (
        click.option("--approximate", is_flag=True, hidden=True, expose_value=False, callback=note),
        click.option(
            "--exact-scales",
            "--exact",
            "exact",
            is_flag=True,
            help="Do not round scales per channel. It takes up to twice as long, without AVX-512 more.",
        ),
    ):
        command = option(command)
    return command


def listed(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """An option that can be repeated, or take several values with commas between, or both."""
    return tuple(dict.fromkeys(part.strip() for text in value for part in text.split(",") if part.strip()))


def configure(name: str, settings: Sequence[str]) -> Method:
    """The method `name` with the options given as `option=value` texts.

    Raises:
        ConfigError: for an unknown method, an option that it does not have, or a value of a wrong type.
    """
    from binarize import methods

    cls = methods.get(name)
    options: dict[str, Any] = {}
    rows = option_rows(cls)
    for option, text in pairs(settings, "--set", "granularity=layer").items():
        try:
            options[option] = cls.parse(option, text)
        except ConfigError as error:
            if option in [known for known, _, _ in rows]:
                raise
            takes = "; ".join(f"{known}: {kind}" for known, kind, _ in rows) or "no options"
            raise ConfigError(f"{error} {name} takes {takes}.") from None
    return methods.create(name, **options)


def option_rows(cls: type[Method]) -> list[tuple[str, str, Any]]:
    """Name, kind of value and default of each option of a method class."""
    import dataclasses
    import typing

    from binarize.methods.base import describe_type

    hints = typing.get_type_hints(cls)
    return [(item.name, describe_type(hints[item.name]), item.default) for item in dataclasses.fields(cls)]


def default_out(label: str, method: str) -> Path:
    """`<model>-<method>.safetensors` in the current folder, with only harmless characters."""
    stem = re.sub(r"[^A-Za-z0-9._]+", "-", label).strip("-.")
    return Path(f"{stem[:120] or 'model'}-{re.sub(r'[^A-Za-z0-9._]+', '-', method)}.safetensors")
