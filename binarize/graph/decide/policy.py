"""Which layers are converted, and the reason for each other one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import fx, nn

from binarize.errors import ConfigError, near_names
from binarize.graph.decide.position import Position
from binarize.graph.plan_sentences import Code, Statement
from binarize.graph.trace.dataflow import Flow
from binarize.graph.trace.roles import module_role


@dataclass(frozen=True)
class Policy:
    """What to keep in float. A glob matches a layer's name or that of a module around it.

    Attributes:
        keep: globs of layers to keep in float.
        only: globs; if given, no other layer is converted.
        first: layers to keep at the input: 1 keeps the convolutions that see the image, 0 none.
        last: layers to keep at the output: 1 keeps the final classifiers and regressors, 0 none.
    """

    keep: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    first: int = 1
    last: int = 1

    def __post_init__(self) -> None:
        for name in ("keep", "only"):
            given: Any = getattr(self, name)
            listed = isinstance(given, Iterable) and not isinstance(given, (str, bytes))
            given = tuple(given) if listed else given
            if not listed or not all(isinstance(glob, str) for glob in given):
                raise ConfigError(f"policy: {name}={given!r}, expected a list of globs such as ['layer4.*'].")
            object.__setattr__(self, name, given)
        for name in ("first", "last"):
            given = getattr(self, name)
            if not isinstance(given, int) or given < 0:
                raise ConfigError(f"policy: {name}={given!r}, expected a number of layers, 0 or more.")
            object.__setattr__(self, name, int(given))

    def as_dict(self) -> dict[str, Any]:
        """As plain values for JSON; `from_dict` is the inverse."""
        return {"keep": list(self.keep), "only": list(self.only), "first": self.first, "last": self.last}

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> Policy:
        """The inverse of `as_dict`."""
        return cls(
            **{field.name: given[field.name] for field in dataclasses.fields(cls) if field.name in given}
        )

    def check(self, names: Iterable[str]) -> None:
        """Refuse globs that match none of `names`.

        Raises:
            ConfigError: naming the glob and the layers that look like it.
        """
        known = list(names)
        for option in ("keep", "only"):
            for glob in getattr(self, option):
                if any(matches(name, (glob,)) for name in known):
                    continue
                near = near_names(glob, known)
                hint = "near: " + ", ".join(near) if near else f"for example: {', '.join(known[:3])}"
                raise ConfigError(f"{option} {glob!r} matches none of the {len(known)} layers ({hint}).")


def matches(name: str, globs: Sequence[str]) -> bool:
    """Whether a glob fits `name` or one of the modules around it."""
    parts = name.split(".")
    around = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return any(fnmatchcase(candidate, glob) for glob in globs for candidate in around)


def named_reason(name: str, policy: Policy) -> Statement | None:
    """Why the policy keeps a layer of this name in float, whatever its position, or None."""
    if policy.only and not matches(name, policy.only):
        return Statement(Code.NOT_NAMED)
    return Statement(Code.KEPT_BY_NAME) if matches(name, policy.keep) else None


def place_reason(
    nodes: Sequence[fx.Node], module: nn.Module, policy: Policy, flow: Flow, position: Position
) -> Statement | None:
    """Why the policy keeps a layer in float for its position in the network, or None if it converts it.

    Args:
        nodes: the layer's calls.
        module: the layer.
        policy: of the user.
        flow: of the model.
        position: of the same flow.
    """
    node = nodes[0]
    if all(call.meta["constant"] for call in nodes):
        return Statement(Code.SEES_PARAMETERS)
    depth = min(position.depth(call) for call in nodes if not call.meta["constant"])
    if policy.first and depth <= policy.first:
        return Statement(Code.STEM) if depth == 1 else Statement(Code.FIRST_LAYERS, policy.first)
    heights = [height for call in nodes if (height := position.height(call)) is not None]
    height = min(heights, default=None)
    if policy.last and height is not None and height <= policy.last:
        return Statement(Code.FINAL) if height == 1 else Statement(Code.LAST_LAYERS, policy.last)
    if height != 1 and position.pooled(node) and not position.spreads(node):
        return Statement(Code.GATE if position.gates(node) else Code.POOLED)
    if module_role(module) == "linear" and len(node.meta.get("input_shape", ())) < 2:
        return Statement(Code.NO_BATCH)
    return None
