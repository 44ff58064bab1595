"""Reports on what programs fuse: names of the network, reasons, and what there is without a program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from program_nets import Net, front, pair, plain, same
from torch import Tensor, nn
from torch.nn import functional as F

import binarize
from binarize import native
from binarize.cli import run
from binarize.errors import ConfigError
from binarize.native.library import available
from binarize.runtime import fusions, report

pytestmark = pytest.mark.skipif(not available(), reason="the native kernels are not built")

X = torch.rand(1, 3, 40, 32)


class Wide(Net):
    """With a third binary layer, small float ones, and activations that are modules."""

    def __init__(self, forward: Any) -> None:
        super().__init__(forward)
        self.c = nn.Conv2d(70, 70, 3, padding=1)
        self.down, self.up = nn.Conv2d(70, 6, 1), nn.Conv2d(6, 70, 1)
        self.strided = nn.Conv2d(70, 5, 1, stride=2)
        self.gelu, self.sigmoid, self.pool = nn.GELU(), nn.Sigmoid(), nn.MaxPool2d(2)


def gelu_behind(net: Any, x: Tensor) -> Tensor:
    return net.head(net.c(net.gelu(front(net, x))))


def gelu_in_gate(net: Any, x: Tensor) -> Tensor:
    y = front(net, x)
    return net.head(net.c(y * net.sigmoid(net.up(net.gelu(net.down(y.mean((2, 3), keepdim=True)))))))


def sum_of_others(net: Any, x: Tensor) -> Tensor:
    y = front(net, x)
    return net.head(net.pool(net.c(y)) + net.pool(y))


def nearest(net: Any, x: Tensor) -> Tensor:
    return net.head(net.c(F.interpolate(front(net, x), scale_factor=2)))


def resized_for_two(net: Any, x: Tensor) -> Tensor:
    y = F.interpolate(front(net, x), size=(20, 20), mode="bilinear")
    return net.head(net.c(y)) + y.mean()


def read_twice(net: Any, x: Tensor) -> Tensor:
    y = torch.tanh(front(net, x))
    return net.head(net.c(net.sigmoid(y))) + y.mean()


def pooled(net: Any, x: Tensor) -> Tensor:
    return net.head(net.c(net.pool(front(net, x))))


def strided(net: Any, x: Tensor) -> Tensor:
    return net.strided(net.c(front(net, x)))


MISSED = [
    (gelu_behind, "activation", "packed layers do not compute gelu", "gelu"),
    (gelu_in_gate, "squeeze_excite", "small layers do not compute gelu", "down"),
    (sum_of_others, "residual", "no term is a packed layer's own result", "add"),
    (nearest, "resize", "packed layers interpolate bilinearly only", "upsample"),
    (resized_for_two, "resize", "not one packed layer alone reads its result", "upsample"),
    (read_twice, "pointwise", "others read the elementwise result", "sigmoid"),
    (pooled, "channel_sums", "no packed layer, stem or elementwise step makes its input", "c"),
    (strided, "classifier", "it has a stride, padding or groups", "strided"),
]


@pytest.mark.parametrize(("forward", "name", "reason", "place"), MISSED, ids=[m[0].__name__ for m in MISSED])
def test_what_nearly_fits_says_why_not_and_where(forward: Any, name: str, reason: str, place: str) -> None:
    _, packed = pair(Wide(forward), "bnn" if forward is gelu_behind else "bidense", example_inputs=X)
    found = fusions(packed, X)
    assert not found.reasons
    (program,) = found.programs
    missed = {(f.name, m.reason): m.places for f in program.fusions for m in f.missed}
    where = [
        p for (fusion, why), places in missed.items() if fusion == name and reason in why for p in places
    ]
    assert any(p == place or p.startswith(f"{place}_") for p in where), missed
    assert reason in " ".join(str(found).split())
    assert max(map(len, str(found).splitlines())) <= 80


def test_what_is_fused_has_the_names_of_the_network() -> None:
    _, packed = pair(Net(plain), example_inputs=X)
    assert "made at the second call" in str(fusions(packed))
    assert report(packed).fusions == fusions(packed)
    (program,) = fusions(packed, X).programs
    taken = {f.name: f.taken for f in program.fusions}
    assert taken["classifier"] == ("head",)
    assert taken["activation"] == ("r",)
    assert set(taken["channel_sums"]) == {"a", "b"} or taken["channel_sums"] == ("b",)
    assert program.shapes == (tuple(X.shape),)
    now = report(packed).fusions
    assert now is not None
    assert now.programs == (program,)
    assert packed.deploy_report.fusions is None
    assert packed.deploy_report == report(packed)
    assert json.loads(json.dumps(now.as_dict()))["programs"][0]["shapes"] == [list(X.shape)]


def test_a_sum_that_is_fused_is_no_missed_one() -> None:
    _, packed = pair(Wide(lambda net, x: net.head(net.c(y := front(net, x)) + y.flip(3))), example_inputs=X)
    (program,) = fusions(packed, X).programs
    (sums,) = [f for f in program.fusions if f.name == "residual"]
    assert len(sums.taken) == 1
    assert not sums.missed


def test_processors_on_which_torch_is_as_fast() -> None:
    _, packed = pair(Net(plain), example_inputs=X)
    try:
        native.set_isa("portable")
        (program,) = fusions(packed, X).programs
    finally:
        native.set_isa("auto")
    (found,) = [f for f in program.fusions if f.name == "stem"]
    assert [(m.reason, m.places) for m in found.missed] == [
        ("without AVX2, torch's convolution is faster", ("stem",))
    ]


def test_networks_without_a_program() -> None:
    _, packed = pair(Net(lambda net, x: plain(net, x) * float(x.mean())), example_inputs=X)
    found = fusions(packed, X)
    assert not found.programs
    assert len(found.reasons) == 1
    assert "no program: torch.export" in str(found)
    with pytest.raises(ConfigError, match="Net has no programs"):
        fusions(Net(plain))


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = binarize.save(pair(Net(plain), example_inputs=X)[0], tmp_path / "m.safetensors")
    (tmp_path / "net.py").write_text(
        "from program_nets import Net, plain\n\n\ndef make():\n    return Net(plain)\n"
    )
    given = [str(file), "--force", "--fusions", "--model", f"{tmp_path / 'net.py'}:make"]
    assert run(["deploy", *given]) == 0
    out = capsys.readouterr().out
    assert "fusions for inputs of 1x3x40x32" in out
    assert "classifier" in out
    assert run(["deploy", *given, "--json"]) == 0
    names = {f["name"] for f in json.loads(capsys.readouterr().out)["fusions"]["programs"][0]["fusions"]}
    assert {"classifier", "activation"} <= names
    assert run(["bench", "--suite", "--fusions"]) == 2
    assert "--fusions" in capsys.readouterr().err


def two_positions(net: Any, x: Tensor) -> Tensor:
    return net.head(net.c(front(net, x)[:, :, :1, :2]))


def test_a_classifier_of_few_positions_is_a_step_of_its_own() -> None:
    """Its weights would be laid out for the layer's kernel at each call."""
    model, packed = pair(Wide(two_positions), example_inputs=X)
    (program,) = fusions(packed, X).programs
    (found,) = (f for f in program.fusions if f.name == "classifier")
    assert not found.taken
    assert any("fewer positions" in missed.reason for missed in found.missed)
    with torch.no_grad():
        assert same(packed(X), model(X))
