"""One check: what passes, and that each rule that it checks can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from binarize.coverage import Record, Subject, check, subjects
from binarize.errors import ConfigError, FormatError
from binarize.layers import BinaryLayer

CHECK = "binarize.coverage.checks"
SUBJECT = Subject(name="test_resnet")


def test_a_small_model_passes_with_all_steps() -> None:
    record = check(SUBJECT)
    assert (record.status, record.reason, record.device) == ("pass", "", "cpu")
    assert record.family == "resnet"
    assert set(record.seconds) == {
        *("build", "plan", "convert", "forward", "backward", "batch", "load", "resize", "total")
    }
    assert record.convs == record.convs_converted + sum(record.convs_kept.values())
    assert record.convs_converted >= 4
    assert record.convs_missed == ()
    assert record.size == (3, 32, 32)
    assert record.second_size == (3, 64, 96)


def test_as_an_encoder_under_a_decoder() -> None:
    record = check(Subject(name="test_resnet", use="upernet"), "reactnet")
    assert record.status == "pass", record.reason
    assert record.convs > check(SUBJECT).convs
    assert (record.use, record.method) == ("upernet", "reactnet")


def test_linear_layers_of_a_transformer() -> None:
    record = check(Subject(name="test_vit"))
    assert record.status == "pass", record.reason
    assert record.linears_converted == record.linears - 1  # but for the classifier


def test_too_large_for_the_machine() -> None:
    record = check(SUBJECT, memory=1)
    assert (record.status, record.device) == ("pass", "meta"), record.reason
    assert "backward" not in record.seconds
    assert record.convs_converted == check(SUBJECT).convs_converted


def test_a_record_is_one_line_that_reads_back() -> None:
    record = check(SUBJECT)
    assert "\n" not in record.dumps()
    assert Record.loads(record.dumps()) == record
    for line in ("", "{", "[]", '{"name": "x"}', record.dumps().replace('"method"', '"methode"')):
        with pytest.raises(FormatError):
            Record.loads(line)


class _Spoiled(nn.Module):
    """A converted model, its output changed by `how`."""

    def __init__(self, model: nn.Module, how: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self._how = how

    def forward(self, x: Tensor) -> Tensor:
        return self._how(self, self.model(x))


def _depends_on_batch(net: nn.Module, y: Tensor) -> Tensor:
    return y if net.training else y + 1e-6 * y.mean()


def _overflows(net: nn.Module, y: Tensor) -> Tensor:
    return y * float("inf")


def _without_gradient(net: nn.Module, y: Tensor) -> Tensor:
    return y.detach()


@pytest.mark.parametrize(
    ("how", "step", "reason"),
    [
        (_depends_on_batch, "batch", "depends on what else is in the batch"),
        (_overflows, "forward", "not finite"),
        (_without_gradient, "backward", "depends on no parameter"),
    ],
)
def test_what_is_wrong_is_found(
    how: Callable[[nn.Module, Tensor], Tensor], step: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from binarize.graph import execute

    monkeypatch.setattr(
        f"{CHECK}.execute", lambda plan, model: _Spoiled(execute(plan, model), how), raising=True
    )
    record = check(SUBJECT)
    assert (record.status, record.failed) == ("fail", step)
    assert reason in record.reason
    assert bool(record.overflows) == (how is _overflows)  # tried again at larger sizes


def test_a_latent_weight_without_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from binarize.graph import execute

    def with_idle_layer(plan: Any, model: nn.Module) -> nn.Module:
        result = execute(plan, model)
        layer = next(m for m in result.modules() if isinstance(m, BinaryLayer))
        layer.weight.requires_grad_(False)
        return result

    monkeypatch.setattr(f"{CHECK}.execute", with_idle_layer)
    record = check(SUBJECT)
    assert (record.status, record.failed) == ("fail", "backward")
    assert "1 latent weights without a finite gradient" in record.reason


def test_a_file_that_gives_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from binarize.files import load

    def worn(path: Any, given: nn.Module | None) -> nn.Module:
        model = load(path, given)
        with torch.no_grad():
            next(m for m in model.modules() if isinstance(m, BinaryLayer)).weight[0].mul_(1.5)
        return model

    monkeypatch.setattr("binarize.coverage.trials.load", worn)
    record = check(SUBJECT)
    assert (record.status, record.failed) == ("fail", "load")
    assert "is not what was saved" in record.reason


def test_a_model_that_does_not_convert_is_a_failure_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(f"{CHECK}.plan", crash)
    record = check(SUBJECT)
    assert (record.status, record.failed, record.reason) == ("fail", "plan", "ZeroDivisionError: by zero")


def test_random_state_and_warnings_are_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check(SUBJECT)
    assert torch.equal(torch.rand(2), expected)


class _AnySize(nn.Module):
    """Runs on images of at least `least` pixels, at multiples of `multiple`."""

    def __init__(self, least: int, multiple: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self._least, self._multiple = least, multiple

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < self._least or any(n % self._multiple for n in x.shape[2:]):
            raise ValueError("not at this size")
        return self.conv(x)


def test_sizes_are_the_smallest_and_two_larger_ones() -> None:
    assert subjects.input_sizes(_AnySize(1), 2) == ((3, 32, 32), (3, 64, 96), (3, 128, 160))
    assert subjects.input_sizes(_AnySize(100), 1)[0] == (3, 112, 112)
    assert subjects.input_sizes(_AnySize(1, 224), 1) == ((3, 224, 224), (3, 448, 448), (3, 672, 672))
    with pytest.raises(ConfigError, match="runs on no square image"):
        subjects.input_sizes(_AnySize(10_000), 1)


def test_subjects_by_glob_and_the_smallest_of_a_family() -> None:
    found = subjects.subjects(["resnet1[08]", "resnet10t", "vgg1[13]"])
    assert [s.name for s in found] == ["resnet18", "resnet10t", "vgg11", "vgg13"]
    assert [s.name for s in subjects.smallest_per_family(found)] == ["resnet10t", "vgg11"]
    with pytest.raises(ConfigError, match="did you mean resnet18"):
        subjects.subjects(["resnet81"])
