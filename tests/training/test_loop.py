"""Runs of a few seconds: what is saved, what goes on, what stops."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from last_threads import LEFT
from PIL import Image
from safetensors.torch import load_file
from small_net import Small, dropping, values
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader

from binarize import recipes
from binarize.data import create
from binarize.errors import ConfigError, DataError, TrainingError
from binarize.recipes.schema import Distillation
from binarize.training import checkpoint, setup
from binarize.training.batches import Batches
from binarize.training.build import can_fuse, network
from binarize.training.distill import Teacher
from binarize.training.loop import MODEL, STATE, Event, StoppedError, train
from binarize.training.losses import SegmentationLoss
from binarize.training.tasks.segmentation import SegmentationTask

TESTS = Path(__file__).parent.parent


def recipe(**training: Any) -> recipes.Recipe:
    return recipes.validate(values(**training), "a test")


def same(a: Path, b: Path) -> bool:
    x, y = load_file(a), load_file(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def test_a_run_leaves_its_state_its_model_and_its_log(tmp_path: Path) -> None:
    events: list[Event] = []
    history = train(recipe(), tmp_path / "run", report=events.append)
    assert [h["epoch"] for h in history] == [1, 2, 3]
    assert history[-1]["loss"] < history[0]["loss"]
    assert 0 < max(h["flipped"] for h in history) < 0.5
    assert 0 <= history[-1]["val"]["miou"] <= 1
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history
    assert [e.step for e in events if not e.figures] == [1, 2, 3] * 3
    assert (tmp_path / "run" / MODEL).is_file()
    with Image.open(tmp_path / "run" / "curves.png") as picture:
        assert (
            len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
        )  # two curves, grid and text


@pytest.mark.filterwarnings("ignore:training.ema")
@pytest.mark.parametrize("when", ["step", "epoch"])
def test_a_stopped_run_goes_on_to_the_same_bits(when: str, tmp_path: Path) -> None:
    chosen = recipe(ema=0.9, accumulate=2, clip=1.0)
    train(chosen, tmp_path / "whole")

    def press(event: Event) -> None:
        if event.epoch == 1 and (event.step == 2 if when == "step" else bool(event.figures)):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(StoppedError, match="Continue with --resume"):
        train(chosen, tmp_path / "parts", report=press)
    train(chosen, tmp_path / "parts", resume=True)
    assert same(tmp_path / "whole" / STATE, tmp_path / "parts" / STATE)
    assert same(tmp_path / "whole" / MODEL, tmp_path / "parts" / MODEL)


def test_what_follows_the_progress_of_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    given = {**values(epochs=2), "method": {"name": "rbnn"}}
    chosen = recipes.validate(given, "a test")
    train(chosen, tmp_path / "whole")

    def press(event: Event) -> None:
        if event.epoch == 0 and event.step == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(StoppedError):
        train(chosen, tmp_path / "parts", report=press)
    state = load_file(tmp_path / "parts" / STATE)
    # set before the second of six steps; at the end of the whole run training is over
    held = [float(t) for name, t in state.items() if name.endswith("quantizer.t")]
    assert held == pytest.approx([0.01 * 1000 ** (1 / 6)] * len(held))
    ended = load_file(tmp_path / "whole" / MODEL)
    assert {float(t) for name, t in ended.items() if name.endswith("quantizer.t")} == {10.0}
    train(chosen, tmp_path / "parts", resume=True)
    assert same(tmp_path / "whole" / STATE, tmp_path / "parts" / STATE)
    assert same(tmp_path / "whole" / MODEL, tmp_path / "parts" / MODEL)


@pytest.mark.slow
def test_bf16_and_channels_last_train_too(tmp_path: Path) -> None:
    plain = train(recipe(), tmp_path / "plain")
    for name, options in (("bf16", {"precision": "bf16"}), ("last", {"channels_last": True})):
        history = train(recipe(**options), tmp_path / name)
        assert history[-1]["loss"] < history[0]["loss"]
        assert history[0]["loss"] == pytest.approx(plain[0]["loss"], rel=0.05)
        tensors = load_file(tmp_path / name / MODEL)
        assert all(t.dtype != torch.bfloat16 for t in tensors.values())  # weights stay in float32


@pytest.mark.parametrize("method", ["bnn", "reactnet", "adabin", "bisrnet", "bidense"])
def test_gradients_and_moments_lie_in_memory_as_their_weights_do(method: str, tmp_path: Path) -> None:
    # The fused optimizer takes that for granted: with other strides it would update the wrong weights.
    options: dict[str, Any] = {"channels_last": True, "accumulate": 2, "clip": 1.0, "epochs": 2}
    chosen = recipes.validate({**values(**options), "method": {"name": method}}, "a test")
    seen = 0

    def look(optimizer: torch.optim.Optimizer, *_: object) -> None:
        nonlocal seen
        for p, state in optimizer.state.items():
            for other in (p.grad, state["exp_avg"], state["exp_avg_sq"]):
                places = [[t.stride(i) for i in range(t.dim()) if t.shape[i] > 1] for t in (p, other)]
                assert places[0] == places[1]
            seen += p.dim() == 4 and p.shape[2] > 1 and not p.is_contiguous()

    def press(event: Event) -> None:
        if event.epoch == 1 and event.step == 1:
            signal.raise_signal(signal.SIGINT)

    hook = register_optimizer_step_post_hook(look)
    try:
        with pytest.raises(StoppedError):
            train(chosen, tmp_path / "run", report=press)
        train(chosen, tmp_path / "run", resume=True)
    finally:
        hook.remove()
    assert seen


def test_only_weights_that_fill_their_memory_are_updated_in_one_pass() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    weight = torch.zeros(8, 6, 3, 3)
    last = weight.to(memory_format=torch.channels_last)
    cases = (
        (weight, True, True),
        (last, True, False),
        (weight[:, ::2], False, False),
        (weight[0, 0, 0], True, True),
    )
    for tensor, here, there in cases:
        assert can_fuse([torch.zeros(3), tensor], cpu) == here
        assert can_fuse([torch.zeros(3), tensor], cuda) == there
    assert not can_fuse([weight], torch.device("meta"))


def test_a_run_is_saved_and_looked_at_as_often_as_its_recipe_says(tmp_path: Path) -> None:
    seen: list[bool] = []

    def look(event: Event) -> None:
        if event.figures:
            seen.append((tmp_path / "run" / STATE).is_file())

    history = train(recipe(epochs=5, save_every=2, evaluate_every=3), tmp_path / "run", report=look)
    assert ["val" in h for h in history] == [False, False, True, False, True]
    assert seen == [False, True, True, True, True]
    chosen = recipe(epochs=3, save_every=2, evaluate_every=3, channels_last=True)

    def press(event: Event) -> None:
        if event.epoch == 1 and event.step == 1:
            signal.raise_signal(signal.SIGINT)

    train(chosen, tmp_path / "whole")
    with pytest.raises(StoppedError):
        train(chosen, tmp_path / "parts", report=press)
    train(chosen, tmp_path / "parts", resume=True)
    assert same(tmp_path / "whole" / STATE, tmp_path / "parts" / STATE)


def test_a_run_that_fails_at_once_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> Any:
        raise DataError("a file is gone")

    monkeypatch.setattr(DataLoader, "__iter__", fail)
    with pytest.raises(DataError):
        train(recipe(), tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_tensorboard_reads_the_figures(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    chosen = recipe()

    def press(event: Event) -> None:
        if event.epoch == 2 and event.step == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(StoppedError):
        train(chosen, tmp_path / "run", report=press)
    history = train(chosen, tmp_path / "run", resume=True)
    events = accumulator.EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    for name, value in (("loss", lambda h: h["loss"]), ("val/miou", lambda h: h["val"]["miou"])):
        found = [(e.step, e.value) for e in events.Scalars(name)]
        assert found == [(h["epoch"], pytest.approx(value(h), rel=1e-6)) for h in history]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    train(recipe(), tmp_path / "whole")
    program = (
        "import os, sys; from pathlib import Path; import small_net; from binarize import recipes\n"
        "from binarize.training.loop import train\n"
        "def die(e):\n"
        "    if (e.epoch, e.step) == (1, 2): os.kill(os.getpid(), 9)\n"
        "train(recipes.validate(small_net.values(), 'a test'), Path(sys.argv[1]), report=die)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "parts")],
        env={
            **os.environ,
            "PYTHONPATH": str(TESTS),
            "OMP_NUM_THREADS": str(torch.get_num_threads()),  # sums of other parts have other last bits
        },
    )
    assert killed.returncode == -signal.SIGKILL
    train(recipe(), tmp_path / "parts", resume=True)
    assert same(tmp_path / "whole" / STATE, tmp_path / "parts" / STATE)


@pytest.mark.slow
def test_two_processes_learn_the_same_as_one(tmp_path: Path) -> None:
    one = train(recipes.validate(dropping(), "a test"), tmp_path / "one")
    program = (
        "import last_threads; last_threads.watch()\n"
        "import sys; from pathlib import Path; import small_net; from binarize import recipes\n"
        "from binarize.training.loop import train\n"
        "train(recipes.validate(small_net.dropping(), 'a test'), Path(sys.argv[1]))\n"
        "import torch.distributed; assert torch.distributed.get_world_size() == 2\n"
        "from accelerate import PartialState; assert PartialState().num_processes == 2\n"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script),
         str(tmp_path / "two")],
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[:3000]
    assert done.stderr.count(f"{LEFT} 0") == 2, done.stderr
    two = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    for a, b in zip(one, two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    assert two[-1]["val"]["pixels"] == one[-1]["val"]["pixels"]  # every image once


def test_numbers_that_are_not_finite_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaking(nn.Module):
        def __init__(self, *_: Any) -> None:
            super().__init__()
            self.inner, self.calls = SegmentationLoss(), 0

        def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.inner(output, target) * (float("nan") if self.calls == 5 else 1.0)

    monkeypatch.setattr(SegmentationTask, "loss", Breaking)
    with pytest.raises(
        TrainingError, match=r"epoch 2, step 2: the loss is not finite, and so is the gradient"
    ):
        train(recipe(), tmp_path / "run")
    state = load_file(tmp_path / "run" / STATE)
    assert all(bool(torch.isfinite(t).all()) for t in state.values() if t.is_floating_point())


def test_a_folder_is_not_used_twice_by_accident(tmp_path: Path) -> None:
    train(recipe(epochs=1), tmp_path)
    with pytest.raises(ConfigError, match="holds a run already; continue it with --resume"):
        train(recipe(epochs=1), tmp_path)
    with pytest.raises(ConfigError, match=r"of another recipe: training.lr was 0.003, is 0.1"):
        train(recipe(epochs=1, lr=0.1), tmp_path, resume=True)
    assert len(train(recipe(epochs=1), tmp_path, resume=True)) == 1  # complete: nothing to do


def test_a_batch_that_parts_cannot_share() -> None:
    with pytest.raises(ConfigError, match="not a multiple of accumulate"):
        recipe(batch=9, accumulate=2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.batch=1", "one image at a time.*training.batch"),
        ("data.augmentation.size=[2, 2]", r"data.augmentation.size \[2, 2\] is too small for the network"),
    ],
)
def test_too_few_or_too_small_images_are_named(setting: str, message: str, tmp_path: Path) -> None:
    chosen = recipes.load("shapes/tiny-float", ["training.epochs=1", "data.options.length=2", setting])
    with pytest.raises(ConfigError, match=message):
        train(chosen, tmp_path / "run")


def test_depth(tmp_path: Path) -> None:
    plain = values(epochs=2)
    plain["data"]["options"]["task"] = "depth"
    history = train(recipes.validate({**plain, "method": None}, "a test"), tmp_path)
    assert history[-1]["val"]["abs_rel"] > 0
    assert "flipped" not in history[-1]


def test_a_kill_between_the_last_two_writes_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe(), tmp_path / "whole")
    write, calls = checkpoint.save_state, []

    def third_time_dead(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise SystemExit  # the model is written, the state is not
        write(*args)

    monkeypatch.setattr(checkpoint, "save_state", third_time_dead)
    with pytest.raises(SystemExit):
        train(recipe(), tmp_path / "parts")
    monkeypatch.setattr(checkpoint, "save_state", write)
    history = train(recipe(), tmp_path / "parts", resume=True)
    assert [h["epoch"] for h in history] == [1, 2, 3]
    for name in (STATE, MODEL):
        assert same(tmp_path / "whole" / name, tmp_path / "parts" / name)


def test_other_data_under_a_begun_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(recipe(epochs=2), tmp_path)
    monkeypatch.setattr(Batches, "steps", property(lambda self: 5))
    with pytest.raises(ConfigError, match="started with 3 steps per epoch, this data makes 5"):
        train(recipe(epochs=2), tmp_path, resume=True)


def test_starting_from_a_float_network_and_learning_from_it(tmp_path: Path) -> None:
    floats = values(epochs=1)
    train(recipes.validate({**floats, "method": None}, "a test"), tmp_path / "float")
    weights = load_file(tmp_path / "float" / MODEL)
    started = network(recipe(start_from=str(tmp_path / "float" / MODEL)), create("shapes", "val").truth)
    assert torch.equal(started.state_dict()["classifier.weight"], weights["classifier.weight"])
    assert torch.equal(started.state_dict()["encoder.3.weight"], weights["encoder.3.weight"])
    with pytest.raises(ConfigError, match="fits neither the float network"):
        network(recipe(start_from=str(TESTS / "small_net.py")), create("shapes", "val").truth)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_teachers_loss_by_its_formula(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    student, master = Small(4, None).eval(), Small(4, None).eval()
    monkeypatch.setattr("binarize.files.load", lambda path: master)
    monkeypatch.setattr("binarize.files.container.read_metadata", lambda path: {})
    settings = Distillation(teacher="x", weight=2.0, temperature=temperature, features=0.5)
    teacher = Teacher(settings, student, torch.device("cpu"))
    images = torch.randn(2, 3, 16, 16)
    output = student(images)
    expected_output = master(images)
    p = (expected_output / temperature).softmax(1).double()
    q = (output / temperature).softmax(1).double()
    divergence = temperature**2 * (p * (p.log() - q.log())).sum(1).mean()
    apart = [
        ((a - b) ** 2).mean() / (b**2).mean()
        for a, b in zip(student.encoder(images), master.encoder(images), strict=True)
    ]
    expected = 2.0 * divergence + 0.5 * sum(apart) / len(apart)
    assert teacher.loss(images, output).item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_teacher_of_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    student = Small(4, None).eval()
    monkeypatch.setattr("binarize.files.load", lambda path: copy.deepcopy(student).half())
    monkeypatch.setattr("binarize.files.container.read_metadata", lambda path: {})
    teacher = Teacher(Distillation(teacher="x"), student, torch.device("cpu"))
    images = torch.randn(2, 3, 16, 16)
    assert teacher.loss(images, student(images)).item() == pytest.approx(0, abs=1e-4)


def test_a_classifiers_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    student, master = (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)) for _ in range(2))
    monkeypatch.setattr("binarize.files.load", lambda path: copy.deepcopy(master))
    monkeypatch.setattr("binarize.files.container.read_metadata", lambda path: {})
    teacher = Teacher(Distillation(teacher="x"), student, torch.device("cpu"))
    images = torch.randn(3, 3, 2, 2)
    p, q = (net(images).softmax(1).double() for net in (master, student))
    expected = (p * (p.log() - q.log())).sum(1).mean()
    assert teacher.loss(images, student(images)).item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_teacher_keeps_no_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    student = Small(4, None)
    monkeypatch.setattr("binarize.files.load", lambda path: Small(4, None).eval())
    monkeypatch.setattr("binarize.files.container.read_metadata", lambda path: {})
    teacher = Teacher(Distillation(teacher="x", features=1.0), student, torch.device("cpu"))
    maps: list[weakref.ref[torch.Tensor]] = []
    student.encoder.register_forward_hook(lambda module, args, found: maps.extend(map(weakref.ref, found)))
    images = torch.randn(2, 3, 16, 16)
    teacher.loss(images, student(images)).backward()
    assert maps
    assert all(kept() is None for kept in maps)


def test_weights_are_float_in_the_first_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from binarize.layers import BinaryLayer
    from binarize.training.stages import FloatWeights

    seen: list[bool] = []
    create = setup.network

    def watched(*args: Any, **kwargs: Any) -> nn.Module:
        net = create(*args, **kwargs)
        layer = next(m for m in net.modules() if isinstance(m, BinaryLayer))
        layer.register_forward_hook(
            lambda m, *_: seen.append(isinstance(m.weight_rule, FloatWeights)) if m.training else None
        )
        return net

    monkeypatch.setattr(setup, "network", watched)
    train(recipe(activations_first=0.5), tmp_path)
    assert seen == [True] * 6 + [False] * 3
