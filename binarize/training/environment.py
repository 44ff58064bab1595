"""What accelerate's environment variables ask for: the CPU, or a network that is split by FSDP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate.utils import parse_flag_from_env

from binarize.errors import ConfigError

_FSDP = "ACCELERATE_USE_FSDP"
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
    return flag("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


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
