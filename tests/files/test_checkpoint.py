"""Float weights from other people's files."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from binarize.errors import ConfigError, FormatError
from binarize.files import load_checkpoint, save

State = dict[str, torch.Tensor]


@pytest.fixture
def source() -> nn.Module:
    return timm.create_model("test_resnet")


@pytest.fixture
def target() -> nn.Module:
    torch.manual_seed(1)
    return timm.create_model("test_resnet")


def _equal(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


WRAPPED: list[tuple[Callable[[State], Any], str, str]] = [
    (lambda s: s, "", ""),
    (lambda s: {"state_dict": s, "epoch": 3}, "state_dict", ""),
    (lambda s: {"model": s, "optimizer": {"lr": 0.1}}, "model", ""),
    (lambda s: {"model": {k: v * 0 for k, v in s.items()}, "model_ema": s}, "model_ema", ""),
    (lambda s: {"model_ema": {"state_dict": s}}, "model_ema.state_dict", ""),
    (lambda s: {f"module.{k}": v for k, v in s.items()}, "", "module."),
    (
        lambda s: {"state_dict": {f"_orig_mod.module.{k}": v for k, v in s.items()}},
        "state_dict",
        "_orig_mod.module.",
    ),
]


@pytest.mark.parametrize(("wrap", "entry", "prefix"), WRAPPED)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_pytorch_files(tmp_path: Path, source, target, wrap, entry: str, prefix: str, suffix: str):
    torch.save(wrap(dict(source.state_dict())), tmp_path / f"w{suffix}")
    report = load_checkpoint(target, tmp_path / f"w{suffix}")
    assert _equal(source, target)
    assert (report.entry, report.prefix, report.tensors) == (entry, prefix, len(source.state_dict()))


def test_safetensors_file(tmp_path: Path, source, target):
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_checkpoint(target, tmp_path / "w.safetensors")
    assert _equal(source, target)


def test_file_of_ours_with_a_float_model(tmp_path: Path, source, target):
    load_checkpoint(target, save(source, tmp_path / "w.safetensors"))
    assert _equal(source, target)


def test_half_precision_weights_take_the_dtype_of_the_model(tmp_path: Path, source, target):
    torch.save(source.half().state_dict(), tmp_path / "w.pth")
    load_checkpoint(target, tmp_path / "w.pth")
    assert {p.dtype for p in target.parameters()} == {torch.float32}
    assert torch.equal(target.conv1[0].weight, source.conv1[0].weight.float())


def test_batch_counters_may_be_missing(tmp_path: Path, source, target):
    state = {k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pth")
    load_checkpoint(target, tmp_path / "w.pth")
    assert torch.equal(target.fc.weight, source.fc.weight)


def test_tied_weights_may_be_stored_once(tmp_path: Path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b = nn.Linear(4, 4)
            self.b.weight = self.a.weight

    source, target = Tied(), Tied()
    save_file({k: v for k, v in source.state_dict().items() if k != "b.weight"}, tmp_path / "w.safetensors")
    load_checkpoint(target, tmp_path / "w.safetensors")
    assert torch.equal(target.b.weight, source.a.weight)


def _refused(target: nn.Module, path: Path, error: type[Exception], match: str) -> None:
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(error, match=match):
        load_checkpoint(target, path)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_another_architecture(tmp_path: Path, target):
    other = timm.create_model("test_vit")
    torch.save(other.state_dict(), tmp_path / "w.pth")
    total = sum(not k.endswith("num_batches_tracked") for k in target.state_dict())
    _refused(target, tmp_path / "w.pth", FormatError, f"another architecture, 0 of {total} tensors match")


def test_a_near_miss_says_how_many_match_and_what_does_not(tmp_path: Path, source, target):
    state = dict(source.state_dict())
    state["extra.weight"] = torch.zeros(2)
    del state["conv1.0.weight"]
    state["conv1.1.weight"] = torch.zeros(7)
    torch.save(state, tmp_path / "w.pth")
    expected = len(target.state_dict())
    _refused(
        target,
        tmp_path / "w.pth",
        FormatError,
        rf"{expected - 2} of {expected} tensors match; 1 missing \(conv1.0.weight\); "
        r"1 unexpected \(extra.weight\); 1 of another shape \(conv1.1.weight is 7, expected",
    )


def test_a_classifier_of_another_size_is_named_with_its_remedy(tmp_path: Path, target):
    torch.save(timm.create_model("test_resnet", num_classes=21).state_dict(), tmp_path / "w.pth")
    _refused(target, tmp_path / "w.pth", FormatError, r"classifier 'fc' has 21 classes.*num_classes=21")


class Payload:
    """Unpickling it runs code."""

    fired = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Payload, "fired", True))


def test_no_code_of_the_file_runs(tmp_path: Path, target):
    torch.save({"state_dict": Payload()}, tmp_path / "w.pth")
    _refused(target, tmp_path / "w.pth", FormatError, r"it holds a .*setattr, .*torch.save\(model.state_dict")
    (tmp_path / "v.pth").write_bytes(pickle.dumps(Payload(), protocol=2))
    _refused(target, tmp_path / "v.pth", FormatError, "plain weights")
    assert not Payload.fired


@pytest.mark.parametrize("content", [b"", b"garbage", b"<html>404", b"PK\x03\x04broken", b"\x80\x02"])
def test_files_that_are_no_checkpoints(tmp_path: Path, target, content: bytes):
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(content)
        # whatever torch.load says, nobody is told to read such a file unsafely
        _refused(target, tmp_path / name, FormatError, r"corrupted(?!.*weights_only)")


def test_truncated_checkpoint(tmp_path: Path, source, target):
    torch.save(source.state_dict(), tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(content[: len(content) // 2])
    _refused(target, tmp_path / "w.pth", FormatError, "truncated, corrupted")


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, torch.zeros(2)])
def test_checkpoints_without_weights(tmp_path: Path, target, content: Any):
    torch.save(content, tmp_path / "w.pth")
    _refused(target, tmp_path / "w.pth", FormatError, "holds")


def test_unknown_ending_and_missing_file(tmp_path: Path, target):
    (tmp_path / "w.onnx").write_text("")
    _refused(target, tmp_path / "w.onnx", ConfigError, "expected a name that ends in .safetensors, .pth")
    _refused(target, tmp_path / "none.pth", ConfigError, "no such file")


def _prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


OTHERS: list[tuple[Callable[[State], Any], str, str]] = [
    (
        lambda s: {"model_state_dict": s, "epoch": torch.tensor(3), "optimizer_state_dict": {"state": {}}},
        "entry 'model_state_dict'",
        "",
    ),
    (lambda s: {"net": s, "acc": torch.tensor(0.9)}, "entry 'net'", ""),
    (lambda s: {"run": {"best": {"weights": s}}}, "entry 'run.best.weights'", ""),
    (
        lambda s: {"n_averaged": torch.tensor(9), **_prefixed(s, "module.")},
        "'module.', 1 others left out",
        "",
    ),
    (
        lambda s: {"model": _prefixed(s, "module.module."), "ema": {"n_averaged": torch.tensor(9)}},
        "entry 'model', prefix 'module.module.'",
        "",
    ),
    (lambda s: {**_prefixed(s, "backbone."), "head.weight": torch.ones(2)}, "'backbone.', 1 others", ""),
    (lambda s: {"state_dict": _prefixed(s, "encoder.")}, "prefix 'encoder.'", ""),
    (lambda s: _prefixed(s, "net."), "prefix 'net.'", ""),
    (lambda s: _prefixed(s, "module._orig_mod.model.backbone."), "'module._orig_mod.model.backbone.'", ""),
    (lambda s: _prefixed(s, "my.own.words."), "prefix 'my.own.words.'", ""),
    (
        lambda s: {
            "state_dict": {
                **_prefixed({k: v * 0 for k, v in s.items()}, "model."),
                **_prefixed(s, "ema_model."),
            }
        },
        "prefix 'ema_model.'",
        "",
    ),
    (lambda s: {"model": {k: v * 0 for k, v in s.items()}, "swa": s}, "entry 'swa'", ""),
    (lambda s: {"params": {k: v * 0 for k, v in s.items()}, "params_ema": s}, "entry 'params_ema'", ""),
    (lambda s: {k.replace("layer1.", "layer1._orig_mod."): v for k, v in s.items()}, "", ""),
    (
        lambda s: {"state_dict": s, "args": argparse.Namespace(lr=0.1), "best": np.float64(0.3)},
        "entry 'state_dict'",
        "",
    ),
]


@pytest.mark.parametrize(("wrap", "said", "_"), OTHERS)
def test_weights_wherever_they_stand(tmp_path: Path, source, target, wrap, said: str, _: str):
    torch.save(wrap(dict(source.state_dict())), tmp_path / "w.pth")
    report = load_checkpoint(target, tmp_path / "w.pth")
    assert _equal(source, target)
    total = len(source.state_dict())
    assert (report.tensors, report.expected) == (total, total)
    assert f"{total} of {total} tensors" in str(report)
    assert said in str(report)


def test_prefixes_in_safetensors(tmp_path: Path, source, target):
    save_file(_prefixed(dict(source.state_dict()), "module.backbone."), tmp_path / "w.safetensors")
    assert load_checkpoint(target, tmp_path / "w.safetensors").prefix == "module.backbone."
    assert _equal(source, target)


def test_a_file_without_a_classifier(tmp_path: Path, source, target):
    state = {k: v for k, v in source.state_dict().items() if not k.startswith("fc.")}
    torch.save(state, tmp_path / "w.pth")
    _refused(target, tmp_path / "w.pth", FormatError, r"no classifier 'fc'. Build .*'\?num_classes=0'")
    assert load_checkpoint(timm.create_model("test_resnet", num_classes=0), tmp_path / "w.pth")


def test_a_small_part_that_fits_is_not_named(tmp_path: Path, source, target):
    state = {k.replace("layer", "stage"): v for k, v in source.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")  # its stem fits
    with pytest.raises(FormatError, match=r"of \d+ tensors match(?!.*It does fit)"):
        load_checkpoint(target, tmp_path / "w.pth")


def test_two_that_fit_alike_are_named(tmp_path: Path, source, target):
    state = dict(source.state_dict())
    torch.save({"student": state, "teacher": {k: v + 1 for k, v in state.items()}}, tmp_path / "w.pth")
    _refused(target, tmp_path / "w.pth", FormatError, "'student' and 'teacher' all fit this model; which is")


def test_names_that_are_near(tmp_path: Path, source, target):
    state = {k.replace("layer", "stage"): v for k, v in source.state_dict().items()}
    torch.save({"model": state}, tmp_path / "w.pth")
    _refused(
        target,
        tmp_path / "w.pth",
        FormatError,
        r"20 of 80 tensors match; .*entry 'model'.*layer1.0.conv1.weight is like stage1.0.conv1.weight",
    )


def test_a_few_names_that_end_alike_are_not_loaded(tmp_path: Path):
    """The names of a layer stand behind many prefixes; none of them is meant."""
    other = timm.create_model("test_vit")
    torch.save({"model": other.state_dict(), "more": {"x": torch.ones(1)}}, tmp_path / "w.pth")
    _refused(nn.Linear(3, 4), tmp_path / "w.pth", FormatError, "all fit this model; which is meant")
    deep = timm.create_model("test_resnet")
    _refused(deep, tmp_path / "w.pth", FormatError, "0 of .* match; .*the file holds 'model' .* 'more'")


class Dense(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Conv2d(8, 3, 1)


def test_weights_of_the_encoder_alone(tmp_path: Path, source):
    model = Dense(timm.create_model("test_resnet", features_only=True))  # names its layers in another way
    head = model.head.weight.detach().clone()
    torch.save({"model": _prefixed(dict(source.state_dict()), "module.")}, tmp_path / "w.pth")
    total, own = len(model.state_dict()), len(model.encoder.state_dict())
    _refused(
        model,
        tmp_path / "w.pth",
        FormatError,
        rf"It does fit the part 'encoder' \({own} of {total} tensors\)",
    )
    report = load_checkpoint(model, tmp_path / "w.pth", parts=["encoder"])
    assert (report.part, report.tensors, report.expected, report.beside) == ("encoder", own, total, 2)
    assert str(report).endswith("; encoder only")
    weight = next(v for k, v in model.encoder.state_dict().items() if k.endswith("layer4.0.conv1.weight"))
    assert torch.equal(weight, source.layer4[0].conv1.weight)
    assert torch.equal(model.head.weight, head)
    with pytest.raises(ConfigError, match="Dense has no part 'backbone'"):
        load_checkpoint(model, tmp_path / "w.pth", parts=["backbone"])
