"""Writes a checkpoint into the run's folder: log, network and state."""

from __future__ import annotations

import json

import torch

from binarize import files
from binarize.training.folder import LOG, MODEL, STATE
from binarize.training.metadata import file_metadata
from binarize.training.run import Run
from binarize.training.state import collect_state, save_state


def save(run: Run) -> None:
    """Write the present state of a run. All processes have to call this; the main one writes.

    Raises:
        ConfigError: a file cannot be written, or the disk is full.
    """
    out, main = run.out, run.is_main
    state = collect_state(run.net, run.optimizer, run.averaged, wanted=main)
    with run.strategy.whole_network(run.averaged, torch.device("cpu"), wanted=main) as net:
        if main:
            lines = "".join(json.dumps(line) + "\n" for line in run.progress.history)
            files.write_bytes(out / LOG, lines.encode())
            source = getattr(net, "binarize_spec", None)
            files.save(net, out / MODEL, source=source, entries=file_metadata(run.recipe, run.data.truth))
            # Last: what is newer than the state is written again when the run is resumed from it.
            save_state(out / STATE, run.recipe.model_dump(mode="json"), run.progress, state)
    run.accelerator.wait_for_everyone()  # a process that ends now would take down the one that writes
