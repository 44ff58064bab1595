"""The role of a layer in its block, by its name; blocks that repeat have numbers in their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

OTHERS = "other layers"
MOST_ROLES = 5
"""Roles that get a colour of their own; layers of rarer ones are `OTHERS`."""


def role_of(name: str) -> str:
    """What stands behind the last numbered part of a path: `mlp.fc1` of `stages.0.blocks.1.mlp.fc1`.

    Numbers at the end do not count (`stages_1.downsample.1`: `downsample`). Layers whose path has no number
    elsewhere have the whole path as their role.
    """
    parts = name.split(".")
    while len(parts) > 1 and parts[-1].isdigit():
        parts.pop()
    numbered = [i for i, part in enumerate(parts[:-1]) if re.search(r"\d$", part) and _counts(part)]
    return ".".join(parts[numbered[-1] + 1 :]) if numbered else ".".join(parts)


def block_of(name: str) -> str:
    """The block that a layer belongs to: its path up to the last number, or to the last dot."""
    role = role_of(name)
    stem = re.sub(r"(\.\d+)+$", "", name)
    block = stem.removesuffix(role).rstrip(".")
    return block or name.rpartition(".")[0] or name


def roles_of(names: Sequence[str]) -> list[str]:
    """The role of each layer; of layers whose role is among the rarer ones, `OTHERS`."""
    found = [role_of(name) for name in names]
    counts = Counter(found)
    frequent = {role for role, count in counts.most_common(MOST_ROLES) if count > 1}
    return [role if role in frequent else OTHERS for role in found]


def _counts(part: str) -> bool:
    """Whether a part of a path is a number, or ends in one behind letters (`stages_1`, `layer2`)."""
    return part.isdigit() or re.fullmatch(r"(stages?|layers?|blocks?|units?|s|b)_?\d+", part) is not None
