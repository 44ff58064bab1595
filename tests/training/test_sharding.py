"""Networks that are split between processes (FSDP 2) learn what whole ones learn."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small_net
import torch
from last_threads import LEFT
from safetensors.torch import load_file

from binarize import recipes
from binarize.errors import ConfigError
from binarize.training.environment import (
    ShardingSettings,
    fsdp_hidden_from_accelerate,
    requested_sharding,
)
from binarize.training.loop import MODEL, STATE, train
from binarize.training.saved import load

TESTS = Path(__file__).parents[1]
WISH = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def two_processes(
    out: Path, values: dict[str, Any], how: str = "split", **environment: str
) -> list[dict[str, Any]]:
    """The figures of all epochs."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         str(TESTS / "sharded_run.py"), str(out), json.dumps(values), how],
        env={**os.environ, **WISH, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count(f"{LEFT} 0") == 2, done.stderr[-3000:]
    assert "returned a view" not in done.stderr  # FSDP's warning of gradients that may be lost
    return history(out) if (out / "log.jsonl").exists() else []


def history(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def same(a: Path, b: Path) -> bool:
    first, second = load_file(a), load_file(b)
    return first.keys() == second.keys() and all(torch.equal(t, second[name]) for name, t in first.items())


def agree(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> None:
    for one, two in zip(a, b, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
        for share in {"flipped", "dead"} & one.keys():  # an epoch that was begun elsewhere has none
            assert one[share] == pytest.approx(two[share], abs=2e-3)
        assert one["val"]["pixels"] == two["val"]["pixels"]  # every image once
        assert one["val"]["miou"] == pytest.approx(two["val"]["miou"], abs=0.02)


@pytest.mark.slow
def test_a_split_network_learns_the_same_as_a_whole_one(tmp_path: Path) -> None:
    values = small_net.dropping(ema=0.5, clip=0.5, activations_first=0.5, channels_last=True)
    agree(
        train(recipes.validate(values, "a test"), tmp_path / "one"), two_processes(tmp_path / "two", values)
    )
    one, two = (load_file(tmp_path / name / STATE) for name in ("one", "two"))
    assert {n: (t.shape, t.dtype) for n, t in one.items()} == {n: (t.shape, t.dtype) for n, t in two.items()}
    # the files are those of whole networks
    one, two = (load(tmp_path / name)[1] for name in ("one", "two"))
    assert {n: type(m) for n, m in one.named_modules()} == {n: type(m) for n, m in two.named_modules()}
    average = {n.removeprefix("average/"): t for n, t in load_file(tmp_path / "two" / STATE).items()}
    assert all(torch.equal(p, average[n]) for n, p in two.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [None, "bnn", "reactnet", "adabin", "bisrnet", "xnor", "rbnn", "recu", "bit"]
)
@pytest.mark.parametrize("network", ["small", "small-tied"])
def test_any_network_can_be_split(tmp_path: Path, method: str | None, network: str) -> None:
    values = small_net.values(epochs=1, ema=0.5, clip=0.5)
    values["network"]["name"] = network
    values["method"] = None if method is None else {"name": method}
    agree(
        train(recipes.validate(values, "a test"), tmp_path / "one"), two_processes(tmp_path / "two", values)
    )
    one, two = (load(tmp_path / name)[1].state_dict() for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.slow
def test_two_processes_learn_from_a_teacher_as_one(tmp_path: Path) -> None:
    values = small_net.values(epochs=1, lr=1e-9)  # a sign that flips would hide what is compared
    values["network"] = {"encoder": "test_convnext", "options": {"width": 16}}  # a file tells of it
    values["data"]["options"]["size"] = values["data"]["augmentation"]["size"] = [64, 64]
    train(recipes.validate({**values, "method": None}, "a test"), tmp_path / "teacher")
    teacher = {"teacher": str(tmp_path / "teacher" / MODEL), "features": 1.0}
    values["training"]["distillation"] = teacher
    one = train(recipes.validate(values, "a test"), tmp_path / "one")
    agree(one, two_processes(tmp_path / "whole", values, "unsplit", ACCELERATE_USE_FSDP="false"))
    agree(one, two_processes(tmp_path / "split", values))


@pytest.mark.slow
def test_a_stopped_split_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    values = small_net.values(ema=0.5)
    two_processes(tmp_path / "whole", values)
    two_processes(tmp_path / "parts", values, "stop")
    shutil.copytree(tmp_path / "parts", tmp_path / "alone")
    two_processes(tmp_path / "parts", values, "resume")
    assert same(tmp_path / "whole" / STATE, tmp_path / "parts" / STATE)
    assert same(tmp_path / "whole" / MODEL, tmp_path / "parts" / MODEL)
    alone = train(recipes.validate(values, "a test"), tmp_path / "alone", resume=True)
    agree(alone, history(tmp_path / "whole"))


@pytest.mark.slow
def test_gradients_of_parts_add_up_as_in_processes_with_whole_networks(tmp_path: Path) -> None:
    values = small_net.values(accumulate=2, clip=0.5)
    split = two_processes(tmp_path / "split", values, FSDP_RESHARD_AFTER_FORWARD="false")
    agree(two_processes(tmp_path / "whole", values, "unsplit", ACCELERATE_USE_FSDP="false"), split)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "true", r"set to DeepSpeed \(ACCELERATE_USE_DEEPSPEED=true\).*torchrun"),
        ("ACCELERATE_USE_MEGATRON_LM", "1", r"set to Megatron-LM \(ACCELERATE_USE_MEGATRON_LM=1\)"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "True", "set to a parallelism config"),
        (
            "FSDP_VERSION",
            "1",
            "version 1 of FSDP.*expected 2: `accelerate launch --use_fsdp --fsdp_version 2`",
        ),
        ("FSDP_OFFLOAD_PARAMS", "true", "FSDP_OFFLOAD_PARAMS=true.*parameters stay on the device.*false"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "FSDP_ACTIVATION_CHECKPOINTING=true"),
    ],
)
def test_what_is_not_offered(
    variable: str, value: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv(variable, "2" if variable == "FSDP_VERSION" else "false")
    assert requested_sharding() == ShardingSettings()
    monkeypatch.setenv(variable, value)
    recipe = recipes.validate(small_net.values(epochs=1), "a test")
    with pytest.raises(ConfigError, match=message):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in WISH:
        monkeypatch.delenv(variable, raising=False)
    assert requested_sharding() is None
    monkeypatch.setenv("FSDP_VERSION", "1")  # of no interest
    assert requested_sharding() is None
    monkeypatch.delenv("FSDP_VERSION")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "1")
    monkeypatch.setenv("FSDP_RESHARD_AFTER_FORWARD", "false")
    assert requested_sharding() == ShardingSettings(reshard=False)
    with fsdp_hidden_from_accelerate():
        assert "ACCELERATE_USE_FSDP" not in os.environ
    assert os.environ["ACCELERATE_USE_FSDP"] == "1"


def test_a_single_process_holds_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(recipes.validate(small_net.values(epochs=1), "a test"), tmp_path / "whole")
    for variable, value in WISH.items():
        monkeypatch.setenv(variable, value)
    assert (
        train(recipes.validate(small_net.values(epochs=1), "a test"), tmp_path / "run")[0]["loss"]
        == whole[0]["loss"]
    )
    assert same(tmp_path / "whole" / STATE, tmp_path / "run" / STATE)
