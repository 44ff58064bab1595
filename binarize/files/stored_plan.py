"""The second step of loading: the plan that a header holds, executed on the float network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from binarize.errors import BinarizeError, ConfigError, FormatError
from binarize.files.build_contexts import BoundedMemory, memory_bound
from binarize.files.header import Header
from binarize.layers import BinaryLayer
from binarize.model_info import qualified_name

if TYPE_CHECKING:
    from binarize.graph import Plan

_WEIGHTS = "binarize.weights"
"""A text entry of a file's header: `float` if binary layers compute with their latent weights."""


def stored_plan(header: Header, where: str) -> Plan | None:
    """The plan in a header; None for that of a float network.

    Raises:
        FormatError: if it cannot be read.
    """
    if header.plan is None:
        return None
    from binarize.graph import Plan

    try:
        return Plan.from_dict(dict(header.plan))
    except (BinarizeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{where}: the plan in its header cannot be read: {error}") from error


def apply_plan(plan: Plan | None, network: nn.Module, held: int, where: str) -> nn.Module:
    """The network with the plan of a file executed on it, in place, within the memory that the file asks for.

    Args:
        plan: None for nothing.
        network: the float network.
        held: how many numbers the file holds.
        where: names the file in messages.

    Raises:
        FormatError: the plan does not fit the network.
    """
    try:
        with BoundedMemory(memory_bound(held)):
            return executed(plan, network)
    except Exception as error:  # a plan from a file may be wrong in any way
        raise FormatError(
            f"{where}: its plan cannot be executed on {qualified_name(network)}: {error}"
        ) from error


def executed(plan: Plan | None, network: nn.Module) -> nn.Module:
    """`network`, changed in place as the plan says; without a plan as it is."""
    if plan is None:
        return network
    from binarize.graph import execute

    return execute(plan, network, copy=False)


def check_converted_once(model: nn.Module, plan: Plan | None) -> None:
    """Refuse a model that no single plan rebuilds.

    Raises:
        ConfigError: it was converted twice: a layer that its plan leaves alone is binary.
    """
    if plan is None:
        return
    from binarize.runtime import PackedLayer

    modules = dict(model.named_modules(remove_duplicate=False))
    made = {id(modules.get(row.name)) for row in plan.converted}  # one module may have several names
    kept = [modules.get(row.name) for row in plan.rows if not row.converted]
    if any(isinstance(layer, (BinaryLayer, PackedLayer)) and id(layer) not in made for layer in kept):
        raise ConfigError(
            f"{type(model).__name__} was converted twice, and a file holds one conversion: convert the float "
            "model once, with Policy(keep=...) for what is to stay float."
        )


def weights_entry(model: nn.Module) -> dict[str, str]:
    """The text in a file's header for a network whose activations alone are binary; else nothing."""
    from binarize.layers.float_weights import has_float_weights

    return {_WEIGHTS: "float"} if has_float_weights(model) else {}


def leave_weights_float(network: nn.Module, metadata: Mapping[str, str]) -> None:
    """Let the weights of a rebuilt network stay float if its file says so, in place."""
    from binarize.layers.float_weights import use_float_weights

    if metadata.get(_WEIGHTS) == "float":
        use_float_weights(network)
