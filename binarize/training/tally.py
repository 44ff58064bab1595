"""What the truths of an epoch hold, as the network sees them: whether there is anything to learn."""

from __future__ import annotations

import torch
from torch import Tensor

from binarize.data.dataset import IGNORE, DenseDataset, Depth
from binarize.data.findings import FEW, Finding, absent
from binarize.data.survey import nothing
from binarize.errors import warn
from binarize.training.distributed import all_sum


class Tally:
    """Counts over the truths of one epoch, of all processes together.

    Args:
        data: the training split.
        where: what to call it in messages.
        known: kinds of what was warned of already.
    """

    def __init__(self, data: DenseDataset, where: str, known: set[str]) -> None:
        self._data, self._where, self._known = data, where, known
        self._counts = torch.zeros(IGNORE + 2, dtype=torch.float64)  # of each id; pixels that count, of depth
        self._logs = torch.zeros(2, dtype=torch.float64)  # of depths: sums of logarithms and of their squares

    def add(self, targets: Tensor) -> None:
        """Count truths (N, H, W): class ids int64 or metres float32, on the CPU."""
        truth = self._data.truth
        if isinstance(truth, Depth):
            known = (targets > truth.least) & (targets <= truth.most)
            valid, logs = int(known.sum()), targets[known].double().log()
            self._counts[0] += valid
            self._logs += torch.stack([logs.sum(), logs.square().sum()])
            self._counts[IGNORE] += targets.numel() - valid
        else:
            self._counts[: IGNORE + 1] += torch.bincount(targets.flatten(), minlength=IGNORE + 1)

    def check(self, device: torch.device) -> Tensor:
        """Warn of what the epoch did not hold; all processes have to call this.

        Args:
            device: where processes exchange their counts.

        Returns:
            Pixels of each class; of depths, their number, and sums of logarithms and of their squares.


        Raises:
            DataError: not one pixel counted.
        """
        counts = all_sum(self._counts.to(device, torch.float32)).cpu()
        truth, known = self._data.truth, counts[:IGNORE].sum().item()
        if not known:
            raise nothing(self._data, self._where, "data.augmentation")
        found: list[Finding | None] = []
        if (share := known / counts.sum().item()) < FEW:
            text = f"{self._where}: only {100 * share:.2g} % of the pixels of an epoch have a truth."
            found.append(Finding("few", text))
        if not isinstance(truth, Depth):
            found.append(absent(truth, counts, self._where, of_epoch=True))
        for finding in found:
            if finding is not None and finding.kind not in self._known:
                warn(finding.message)
        if isinstance(truth, Depth):
            return torch.cat([counts[:1], all_sum(self._logs.to(device, torch.float32)).cpu()])
        return counts[: len(truth.names)]
