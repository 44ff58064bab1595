"""The weights that a training starts from (`training.start_from`): found, loaded, reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from torch import nn

from binarize.errors import BinarizeError, ConfigError, FormatError, warn
from binarize.files import ENTRY, PartialMatch, load_checkpoint, match_in_part
from binarize.files.container import read_metadata
from binarize.files.header import loads

Fit = Literal["all", "most", "any"]
_MOST = 0.5

Tell = Callable[[str], None]
Convert = Callable[[nn.Module], nn.Module]


def started(net: nn.Module, convert: Convert | None, start: Path, fit: Fit, tell: Tell) -> nn.Module:
    """The network with the weights of a file, converted if the recipe has a method.

    Weights of a float network are loaded before the conversion, those of a binary one after it. If not all
    tensors fit, the encoder's alone are taken, else those that do, as far as `fit` allows it.

    Args:
        net: the float network, with its start weights.
        convert: to the binary network; None for a training of the float one.
        start: a file of a float or binary network, or of plain tensors by name.
        fit: how much of the network the file has to hold.
        tell: called with what was loaded.

    Raises:
        ConfigError: there is no such file, or it fits too little.
        FormatError: it cannot be read, or is packed.
    """
    place = f"start_from {start}"
    binary = _holds_binary(start)
    if binary and convert is None:
        raise ConfigError(
            f"{place}: holds a binary network, and this training is of a float one: the method has replaced "
            "norms and activations, so the weights alone do not make a float network. Give the float network "
            "that it came from, or the recipe a method."
        )
    faults: list[str] = []
    if not binary:
        try:
            tell(f"{place}: {load_checkpoint(net, start)}")
        except BinarizeError as error:
            failure: BinarizeError = error
            faults.append(str(error))
        else:
            return net if convert is None else convert(net)
    converted = None
    if convert is not None:
        converted = convert(net)
        try:
            tell(f"{place}: {load_checkpoint(converted, start, converted=True)}, of the binary network")
        except BinarizeError as error:
            failure = error
            faults.append(str(error))
        else:
            return converted
    if not isinstance(failure, FormatError) or (len(faults) > 1 and faults[0] == faults[1]):
        raise _unreadable(place, failure, convert)
    match = match_in_part(net, start, converted=True)
    into = net
    if converted is not None:
        other = match_in_part(converted, start, converted=True)
        if binary or other.share > match.share:
            match, into = other, converted
    if fit != "all" and match.share < _MOST and not binary and _encoder_alone(net, start, place):
        into = net
    else:
        least = {"all": 1.0, "most": _MOST, "any": 0.0}[fit]
        if fit == "all" or not match.tensors or match.share < least:
            raise _too_little(place, match, fit, faults, convert)
        match.load_into(into)
        warn(f"{place}: {match}. What did not fit starts as without these weights.")
    return convert(into) if into is net and convert is not None else into


def _holds_binary(start: Path) -> bool:
    """Whether the file is one of a converted network's latent weights."""
    if start.suffix != ".safetensors" or not start.is_file():
        return False
    metadata = read_metadata(start)
    return ENTRY in metadata and loads(metadata, repr(str(start)))[0].plan is not None


def _unreadable(place: str, failure: BinarizeError, convert: Convert | None) -> BinarizeError:
    """The error of the file itself, whatever it is to be read into."""
    if convert is None:
        return failure
    return ConfigError(f"{place}: fits neither the float network nor the binary one: {failure}")


def _encoder_alone(net: nn.Module, start: Path, place: str) -> bool:
    if not isinstance(getattr(net, "encoder", None), nn.Module):
        return False
    try:
        report = load_checkpoint(net, start, parts=["encoder"])
    except BinarizeError:
        return False
    warn(f"{place}: fits the encoder alone ({report}); the other weights of the network start at random.")
    return True


def _too_little(
    place: str, match: PartialMatch, fit: Fit, faults: list[str], convert: Convert | None
) -> ConfigError:
    """The error that compares the file with the network that it is nearest to."""
    more = ""
    if fit == "most" and match.tensors:
        more = (
            " That is less than half, so this looks like another architecture; training.start_fit=any would "
            "take what fits."
        )
    elif fit == "all" and match.share >= _MOST:
        more = " training.start_fit=most would take what fits."
    kind = "neither the float network nor the binary one" if convert is not None else "not this network"
    return ConfigError(f"{place}: fits {kind} ({'; '.join(faults)}): {match}.{more}")
