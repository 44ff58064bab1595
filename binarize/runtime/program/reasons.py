"""Why a network has no program for some inputs."""

from __future__ import annotations


class NoProgramError(Exception):
    """A network on these inputs has no program; the message says why."""
