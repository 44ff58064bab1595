"""Parameters under the convention `paper`; the rules are listed in `binarize.accounting.paper`."""

from __future__ import annotations

from binarize.accounting.record import Recording
from binarize.accounting.tally import Tally


def count_state(tally: Tally, recording: Recording, final: str | None) -> None:
    """Add all that the state dict holds, as often as its module is called.

    Args:
        tally: receives the counts.
        recording: holds how often.
        final: path of the layer whose weight counts as binary although it is float, or None.
    """
    for path, name, parameter, binary in tally.parameters():
        times = max(1, recording.calls[tally.owner(path)])
        if binary or (path == final and name == "weight"):
            tally.at(path).binary_params += times * parameter.numel() * (tally.bits(path)[0] or 1)
        else:
            tally.at(path).float_params += times * parameter.numel()
    for path, module in tally.modules.items():
        times = max(1, recording.calls[tally.owner(path)])
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                tally.at(path).float_params += times * buffer.numel()
