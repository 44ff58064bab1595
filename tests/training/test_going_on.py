"""Runs that are extended, keep their best epoch or end early: what stays, what is refused, what is said."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import own_nets
import pytest
import small_net
import torch
import yaml
from safetensors.torch import load_file
from small_net import values

from binarize import recipes
from binarize.cli import run as binarize_command
from binarize.errors import BinarizeWarning, ConfigError, FormatError
from binarize.files import container
from binarize.training import loop, outcome, saved
from binarize.training.best import best_of, is_better, is_complete, waited
from binarize.training.loop import BEST, MODEL, STATE, Event, StoppedError, train
from binarize.training.metadata import read_checkpoint
from binarize.training.state import read_progress


def recipe(method: str = "bidense", **training: Any) -> recipes.Recipe:
    return recipes.validate({**values(**training), "method": {"name": method}}, "a test")


def same(a: Path, b: Path) -> bool:
    x, y = load_file(a), load_file(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def press_at(epoch: int, step: int) -> Any:
    def press(event: Event) -> None:
        if (event.epoch, event.step) == (epoch, step) and not event.figures:
            signal.raise_signal(signal.SIGINT)

    return press


CONSTANT = {"name": "constant"}


def test_a_run_is_extended_to_the_same_bits_from_its_end_and_from_its_middle(tmp_path: Path) -> None:
    # rbnn has numbers that follow the progress of training: they keep their course, and stay at its end
    short, longer = (recipe("rbnn", epochs=n, schedule=CONSTANT) for n in (2, 3))
    train(short, tmp_path / "end")
    assert len(train(longer, tmp_path / "end", resume=True)) == 3
    with pytest.raises(StoppedError):
        train(short, tmp_path / "middle", report=press_at(1, 2))
    train(longer, tmp_path / "middle", resume=True)
    assert same(tmp_path / "end" / STATE, tmp_path / "middle" / STATE)
    assert same(tmp_path / "end" / MODEL, tmp_path / "middle" / MODEL)
    held = {float(t) for n, t in load_file(tmp_path / "end" / MODEL).items() if n.endswith("quantizer.t")}
    assert held == {10.0}
    progress = read_progress(tmp_path / "end" / STATE)
    assert progress.planned == 2
    assert progress.changes == [{"epochs": 2, "name": "training.epochs", "was": 2, "now": 3}]
    checkpoint = read_checkpoint(container.read_metadata(tmp_path / "end" / MODEL))
    assert checkpoint is not None
    assert checkpoint.changes == tuple(progress.changes)


def test_a_schedule_that_depends_on_the_epochs_is_not_extended(tmp_path: Path) -> None:
    train(recipe(epochs=1), tmp_path)
    with pytest.raises(ConfigError, match=r"would jump.*name=constant.*training\.start_from") as raised:
        train(recipe(epochs=2), tmp_path, resume=True)
    assert "the last one was" in str(raised.value)
    said: list[str] = []
    history = train(recipe(epochs=2, lr=1e-4, schedule=CONSTANT), tmp_path, resume=True, tell=said.append)
    assert history[1]["lr"] == 1e-4
    changes = [line for line in said if line.startswith("changed")]
    assert "changed  training.lr: 0.003 -> 0.0001, after 1 epochs" in changes
    assert len(changes) == 3


def test_what_stays_refused_in_a_run_with_a_constant_rate(tmp_path: Path) -> None:
    train(recipe(epochs=2, schedule=CONSTANT), tmp_path)
    with pytest.raises(ConfigError, match="extended, not shortened"):
        train(recipe(epochs=1, schedule=CONSTANT), tmp_path, resume=True)
    with pytest.raises(ConfigError, match=r"of another recipe: training\.weight_decay was 0\.01, is 0\.1"):
        train(recipe(epochs=3, schedule=CONSTANT, weight_decay=0.1), tmp_path, resume=True)
    with pytest.raises(ConfigError, match=r"of another recipe: training\.schedule\.name"):
        train(recipe(epochs=2), tmp_path, resume=True)


def lines(*figures: float | None, name: str = "miou") -> list[dict[str, Any]]:
    return [{"epoch": i, "loss": 1.0, "val": {name: value}} for i, value in enumerate(figures, start=1)]


def test_better_is_higher_or_lower_by_the_figure() -> None:
    assert is_better("miou", 0.5, 0.4)
    assert not is_better("miou", 0.5, 0.5)
    assert is_better("abs_rel", 0.4, 0.5)
    assert not is_better("abs_rel", 0.45, 0.5, delta=0.1)
    assert is_better("top1", 0.5, None)
    assert not is_better("miou", float("nan"), None)
    assert not is_better("miou", None, 0.1)
    assert best_of(lines(0.1, 0.3, None, 0.3)) == (2, "miou", 0.3)
    assert best_of(lines(0.3, 0.1, name="abs_rel")) == (2, "abs_rel", 0.1)
    assert best_of([{"epoch": 1}]) is None


def test_patience_counts_evaluations_without_a_better_figure() -> None:
    assert waited(lines(0.1, 0.2, 0.2, 0.15)) == 2
    assert waited(lines(0.1, 0.2, 0.205, 0.21), delta=0.02) == 2
    assert waited(lines(0.1, 0.2, 0.205, 0.23), delta=0.02) == 0
    settings = recipe(epochs=9, patience=2).training
    assert is_complete(lines(0.1, 0.2, 0.2, 0.15), settings)
    assert not is_complete(lines(0.1, 0.2, 0.2), settings)


def figures(monkeypatch: pytest.MonkeyPatch, *given: float) -> None:
    """Let evaluations give these mIoUs, one after the other; the last one from then on."""
    left = list(given)

    def evaluate(*args: Any, **kwargs: Any) -> dict[str, Any]:
        value = left.pop(0) if len(left) > 1 else left[0]
        return {"miou": value, "pixel_accuracy": value, "class_iou": {}, "absent": [], "pixels": 1}

    monkeypatch.setattr(loop, "evaluate", evaluate)


def test_a_run_without_progress_ends_early_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures(monkeypatch, 0.2, 0.3, 0.1)
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(yaml.safe_dump(values(epochs=9, patience=2)))
    assert binarize_command(["train", "r.yaml", "--out", "run"]) == 0
    printed = capsys.readouterr().out
    assert "epoch 4/9" in printed
    assert "epoch 5/9" not in printed
    assert "best" in printed
    assert binarize_command(["train", "r.yaml", "--out", "run", "--resume"]) == 0
    assert "complete run of 4 epochs of 9, ended early by training.patience" in capsys.readouterr().out
    assert (
        binarize_command(["train", "r.yaml", "--out", "run", "--resume", "--set", "training.patience=4"]) == 0
    )
    assert "epoch 6/9" in capsys.readouterr().out
    assert len(Path("run/log.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize("keep", ["last", "best", "both"])
def test_the_best_epoch_is_kept(keep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures(monkeypatch, 0.2, 0.3, 0.1)
    plain = recipe(epochs=3, keep=keep)
    train(plain, tmp_path)
    assert (tmp_path / BEST).is_file() == (keep == "both")
    held = {file.name: outcome.checkpoint_in(file) for file in tmp_path.glob("*.safetensors")}
    model = held[MODEL]
    assert model is not None
    if keep == "best":
        assert (model.kept, model.epoch, model.figure, model.value) == ("best", 2, "miou", 0.3)
        assert outcome.best_file(tmp_path) == tmp_path / MODEL
    else:
        assert (model.kept, model.epoch, model.value) == ("last", 3, 0.1)
    if keep == "both":
        best = held[BEST]
        assert best is not None
        assert (best.kept, best.epoch, best.epochs) == ("best", 2, 3)
        assert outcome.best_file(tmp_path) == tmp_path / BEST
        assert not same(tmp_path / BEST, tmp_path / MODEL)
        saved.load(tmp_path / BEST)
    if keep == "last":
        with pytest.raises(ConfigError, match=r"training\.keep=both"):
            outcome.best_file(tmp_path)


@pytest.mark.parametrize("keep", ["best", "both"])
def test_the_choice_survives_a_resumption(keep: str, tmp_path: Path) -> None:
    chosen = recipe(epochs=3, keep=keep, save_every=3)
    train(chosen, tmp_path / "whole")
    with pytest.raises(StoppedError):
        train(chosen, tmp_path / "parts", report=press_at(1, 1))
    train(chosen, tmp_path / "parts", resume=True)
    names = [p.name for p in (tmp_path / "whole").glob("*.safetensors")]
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes() or (
            name == STATE and same(tmp_path / "whole" / name, tmp_path / "parts" / name)
        )


def test_best_and_patience_need_a_validation_split(tmp_path: Path) -> None:
    for setting, name in (("keep=best", "keep: best"), ("patience=2", "patience")):
        given = values(epochs=1, **yaml.safe_load("{" + setting.replace("=", ": ") + "}"))
        given["data"]["val"] = None
        with pytest.raises(ConfigError, match=f"training.{name} needs a validation split"):
            train(recipes.validate(given, "a test"), tmp_path)
    given = values(epochs=1)
    given["data"]["val"] = None
    assert "val" not in train(recipes.validate(given, "a test"), tmp_path)[0]
    assert not (tmp_path / BEST).exists()


@pytest.mark.filterwarnings("ignore:training.ema")
def test_averaged_weights_are_evaluated_beside_the_plain_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(yaml.safe_dump(values(epochs=2, ema=0.9)))
    assert binarize_command(["train", "r.yaml", "--out", "run"]) == 0
    printed = capsys.readouterr().out
    history = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    assert f"({history[-1]['val_without_ema']['miou']:.4f} without EMA)" in printed
    assert "last, without EMA" in printed
    assert binarize_command(["evaluate", "run", "--split", "val", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["miou"] == history[-1]["val"]["miou"]
    state, model = load_file("run/state.safetensors"), load_file("run/model.safetensors")
    weight = "encoder.0.weight"
    assert torch.equal(model[weight], state[f"average/{weight}"])
    assert not torch.equal(model[weight], state[f"model/{weight}"])
    plain = train(recipe(epochs=2, keep="last"), tmp_path / "plain")
    assert plain[-1]["val"]["miou"] == history[-1]["val_without_ema"]["miou"]


def test_the_table_at_the_end_and_the_best_network_in_all_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures(monkeypatch, 0.2, 0.3, 0.1)
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(yaml.safe_dump(values(epochs=3)))
    assert binarize_command(["train", "r.yaml", "--out", "run"]) == 0
    printed = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in printed if line.startswith(("best ", "last "))}
    assert rows["best"][1] == "2"
    assert rows["best"][3] == "0.3000"
    assert rows["best"][-1] == BEST
    assert rows["last"][1] == "3"
    assert rows["last"][-1] == MODEL
    assert any(line.startswith("time ") for line in printed)
    assert printed[-1] == "Next: binarize evaluate run/model.safetensors"
    assert binarize_command(["evaluate", "run", "--best"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "The network of the best epoch: 2 of 3, chosen by its miou on val." in said
    assert binarize_command(["deploy", "run", "--best"]) == 0
    assert Path("run/best-packed.safetensors").is_file()
    assert binarize_command(["evaluate", "run/model.safetensors", "--best"]) == 2
    assert "--best takes the folder of a run" in capsys.readouterr().err


def test_a_moved_project_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    given = {**small_net.values(epochs=2), "network": {"name": "nets.py:unet", "options": {"width": 4}}}
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    own_nets.write(before)
    (before / "own.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(StoppedError):
        train(recipes.load(before / "own.yaml"), before / "run", report=press_at(0, 2))
    before.rename(after)
    moved = recipes.load(after / "own.yaml")
    assert len(train(moved, after / "run", resume=True)) == 2
    (after / "nets.py").write_text(own_nets.TEXT + "\n# another text\n")
    with pytest.warns(BinarizeWarning, match="was changed since"):
        train(moved, after / "run", resume=True)
    after.rename(before)
    with pytest.raises(ConfigError, match=r"of another recipe: network\.name"):
        train(recipes.load(before / "own.yaml"), before / "run", resume=True)


def test_a_state_that_cannot_be_read_is_no_dead_end(tmp_path: Path) -> None:
    short = recipe(epochs=1)
    train(short, tmp_path / "run")
    state = tmp_path / "run" / STATE
    state.write_bytes(state.read_bytes()[:3000])
    with pytest.raises(
        FormatError, match=r"start from its last network: --set training.start_from=.*run --out"
    ):
        train(short, tmp_path / "run", resume=True)
    train(recipe(epochs=1, start_from=str(tmp_path / "run")), tmp_path / "another")
    (tmp_path / "run" / MODEL).write_bytes(b"")
    with pytest.raises(FormatError, match=r"The run cannot be continued: delete .*run, or train with"):
        train(short, tmp_path / "run", resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_network_without_its_state_is_not_replaced(resume: bool, tmp_path: Path) -> None:
    (tmp_path / MODEL).write_bytes(b"trained for days")
    with pytest.raises(
        ConfigError, match=r"holds a network, model.safetensors, and no state to continue from"
    ):
        train(recipe(epochs=1), tmp_path, resume=resume)
    assert (tmp_path / MODEL).read_bytes() == b"trained for days"
