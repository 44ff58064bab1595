"""What accelerate's environment variables ask for: a device, or a network that is split by FSDP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import parse_flag_from_env

from binarize.errors import ConfigError

_FSDP = "ACCELERATE_USE_FSDP"
_CPU = "ACCELERATE_USE_CPU"
_DEVICE = "ACCELERATE_TORCH_DEVICE"
_NOT_OFFERED = {
    "FSDP_OFFLOAD_PARAMS": "parameters stay on the device",
    "FSDP_ACTIVATION_CHECKPOINTING": "maps are kept for the backward pass",
}
_OTHERS = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}


@dataclass(frozen=True)
class ShardingSettings:
    """How processes split a network.

    Attributes:
        reshard: binary layers free their gathered weight between forward and backward pass.
    """

    reshard: bool = True


def flag(variable: str) -> bool:
    """The value of an environment variable of accelerate; False if it is not set.

    Raises:
        ConfigError: it is neither yes nor no.
    """
    try:
        return parse_flag_from_env(variable)
    except ValueError as error:
        given = os.environ.get(variable)
        raise ConfigError(f"the environment says {variable}={given!r}; expected 0 or 1.") from error


def on_cpu() -> bool:
    """Whether to train on the CPU: there is no accelerator, or ACCELERATE_USE_CPU=1.

    Raises:
        ConfigError: the variable is neither yes nor no.
    """
    return flag(_CPU) or not torch.accelerator.is_available()


def devices() -> list[str]:
    """Names of the devices that are here: `cpu`, and `mps` or `cuda:0`, `cuda:1`..."""
    kind = torch.accelerator.current_accelerator()
    if kind is None or not torch.accelerator.is_available():
        return ["cpu"]
    count = torch.accelerator.device_count()
    return ["cpu", kind.type] if kind.type == "mps" else ["cpu", *(f"{kind.type}:{i}" for i in range(count))]


def device() -> torch.device:
    """Where a network runs: what `on_device` chose, else the accelerator, else the CPU."""
    kind = None if on_cpu() else torch.accelerator.current_accelerator()
    if kind is None:
        return torch.device("cpu")
    return torch.device(os.environ.get(_DEVICE, kind.type))


@contextmanager
def on_device(name: str | None) -> Iterator[None]:
    """Use one device, whatever the environment says; None for what it says.

    Args:
        name: `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        ConfigError: there is no such device here, or a number is given where there are several processes.
    """
    if name is None:
        yield
        return
    known = devices()
    if name not in {*known, *(device.partition(":")[0] for device in known)}:
        raise ConfigError(f"--device {name}: there is no such device here; there is {', '.join(known)}.")
    if ":" in name and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"--device {name}: of several processes each takes a device of its own; give "
            f"{name.partition(':')[0]}."
        )
    before = {variable: os.environ.get(variable) for variable in (_CPU, _DEVICE)}
    os.environ[_CPU] = "1" if name == "cpu" else "0"
    os.environ.pop(_DEVICE, None)
    if ":" in name:
        os.environ[_DEVICE] = name
    _forget_device(name)
    try:
        yield
    finally:
        for variable, value in before.items():
            os.environ.pop(variable, None)
            if value is not None:
                os.environ[variable] = value


def _forget_device(name: str) -> None:
    """Let accelerate choose again, where an earlier run of this process used another device."""
    known = PartialState._shared_state.get("device")
    alone = PartialState._shared_state.get("num_processes", 1) == 1
    if known is not None and alone and torch.device(name) != known:
        AcceleratorState._reset_state(reset_partial_state=True)


def requested_sharding() -> ShardingSettings | None:
    """How the environment asks to split the network; None where every process holds all of it.

    Raises:
        ConfigError: it asks for FSDP's first version, for an option of FSDP that is not offered here, or for
            DeepSpeed, Megatron-LM or a parallelism config.
    """
    for variable, name in _OTHERS.items():
        if flag(variable):
            raise ConfigError(
                f"train: accelerate is set to {name} ({variable}={os.environ[variable]}), which is not "
                "offered here. Choose plain multi-GPU or FSDP 2 in `accelerate config`, or start it with "
                "`torchrun --nproc-per-node N -m binarize train ...`."
            )
    if not flag(_FSDP):
        return None
    if (version := os.environ.get("FSDP_VERSION", "2")) != "2":
        raise ConfigError(
            f"train: accelerate is set to version {version} of FSDP (FSDP_VERSION={version}); expected 2: "
            "`accelerate launch --use_fsdp --fsdp_version 2`, or fsdp_version: 2 in its configuration."
        )
    for variable, instead in _NOT_OFFERED.items():
        if flag(variable):
            raise ConfigError(
                f"train: accelerate's environment says {variable}={os.environ[variable]}, which is not "
                f"offered here: {instead}. Set it to false."
            )
    # FSDP 1 has other values for this variable (FULL_SHARD and the like); they do not concern FSDP 2
    given = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower()
    return ShardingSettings(reshard=given not in ("false", "0", "no"))


@contextmanager
def fsdp_hidden_from_accelerate() -> Iterator[None]:
    """Hide the request for FSDP from accelerate: its own wrapping needs a GPU and ignores binary layers."""
    value = os.environ.pop(_FSDP, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[_FSDP] = value
