"""How good predictions are, over a whole data set, in one process or many (torchmetrics adds them up)."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from binarize.data.classes import Classes
from binarize.data.dataset import IGNORE, Depth, Labels
from binarize.errors import ConfigError


class SegmentationMetric:
    """Pixel accuracy and mIoU over all pixels of a data set.

    IoU_c = n_cc / (sum_j n_cj + sum_j n_jc - n_cc), n_ij pixels of class i predicted as j; mIoU is the mean
    over the classes that occur in truth or predictions, but for those that the data set does not score.

    Args:
        labels: of the data set.
        classes: outputs of the network, at least as many as the data set has.
    """

    def __init__(self, labels: Labels, classes: int | None = None) -> None:
        self.labels = labels
        self.classes = len(labels.names) if classes is None else classes
        if self.classes < len(labels.names):
            raise ConfigError(
                f"the network has {self.classes} classes, the data set has {len(labels.names)}; set "
                f"num_classes={len(labels.names)}."
            )
        # the last one for outputs beyond those listed
        self._matrix = MulticlassConfusionMatrix(self.classes + 1, ignore_index=IGNORE, validate_args=False)

    def to(self, device: torch.device) -> SegmentationMetric:
        """Where predictions are."""
        self._matrix = self._matrix.to(device)
        return self

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add predictions.

        Args:
            output: logits (N, classes, H, W) or class ids (N, H, W).
            target: class ids (N, H, W) int64, `IGNORE` where they do not count.
        """
        predicted = output.argmax(1) if output.dim() == target.dim() + 1 else output
        self._matrix.update(predicted.clamp_max(self.classes), target)

    def compute(self) -> dict[str, Any]:
        """`miou`, `pixel_accuracy` in [0, 1]; `class_iou` by name; `absent`; `pixels`, how many count.

        The IoU of a class that occurs nowhere is None, as are all figures of no pixel. `absent` names the
        scored classes that the truth does not hold.
        """
        with warnings.catch_warnings():  # where nothing was counted: here that is a result
            warnings.simplefilter("ignore")
            counts = self._matrix.compute()  # always: the other processes wait for it
        counts = counts.double().cpu()
        hits, truth, predicted = counts.diag(), counts.sum(1), counts.sum(0)
        union = truth + predicted - hits
        scored = [i for i in range(len(self.labels.names)) if i not in self.labels.unscored]
        ious = {i: (hits[i] / union[i]).item() if union[i] > 0 else None for i in scored}
        found = [iou for iou in ious.values() if iou is not None]
        total = counts.sum().item()
        return {
            "miou": sum(found) / len(found) if found and total else None,
            "pixel_accuracy": hits.sum().item() / total if total else None,
            "class_iou": {self.labels.names[i]: iou for i, iou in ious.items()},
            "absent": [self.labels.names[i] for i in scored if truth[i] == 0],
            "pixels": int(total),
        }


class ClassificationMetric(Metric):
    """Top-1 and top-5 accuracy, and which class was taken for which, over all images of a data set.

    Top-k: share of images whose class is among the k highest logits; of equal ones the first classes count.

    Args:
        classes: of the data set.
    """

    full_state_update = False
    confusion: Tensor
    within_five: Tensor

    def __init__(self, classes: Classes) -> None:
        super().__init__()
        self.classes = classes
        n = len(classes.names)
        self.add_state("confusion", torch.zeros(n, n, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("within_five", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add predictions.

        Args:
            output: logits (N, classes).
            target: class ids (N,) int64.

        Raises:
            ConfigError: another number of logits than of classes.
        """
        n = len(self.classes.names)
        if output.dim() != 2 or output.shape[1] != n:
            raise ConfigError(
                f"the network gives a tensor {tuple(output.shape)}, the data set has {n} classes: expected "
                f"logits (N, {n})."
            )
        # by a stable sort: which of several equal logits counts must not depend on the device
        order = output.sort(dim=1, descending=True, stable=True).indices
        pairs = target * n + order[:, 0]
        self.confusion += torch.bincount(pairs, minlength=n * n).view(n, n)
        self.within_five += (order[:, :5] == target[:, None]).any(1).sum()

    def compute(self) -> dict[str, Any]:
        """`top1` and `top5` in [0, 1], `class_accuracy` by name, `absent`, `confusion`, `images`.

        With at most five classes every image is among the first five: `top5` is None there. `confusion` has
        for each class of the truth the number of images by predicted class, without those that are 0. All
        figures of no image are None.
        """
        counts = self.confusion.cpu()
        names, total = self.classes.names, int(counts.sum())
        truth = counts.sum(1).tolist()
        hits = counts.diag().tolist()
        rows = {
            name: {names[j]: int(row[j]) for j in row.nonzero().flatten().tolist()}
            for name, row in zip(names, counts, strict=True)
        }
        return {
            "top1": sum(hits) / total if total else None,
            "top5": int(self.within_five) / total if total and len(names) > 5 else None,
            "class_accuracy": {n: h / t if t else None for n, h, t in zip(names, hits, truth, strict=True)},
            "absent": [name for name, t in zip(names, truth, strict=True) if not t],
            "confusion": {name: row for name, row in rows.items() if row},
            "images": total,
        }


_DEPTH = (*("delta1", "delta2", "delta3", "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog"),)


class DepthMetric(Metric):
    """Means over images of each image's figures over its valid pixels, as Eigen et al. (2014) and BTS.

    With prediction p (clamped to the range), truth t, d = ln p - ln t: delta_k = share of max(p/t, t/p) <
    1.25^k; abs_rel = mean |p - t| / t; sq_rel = mean (p - t)^2 / t; rmse = sqrt(mean (p - t)^2); rmse_log =
    sqrt(mean d^2); log10 = mean |log10 p - log10 t|; silog = 100 sqrt(mean d^2 - (mean d)^2).

    Args:
        depth: of the data set: which truths count.
    """

    full_state_update = False
    sums: Tensor
    images: Tensor

    def __init__(self, depth: Depth) -> None:
        super().__init__()
        self.depth = depth
        self.add_state("sums", torch.zeros(len(_DEPTH), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add predictions.

        Args:
            output: metres (N, 1, H, W) or (N, H, W).
            target: metres (N, H, W), 0 where there is none.
        """
        predicted = output.reshape(target.shape)
        for p, t in zip(predicted, target, strict=True):
            valid = (t > self.depth.least) & (t <= self.depth.most)
            if bool(valid.any()):
                self.sums += depth_figures(p[valid].clamp(self.depth.least, self.depth.most), t[valid])
                self.images += 1

    def compute(self) -> dict[str, Any]:
        """By name; None if no image has a valid pixel. `images` says how many have."""
        count = int(self.images)
        means = (self.sums / max(count, 1)).tolist()
        return {**{k: v if count else None for k, v in zip(_DEPTH, means, strict=True)}, "images": count}


def depth_figures(p: Tensor, t: Tensor) -> Tensor:
    """The figures of `DepthMetric` of one image, float64.

    Args:
        p: predictions, positive metres (n,), n >= 1.
        t: truth.
    """
    p, t = p.double(), t.double()
    ratio = torch.maximum(p / t, t / p)
    d = p.log() - t.log()
    squares = (p - t).square()
    return torch.stack(
        [
            *((ratio < 1.25**k).double().mean() for k in (1, 2, 3)),
            ((p - t).abs() / t).mean(),
            (squares / t).mean(),
            squares.mean().sqrt(),
            d.square().mean().sqrt(),
            d.abs().mean() / torch.log(torch.tensor(10.0, dtype=torch.float64)),
            100.0 * (d.square().mean() - d.mean().square()).clamp_min(0.0).sqrt(),
        ]
    )
