"""What is compared: the packed network, and its float network under several settings of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from binarize.bench.measure import Variant
from binarize.errors import ConfigError, unknown_name
from binarize.graph.model_copy import copied

BASELINES = ("eager", "channels_last", "compile", "bf16")
"""eager: as it is. channels_last: maps with channels last in memory. compile: torch.compile with weights
frozen into the program, the strongest float baseline. bf16: channels_last under autocast to bfloat16."""


def variants(packed: nn.Module, plain: nn.Module, x: Tensor, against: Sequence[str]) -> list[Variant]:
    """The packed network first, then the baselines; each takes no argument and gives an output.

    Args:
        packed: deployed network.
        plain: the float network of the same architecture; its weights do not matter for time.
        x: images (N, C, H, W).
        against: names of `BASELINES`.

    Raises:
        ConfigError: an unknown name.
    """
    for name in against:
        if name not in BASELINES:
            raise ConfigError(unknown_name("baseline", name, BASELINES))
    last = x.contiguous(memory_format=torch.channels_last)
    made = [Variant("packed", packed, lambda: packed(last))]
    plain = plain.eval().requires_grad_(False)
    makers: dict[str, Callable[[], Callable[[], Tensor]]] = {
        "eager": lambda: _plain(plain, x),
        "channels_last": lambda: _plain(copied(plain).to(memory_format=torch.channels_last), last),
        "compile": lambda: _compiled(copied(plain), x),
        "bf16": lambda: _bf16(copied(plain).to(memory_format=torch.channels_last), last),
    }
    made += [Variant(name, plain, makers[name]()) for name in against]
    return made


def _plain(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    return lambda: model(x)


def _bf16(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    return run


def _compiled(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    import torch._inductor.config as inductor

    program = torch.compile(model)

    def run() -> Tensor:
        with inductor.patch(freezing=True):
            return program(x)

    return run
