"""What differs between the tasks, an object for each: all else in `training` is the same for all of them."""

from __future__ import annotations

from typing import Any

from binarize.data.dataset import Truth
from binarize.training.tasks.base import Task
from binarize.training.tasks.classification import ClassificationTask
from binarize.training.tasks.depth import DepthTask
from binarize.training.tasks.segmentation import SegmentationTask

__all__ = ["TASKS", "Task", "task_of"]

TASKS: dict[str, Any] = {task.name: task for task in (SegmentationTask, DepthTask, ClassificationTask)}
"""By the name that the truth of a data set has for its task."""


def task_of(truth: Truth) -> Task:
    """The task that the truth of a data set makes."""
    return TASKS[truth.task](truth)
