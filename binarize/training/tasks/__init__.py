"""What differs between the tasks, an object for each: all else in `training` is the same for all of them."""

from __future__ import annotations

from binarize.data.dataset import Depth, Truth
from binarize.training.tasks.base import Task
from binarize.training.tasks.depth import DepthTask
from binarize.training.tasks.segmentation import SegmentationTask

__all__ = ["TASKS", "Task", "task_of"]

TASKS: dict[str, type[Task]] = {"segmentation": SegmentationTask, "depth": DepthTask}
"""By the name that the truth of a data set has for its task."""


def task_of(truth: Truth) -> Task:
    """The task that the truth of a data set makes."""
    return DepthTask(truth) if isinstance(truth, Depth) else SegmentationTask(truth)
