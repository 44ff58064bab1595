"""Whether the installed torch traces modules at all: a plan without a rewrite must not look fine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from binarize.errors import TraceError
from binarize.graph.trace.module_graph import Signature, for_both_modes, trace_module
from binarize.graph.trace.recording import Recording

OLDEST_TORCH = "2.9"
NEWEST_TORCH = "2.14"
_MANY = 10  # if at most one in this many modules was traced, nearly every one failed


class _Plain(nn.Module):
    """A module that every supported torch traces: a parameter, a child, a sum in place, default arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.child = nn.Identity()

    def forward(self, x: Tensor, shift: float = 0.5, *, flat: bool = False) -> Tensor:
        y = self.child(x) * self.scale
        y += shift
        return torch.relu(y)


def check_tracing(recording: Recording) -> None:
    """If almost no module could be traced, find out whether the modules or the installed torch is the cause.

    Raises:
        TraceError: a module of a few plain steps cannot be traced either.
    """
    failed, traced = len(recording.opaque), len(recording.module_graphs)
    if not failed or traced * (_MANY - 1) > failed:
        return
    with torch.device("cpu"):
        plain = _Plain()
    try:
        for_both_modes(plain, trace_module(plain, Signature(fixed=("flat",)), frozenset({"shift"})))
    except TraceError as error:
        following = f"{NEWEST_TORCH.split('.')[0]}.{int(NEWEST_TORCH.split('.')[1]) + 1}"
        raise TraceError(
            f"torch {torch.__version__} traces no module: {failed} of the {failed + traced} that were tried "
            f"failed, and so does one of a few plain steps ({error}). binarize is tested with torch "
            f"{OLDEST_TORCH} to {NEWEST_TORCH}: pip install 'torch>={OLDEST_TORCH},<{following}'."
        ) from None
