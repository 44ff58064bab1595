"""Trainings in stages: float, then binary activations, then the binary network."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_net import Small, values

import binarize
from binarize import cli, recipes
from binarize.data import create
from binarize.errors import ConfigError
from binarize.layers.float_weights import FloatWeights, has_float_weights
from binarize.recipes.schema import Distillation, Schedule
from binarize.recipes.stages import epochs_of, stage_recipes
from binarize.training import StopTraining, outcome, saved
from binarize.training.build import dataset, network
from binarize.training.distill import Teacher
from binarize.training.evaluation import evaluate
from binarize.training.folder import with_stages_located
from binarize.training.learning_rate import rate
from binarize.training.loop import BEST, LOG, MODEL, STATE, Event, StoppedError
from binarize.training.staged import train

STAGES: dict[str, Any] = {
    "float": {"binary": "none", "training": {"lr": 1e-3, "schedule": {"name": "constant", "warmup": 1}}},
    "half": {"binary": "activations", "training": {"distillation": {"teacher": "stage:float", "hard": 0}}},
    "all": {"training": {"distillation": {"teacher": "stage:float", "features": 0.5}}},
}


def plain(**training: Any) -> dict[str, Any]:
    return {**values(**{"epochs": 3, **training}), "stages": STAGES}


def recipe(**training: Any) -> recipes.TrainingRecipe:
    return recipes.validate(plain(**training), "a test")


def same(a: Path, b: Path) -> bool:
    x, y = load_file(a), load_file(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("staged") / "whole"
    torch.manual_seed(0)
    train(recipe(), out)
    return out


def test_each_stage_starts_from_the_weights_of_the_one_before(whole: Path) -> None:
    _, floats = saved.load(whole / "float")
    _, half = saved.load(whole / "half")
    assert not has_float_weights(floats)
    assert has_float_weights(half)
    stages, truth = stage_recipes(recipe()), create("shapes", "val").truth
    half = network(with_stages_located(stages["half"], whole / "half"), truth).state_dict()
    before = load_file(whole / "float" / MODEL)
    assert torch.equal(half["encoder.3.weight"], before["encoder.3.weight"])
    own = network(with_stages_located(stages["all"], whole / "all"), truth).state_dict()
    before = load_file(whole / "half" / MODEL)
    assert own.keys() == before.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in before.items())


def test_the_whole_is_found_where_a_plain_run_has_it(whole: Path) -> None:
    assert same(whole / MODEL, whole / "all" / MODEL)
    lines = [json.loads(line) for line in (whole / LOG).read_text().splitlines()]
    assert [(line["epoch"], line["stage"]) for line in lines] == [(1, "float"), (2, "half"), (3, "all")]
    found, model = saved.load(whole)
    assert list(found.stages) == list(STAGES)
    assert not has_float_weights(model)
    assert cli.run(["evaluate", str(whole)]) == 0
    assert cli.run(["compare", str(whole)]) == 0


def test_a_stage_of_float_weights_is_what_was_evaluated(whole: Path) -> None:
    stage, model = saved.load(whole / "half")
    assert stage.method is not None
    assert stage.method.weights == "float"
    layers = [m for m in model.modules() if hasattr(m, "weight_rule")]
    assert layers
    assert all(isinstance(m.weight_rule, FloatWeights) for m in layers)
    figures = evaluate(model, dataset(stage, "val"), batch=8)
    logged = json.loads((whole / "half" / LOG).read_text())["val"]
    assert figures["miou"] == pytest.approx(logged["miou"])
    with pytest.raises(ConfigError, match="its weights are float"):
        binarize.deploy(model)


def test_what_was_interrupted_in_a_stage_goes_on_there_to_the_same_bits(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "parts"
    begun: list[str] = []

    def press(event: Event) -> None:
        if begun[-1] == "half" and event.step == 2 and not event.figures:
            signal.raise_signal(signal.SIGINT)

    note = lambda name, epochs: begun.append(name)  # noqa: E731
    with pytest.raises(StoppedError):
        train(recipe(), out, report=press, begin=note)
    assert begun == ["float", "half"]
    assert not (out / MODEL).exists()
    with pytest.raises(ConfigError, match="holds a run already"):
        train(recipe(), out)
    train(recipe(), out, resume=True)
    for stage in STAGES:
        assert same(whole / stage / STATE, out / stage / STATE)
    assert same(whole / MODEL, out / MODEL)


def test_a_run_is_in_stages_or_not(whole: Path, tmp_path: Path) -> None:
    single = recipes.validate({**values(epochs=1)}, "a test")
    with pytest.raises(ConfigError, match="a run in stages"):
        train(single, whole, resume=True)
    train(single, tmp_path / "single")
    with pytest.raises(ConfigError, match="without stages"):
        train(recipe(), tmp_path / "single", resume=True)


@pytest.mark.parametrize(
    ("total", "shares", "expected"),
    [(40, (16, 8, 16), [16, 8, 16]), (40, (1, 1, 1), [13, 14, 13]), (10, (2, 1, 2), [4, 2, 4])],
)
def test_epochs_are_shared(total: int, shares: tuple[float, ...], expected: list[int]) -> None:
    given = plain(epochs=total)
    given["stages"] = {n: {**s, "share": share} for (n, s), share in zip(STAGES.items(), shares, strict=True)}
    found = recipes.validate(given, "a test")
    assert list(epochs_of(found).values()) == expected
    assert [s.training.epochs for s in stage_recipes(found).values()] == expected


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"a": {"binary": "none", "training": {"lr": -1}}}, r"stages.a.training.lr: input should be greater"),
        ({"a": {"training": {"epochs": 3}}}, r"stages.a.training.epochs: is of all stages"),
        ({"a": {"training": {"rate": 3}}}, r"stages.a.training.rate: no such setting"),
        ({"a": {"training": {"distillation": {"teacher": "stage:b"}}}, "b": {}}, "no stage of this name"),
        ({"a": {}, "b": {"binary": "none"}}, "behind a stage that is more binary"),
        ({"a": {"share": 1}, "b": {"share": 100}}, "leaves no epoch"),
    ],
)
def test_what_is_wrong_with_stages_is_said(stages: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipes.validate({**values(), "stages": stages}, "a test")


def test_a_setting_of_a_stage_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(plain(), sort_keys=False))
    found = recipes.load(path, ["stages.half.training.lr=7e-3", "stages.float.share=1"])
    assert list(found.stages) == ["float", "half", "all"]
    assert [s.training.lr for s in stage_recipes(found).values()] == [1e-3, 7e-3, 3e-3]


def test_cross_entropy_has_the_gradient_of_the_divergence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    master = Small(4, None).eval()
    monkeypatch.setattr("binarize.files.load", lambda path: master)
    monkeypatch.setattr("binarize.files.container.read_metadata", lambda path: {})
    images, temperature = torch.randn(2, 3, 16, 16), 2.0
    p = (master(images) / temperature).softmax(1)
    entropy = temperature**2 * -(p * p.log()).sum(1).mean()
    losses, gradients = [], []
    for loss in ("kl", "cross_entropy"):
        settings = Distillation.model_validate({"teacher": "x", "temperature": temperature, "loss": loss})
        output = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        value = Teacher(settings, Small(4, None), torch.device("cpu")).loss(images, output)
        value.backward()
        losses.append(value.detach())
        gradients.append(output.grad)
    torch.testing.assert_close(losses[1] - losses[0], entropy.detach())
    q = (output.detach() / temperature).softmax(1)
    expected = temperature * (q - p.detach()) / (2 * 16 * 16)
    for gradient in gradients:
        torch.testing.assert_close(gradient, expected)


def test_without_labels_the_truth_does_not_matter(whole: Path, tmp_path: Path) -> None:
    def state(folder: str, **learning: Any) -> dict[str, torch.Tensor]:
        given = values(epochs=1, class_balance=learning.pop("balance"))
        given["training"]["distillation"] = {"teacher": str(whole / "float"), **learning}
        train(recipes.validate(given, "a test"), tmp_path / folder)
        return load_file(tmp_path / folder / MODEL)

    # the weights of classes are part of the loss against the truth alone
    soft, other = (state(f"soft{balance}", hard=0, balance=balance) for balance in (0.0, 1.0))
    assert all(torch.equal(other[name], tensor) for name, tensor in soft.items())
    hard = state("hard", balance=1.0)
    assert any(not torch.equal(hard[name], tensor) for name, tensor in soft.items())


@pytest.mark.parametrize("name", ["constant", "onecycle"])
def test_the_rate_rises_in_a_straight_line(name: str) -> None:
    def at(step: int, **warmup: float) -> float:
        schedule = Schedule.model_validate({"name": name, "per": "step", **warmup})
        return rate(schedule, 0.1, step, steps_per_epoch=4, epochs=5)

    for given in ({"warmup": 1.5}, {"warmup_steps": 6}):
        factors = [at(step, **given) / at(step) for step in range(20)]
        assert factors == pytest.approx([(step + 1) / 6 for step in range(6)] + [1.0] * 14)
    with pytest.raises(ValueError, match="leave one out"):
        Schedule(warmup=1, warmup_steps=2)


@pytest.mark.slow
def test_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What docs/pretrained-to-binary.md shows, as it stands there, in fewer steps."""
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs/pretrained-to-binary.md").read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    Path("stages.yaml").write_text(next(block for kind, block in found if kind == "yaml"))
    fewer = ["training.epochs=3", "training.batch=8", "data.options.length=16", "data.evaluation.batch=8"]
    commands = [line for kind, block in found if not kind for line in block.splitlines()]
    own = [line for line in commands if re.search(r"stages(\.yaml|/|\b)|calibrated", line)]
    own = [line for line in own if line.startswith("binarize ") and "camvid" not in line]
    assert len(own) == 6
    for command in own:
        _, *arguments = command.split()
        if arguments[0] == "train":
            arguments += [part for setting in fewer for part in ("--set", setting)]
        assert cli.run(arguments) == 0, capsys.readouterr().err


def test_the_whole_holds_the_best_network_of_the_last_stage(whole: Path) -> None:
    history = [json.loads(line) for line in (whole / LOG).read_text().splitlines()]
    found = {row.title: row for row in outcome.rows(whole, history)}
    assert found["last"].epoch == len(history)
    assert found["last"].file == whole / MODEL
    assert history[found["best"].epoch - 1]["stage"] == "all"
    assert found["best"].file == whole / BEST
    assert same(whole / BEST, whole / "all" / BEST)


def test_a_callback_that_stops_a_stage_stops_all(tmp_path: Path) -> None:
    class Stop:
        def on_step(self, event: Event) -> None:
            raise StopTraining

    assert train(recipe(), tmp_path, callbacks=[Stop()]) == []
    assert [path.parent.name for path in tmp_path.glob(f"*/{STATE}")] == ["float"]
    assert len(train(recipe(), tmp_path, resume=True)) == 3
