"""Figures against the same formulas written with numpy, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from binarize.data.dataset import IGNORE, Depth, Labels
from binarize.errors import ConfigError
from binarize.training.losses import SegmentationLoss, SiLog
from binarize.training.metrics import DepthMetric, SegmentationMetric

DEPTH = Depth(scale=1000.0, most=10.0)


def labels(count: int, unscored: tuple[int, ...] = ()) -> Labels:
    return Labels(names=tuple(f"c{i}" for i in range(count)), unscored=unscored)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    classes=st.integers(2, 6),
    used=st.integers(1, 6),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    unscored=st.booleans(),
)
def test_miou_by_numpy(seed: int, classes: int, used: int, ignored: float, unscored: bool) -> None:
    random = np.random.default_rng(seed)
    truth = random.integers(0, min(used, classes), (3, 5, 4))
    truth[random.random(truth.shape) < ignored] = IGNORE
    logits = random.normal(size=(3, classes, 5, 4)).astype(np.float32)
    names = labels(classes, (0,) if unscored else ())
    metric = SegmentationMetric(names)
    for t, p in zip(truth, logits, strict=True):
        metric.update(torch.from_numpy(p[None]), torch.from_numpy(t[None]))
    got = metric.compute()

    predicted, valid = logits.argmax(1), truth != IGNORE
    ious, absent = {}, []
    for c in range(1 if unscored else 0, classes):
        either = valid & ((truth == c) | (predicted == c))
        both = valid & (truth == c) & (predicted == c)
        ious[f"c{c}"] = both.sum() / either.sum() if either.any() else None
        if not (valid & (truth == c)).any():
            absent.append(f"c{c}")
    found = [i for i in ious.values() if i is not None]
    assert got["class_iou"] == pytest.approx(ious)
    assert got["miou"] == (pytest.approx(np.mean(found)) if found else None)
    assert got["absent"] == absent
    accuracy = (predicted == truth)[valid].mean() if valid.any() else None
    assert got["pixel_accuracy"] == (pytest.approx(accuracy) if accuracy is not None else None)
    assert got["pixels"] == valid.sum()


def test_miou_by_another_librarys_confusion_matrix() -> None:
    confusion_matrix = pytest.importorskip("sklearn.metrics").confusion_matrix
    random = np.random.default_rng(1)
    truth, predicted = random.integers(0, 5, (2, 400))
    metric = SegmentationMetric(labels(5))
    metric.update(torch.from_numpy(predicted[None]), torch.from_numpy(truth[None]))
    matrix = confusion_matrix(truth, predicted, labels=range(5))
    ious = np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
    assert metric.compute()["miou"] == pytest.approx(ious.mean())


def test_a_network_that_tells_too_few_classes() -> None:
    with pytest.raises(ConfigError, match="has 3 classes, the data set has 5; set num_classes=5"):
        SegmentationMetric(labels(5), 3)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), missing=st.sampled_from([0.0, 0.5, 1.0]))
def test_depth_by_numpy(seed: int, missing: float) -> None:
    random = np.random.default_rng(seed)
    truth = random.uniform(0.1, 12.0, (4, 6, 5)).astype(np.float32)  # some beyond the range
    truth[random.random(truth.shape) < missing] = 0.0
    guess = random.uniform(-1.0, 15.0, truth.shape).astype(np.float32)
    metric = DepthMetric(DEPTH)
    metric.update(torch.from_numpy(guess[:1, None]), torch.from_numpy(truth[:1]))
    metric.update(torch.from_numpy(guess[1:, None]), torch.from_numpy(truth[1:]))
    got = metric.compute()

    rows = []
    for g, t in zip(guess.astype(np.float64), truth.astype(np.float64), strict=True):
        valid = (t > 1e-3) & (t <= 10.0)
        if not valid.any():
            continue
        p, t = np.clip(g[valid], 1e-3, 10.0), t[valid]
        d = np.log(p) - np.log(t)
        worse = np.maximum(p / t, t / p)
        rows.append({
            **{f"delta{k}": np.mean(worse < 1.25**k) for k in (1, 2, 3)},
            "abs_rel": np.mean(np.abs(p - t) / t),
            "sq_rel": np.mean((p - t) ** 2 / t),
            "rmse": math.sqrt(np.mean((p - t) ** 2)),
            "rmse_log": math.sqrt(np.mean(d**2)),
            "log10": np.mean(np.abs(np.log10(p) - np.log10(t))),
            "silog": 100 * math.sqrt(max(np.mean(d**2) - np.mean(d) ** 2, 0.0)),
        })  # fmt: skip
    assert got.pop("images") == len(rows)
    for name, value in got.items():
        assert value == (pytest.approx(np.mean([r[name] for r in rows]), rel=1e-6) if rows else None)


def test_silog_by_its_formula() -> None:
    torch.manual_seed(0)
    output = torch.rand(2, 1, 4, 5) * 9 + 0.5
    target = torch.rand(2, 4, 5) * 9 + 0.5
    target[0, :2] = 0.0
    target[1, 3] = 11.0  # beyond the range
    valid = (target > 0) & (target <= 10)
    d = (output[:, 0].log() - target.log())[valid].double()
    expected = 10 * math.sqrt((d**2).mean() - 0.85 * d.mean() ** 2)
    assert SiLog(DEPTH)(output, target).item() == pytest.approx(expected, rel=1e-5)


def test_losses_where_nothing_counts_or_all_is_right() -> None:
    output = torch.rand(1, 1, 3, 3).requires_grad_()
    for target in (torch.zeros(1, 3, 3), output.detach()[:, 0]):
        loss = SiLog(DEPTH)(output, target)
        (gradient,) = torch.autograd.grad(loss, output)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()
    logits = torch.randn(1, 4, 3, 3).requires_grad_()
    loss = SegmentationLoss()(logits, torch.full((1, 3, 3), IGNORE))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0.0
    assert (gradient == 0).all()
