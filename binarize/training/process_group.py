"""The end of the process group: when it is destroyed, and when it is left as it is."""

from __future__ import annotations

import atexit
import gc

from accelerate import PartialState
from torch import distributed


def joined() -> bool:
    """Whether this process belongs to a process group."""
    return distributed.is_available() and distributed.is_initialized()


def destroy_group_at_exit() -> None:
    """Wait for all processes, and destroy their group when this one ends, whoever made it.

    Without a group nothing happens. Call it when the common work ended well: destroying the group waits for
    what is under way, which after an error may never end. A process that just ends takes down those that
    still talk to it, and at times itself: a thread of gloo frees the last tensors, finds that the
    interpreter is gone and aborts.
    """
    if joined():
        PartialState().wait_for_everyone()
        keep_group_at_exit()  # registered once
        atexit.register(_destroy_group)


def keep_group_at_exit() -> None:
    """Take back `destroy_group_at_exit`: what the processes do from now on may end with an error."""
    atexit.unregister(_destroy_group)


def _destroy_group() -> None:
    gc.collect()  # gloo's threads end with the last object that holds the group, such as a network's wrapper
    if joined():
        distributed.destroy_process_group()
