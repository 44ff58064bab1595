"""What is compared: the packed network, and its float network as torch or other programs run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from binarize.bench import rivals
from binarize.bench.agreement import check
from binarize.bench.measure import Variant
from binarize.bench.rivals import RIVALS, FloatNetwork
from binarize.bench.rivals.float_network import tensors
from binarize.errors import ConfigError, first_line, unknown_name
from binarize.graph.model_copy import copied

_TORCH = ("eager", "channels_last", "compile", "bf16")
BASELINES = (*_TORCH, *RIVALS)
"""eager: as it is. channels_last: maps with channels last in memory. compile: torch.compile with weights
frozen into the program, torch's fastest float32. bf16: channels_last under autocast to bfloat16. The others:
`binarize.bench.rivals.RIVALS`."""


def check_baselines(names: Sequence[str]) -> None:
    """Refuse what cannot be timed on this machine, before any work.

    Raises:
        ConfigError: an unknown name, or a rival whose packages or instructions are missing.
    """
    for name in names:
        if name not in BASELINES:
            raise ConfigError(unknown_name("baseline", name, BASELINES))
        if name in RIVALS and (reason := rivals.why_not(name)):
            raise ConfigError(f"bench: no {name} here: {reason}.")


def variants(
    packed: nn.Module | Mapping[str, nn.Module],
    plain: nn.Module,
    x: Tensor,
    against: Sequence[str],
    *,
    failed: dict[str, str] | None = None,
) -> list[Variant]:
    """The packed network first, then the baselines; each takes no argument and gives an output.

    Baselines are compiled and their outputs compared with the float network's (`binarize.bench.agreement`).

    Args:
        packed: deployed network, called `packed`; or several by name.
        plain: the float network of the same architecture; its weights do not matter for time.
        x: images (N, C, H, W).
        against: names of `BASELINES`.
        failed: gets the reason for each baseline that cannot run the network or computes something else; it
            is left out then. An error if None.

    Raises:
        ConfigError: as `check_baselines`; a baseline that fails, if `failed` is None.
    """
    check_baselines(against)
    last = x.contiguous(memory_format=torch.channels_last)
    networks = packed if isinstance(packed, Mapping) else {"packed": packed}
    made = [Variant(name, model, _passes(model, last)) for name, model in networks.items()]
    network = FloatNetwork(plain, x)
    try:
        for name in against:
            try:
                made.append(_baseline(name, network, last))
            except Exception as error:  # of any of these programs
                reason = str(error) if isinstance(error, ConfigError) else _described(error)
                if failed is None:
                    raise ConfigError(f"bench: {name} cannot be timed: {reason.rstrip('.')}.") from error
                failed[name] = reason.rstrip(".")
    finally:
        network.close()
    return made


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)[:200]}"


def _baseline(name: str, network: FloatNetwork, last: Tensor) -> Variant:
    """The float network as the baseline runs it; `last`: the images with channels last."""
    if name in RIVALS:
        program = rivals.program(name, network)
        run, outputs = program.run, program.outputs
        run()
        form = "int8" if name.endswith("-int8") else "bfloat16" if name.endswith("-bf16") else "float32"
        return Variant(name, network.model, run, check(outputs(), network.outputs, form))
    makers: dict[str, Callable[[], Callable[[], Any]]] = {
        "eager": lambda: _passes(network.model, network.x),
        "channels_last": lambda: _passes(_channels_last(network.model), last),
        "compile": lambda: _compiled(copied(network.model), network.x),
        "bf16": lambda: _bf16(_channels_last(network.model), last),
    }
    run = makers[name]()
    with torch.inference_mode():
        found = [tensor.float() for tensor in tensors(run())]
    form = "bfloat16" if name == "bf16" else "float32"
    return Variant(name, network.model, run, check(found, network.outputs, form))


def _channels_last(model: nn.Module) -> nn.Module:
    return copied(model).to(memory_format=torch.channels_last)


def _passes(model: nn.Module, x: Tensor) -> Callable[[], Any]:
    return lambda: model(x)


def _bf16(model: nn.Module, x: Tensor) -> Callable[[], Any]:
    def run() -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    return run


def _compiled(model: nn.Module, x: Tensor) -> Callable[[], Any]:
    import torch._inductor.config as inductor

    program = torch.compile(model)

    def run() -> Any:
        with inductor.patch(freezing=True):
            return program(x)

    return run
