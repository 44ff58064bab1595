"""What each process of sharded trainings does; argument: as JSON, a list of runs, one after the other."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import last_threads
import small_net
import torch
from torch.distributed.tensor import DTensor

from binarize import recipes
from binarize.training import setup
from binarize.training.loop import Event, StoppedError, train

WATCH = setup.LatentWatch


def run(out: str, values: dict[str, Any], how: str, environment: dict[str, str]) -> None:
    """Train one recipe into the folder `out`."""
    os.environ.update(environment)
    seen: list[float] = []

    class Watch(WATCH):
        def __init__(self, net: torch.nn.Module) -> None:
            super().__init__(net)
            parameters = list(net.parameters())
            assert all(isinstance(p, DTensor) == (how != "unsplit" and p.dim() > 0) for p in parameters)
            own = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in parameters)
            seen.append(own / sum(p.numel() for p in parameters))

    setup.LatentWatch = Watch  # type: ignore[misc]

    def press(event: Event) -> None:
        if how == "stop" and (event.epoch, event.step) == (1, 1):
            signal.raise_signal(signal.SIGINT)

    recipe = recipes.validate(values, "a test")
    try:
        train(recipe, Path(out), resume=how == "resume", report=press)
    except StoppedError:
        assert how == "stop"
    else:
        assert how != "stop"
    assert torch.distributed.get_world_size() == 2
    assert seen == [1.0] if how == "unsplit" else 0.4 < seen[0] < 0.6, seen  # its share of the weights


if __name__ == "__main__":
    assert small_net.values
    last_threads.watch()
    for each in json.loads(sys.argv[1]):
        run(**each)
