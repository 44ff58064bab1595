"""A copy of a network that shares its tensors: torch's exporter puts its own into the modules it runs."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from binarize.runtime.program.reasons import NoProgramError


def twin(model: nn.Module) -> nn.Module:
    """Modules and attributes are copies, parameters, buffers and other tensors are the model's own.

    While the exporter runs, for seconds, fake tensors lie in the tables of its modules; calls of the model by
    other threads must not see them.

    Raises:
        NoProgramError: something that an attribute holds cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers, module.__dict__):
            memo |= {id(held): held for held in table.values() if isinstance(held, Tensor)}
    for name in (
        "binarize_plan",
        "binarize_spec",
        "deploy_report",
    ):  # large, and nothing that a forward reads
        if (held := model.__dict__.get(name)) is not None:
            memo[id(held)] = held
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever code of a network raises
        raise NoProgramError(f"it cannot be copied: {type(error).__name__}: {error}") from error
