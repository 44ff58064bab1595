"""The last layers of a network's outputs stay float, whatever follows them; those of features do not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import binarize
from binarize.graph import Plan, Policy

C = 16
IMAGE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
Ending = Callable[["Ended", Tensor, Tensor], Any]


def block(channels: int = C) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())


class Ended(nn.Module):
    """Stem, body, a head, and what a network does with the head's result."""

    def __init__(self, end: Ending, out: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, C, 3, padding=1)
        self.body = block()
        self.head = nn.Conv2d(C, out, 3, padding=1)
        self.end = end
        self.scale = nn.Parameter(torch.ones(out, 1, 1))
        self.norm = nn.BatchNorm2d(out)
        self.relu, self.softplus, self.leaky = nn.ReLU(), nn.Softplus(), nn.LeakyReLU()

    def forward(self, x: Tensor) -> Any:
        return self.end(self, self.head(self.body(self.stem(x))), x)


ENDINGS: dict[str, tuple[Ending, int]] = {
    "relu module": (lambda s, y, x: s.relu(y), 1),
    "relu function": (lambda s, y, x: F.relu(y), 1),
    "relu of many classes": (lambda s, y, x: F.relu(y), 19),
    "leaky relu": (lambda s, y, x: s.leaky(y), 2),
    "elu + 1": (lambda s, y, x: F.elu(y) + 1, 1),
    "softplus module": (lambda s, y, x: s.softplus(y), 1),
    "softplus + constant": (lambda s, y, x: F.softplus(y) + 1e-3, 1),
    "exp": (lambda s, y, x: y.exp(), 1),
    "clamp": (lambda s, y, x: y.clamp(min=0), 1),
    "hardtanh": (lambda s, y, x: F.hardtanh(y, 0.0, 1.0), 1),
    "depth of a disparity": (lambda s, y, x: 1 / (0.01 + 9.99 * y.sigmoid()), 1),
    "scaled relu": (lambda s, y, x: 80 * F.relu(y), 1),
    "norm": (lambda s, y, x: s.norm(y), 19),
    "norm and relu": (lambda s, y, x: F.relu(s.norm(y)), 1),
    "unit length": (lambda s, y, x: F.normalize(y, dim=1), 64),
    "learnt scale": (lambda s, y, x: y * s.scale, 3),
    "input + y": (lambda s, y, x: x + y, 3),
    "input - y": (lambda s, y, x: x - y, 3),
    "clamped input + y": (lambda s, y, x: torch.clamp(x + y, 0, 1), 3),
    "sigmoid(y) * input": (lambda s, y, x: y.sigmoid() * x, 3),
    "pixel_shuffle(y) + enlarged input": (
        lambda s, y, x: F.pixel_shuffle(y, 2) + F.interpolate(x, scale_factor=2.0),
        12,
    ),
    "classes, and the best": (lambda s, y, x: {"scores": y, "best": y.argmax(1)}, 5),
    "scores in their order": (lambda s, y, x: y.flatten(1).sort(dim=1).values, 5),
    "some positions": (lambda s, y, x: y.flatten(2)[..., y.flatten(2).sum((0, 1)).topk(3).indices], 5),
    "loss": (lambda s, y, x: (y * y).mean(), 3),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_head_stays_float_whatever_follows(name: str) -> None:
    end, out = ENDINGS[name]
    model = Ended(end, out).eval()
    made = binarize.plan(model, "bidense", example_inputs=IMAGE)
    assert [row.name for row in made.converted] == ["body.0"]
    assert {output.final for output in made.outputs} == {("head",)}
    assert all(output.kept == ("head",) for output in made.outputs)
    assert not any(note.startswith("warning") for note in made.notes)


@pytest.mark.parametrize(
    "name", ["relu module", "softplus module", "softplus + constant", "elu + 1", "norm and relu"]
)
def test_an_outputs_function_is_never_replaced(name: str) -> None:
    """Its range is what the network promises, also where the user has the head converted."""
    end, out = ENDINGS[name]
    for policy in (Policy(), Policy(last=0), Policy(last=0, only=("head",))):
        binary = binarize.apply(Ended(end, out), "bidense", example_inputs=IMAGE, policy=policy).eval()
        assert float(binary(IMAGE * 50 - 25).detach().min()) >= 0


def test_a_last_layer_that_becomes_binary_is_a_warning() -> None:
    end, out = ENDINGS["softplus module"]
    made = binarize.plan(Ended(end, out), "bidense", example_inputs=IMAGE, policy=Policy(last=0))
    (output,) = made.outputs
    assert (output.name, output.final, output.kept, output.functions) == (
        "output",
        ("head",),
        (),
        ("Softplus",),
    )
    (warning,) = [note for note in made.notes if note.startswith("warning: ")]
    assert "head becomes binary" in warning
    assert "warning: head becomes binary" in str(made)


class Several(nn.Module):
    """Two stages with a head each; `mode` says what becomes of their results."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.stem, self.first, self.second = nn.Conv2d(3, C, 3, padding=1), block(), block()
        self.side1, self.side2 = nn.Conv2d(C, 1, 3, padding=1), nn.Conv2d(C, 1, 3, padding=1)
        self.fuse, self.back = nn.Conv2d(2, 1, 1), nn.Conv2d(1, C, 1)

    def forward(self, x: Tensor) -> Any:
        a = self.first(self.stem(x))
        y1 = self.side1(a)
        if self.mode == "goes on from a depth":
            a = a + self.back(y1.relu())
        b = self.second(a)
        if self.mode == "one head, called twice":
            return [y1, self.side1(b)]
        if self.mode == "one head, first result dropped":
            return self.side1(b)
        y2 = self.side2(b)
        if self.mode == "fused":
            return torch.sigmoid(self.fuse(torch.cat([y1, y2], 1))), y1.sigmoid(), y2.sigmoid()
        if self.mode == "auxiliary head dropped":
            return y2
        return {"depth": y2.relu(), "coarse": y1.relu()}


@pytest.mark.parametrize(
    ("mode", "final"),
    [
        ("fused", {"side1", "side2", "fuse"}),
        ("one head, called twice", {"side1"}),
        ("one head, first result dropped", {"side1"}),
        ("auxiliary head dropped", {"side1", "side2"}),
        ("goes on from a depth", {"side1", "side2"}),
    ],
)
def test_heads_that_are_used_too_or_dropped(mode: str, final: set[str]) -> None:
    made = binarize.plan(Several(mode), "bidense", example_inputs=IMAGE)
    assert {name for output in made.outputs for name in output.final} == final
    assert {row.name for row in made.rows if row.reason == "final classifier or regressor"} == final


def test_outputs_have_their_names() -> None:
    made = binarize.plan(Several("goes on from a depth"), "bidense", example_inputs=IMAGE)
    assert [(o.name, o.shape, o.final) for o in made.outputs] == [
        ("depth", (1, 1, 16, 16), ("side2",)),
        ("coarse", (1, 1, 16, 16), ("side1",)),
    ]
    assert Plan.from_dict(made.as_dict()) == made
    assert Plan.from_dict(made.as_dict(short=True)) == made
    old = made.as_dict()
    del old["outputs"]  # as earlier files
    assert Plan.from_dict(old).outputs == ()
    assert "output depth: last layer side2, then relu" in str(made)


class Detector(nn.Module):
    """Boxes and scores, decoded, filtered and sorted in the forward, as objects."""

    class Boxes:
        def __init__(self, boxes: Tensor, scores: Tensor) -> None:
            self.boxes, self.scores = boxes, scores

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, C, 3, 2, 1), block()
        self.tower = block()
        self.box, self.score = nn.Conv2d(C, 4, 3, padding=1), nn.Conv2d(C, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        y = self.body(self.stem(x))
        distance = F.relu(self.box(self.tower(y))).flatten(2)
        scores, _ = self.score(y).flatten(2).sigmoid().max(1)
        keep = scores[0].argsort(descending=True)[:5]
        if float(scores.max()) < 0:  # values decide
            keep = keep[:0]
        grid = torch.arange(distance.shape[-1], device=x.device) % 8
        grid = grid.type_as(y) + y.new_full((1,), 0.5)
        boxes = torch.stack([grid - distance[:, 0], grid + distance[:, 2]], 1)
        return [self.Boxes(boxes[:, :, keep], scores[:, keep])]


def test_heads_of_a_detector_with_its_post_processing() -> None:
    made = binarize.plan(Detector(), "bidense", example_inputs=IMAGE)
    assert {row.name for row in made.converted} == {"body.0", "tower.0"}
    assert [o.name for o in made.outputs] == ["0.boxes", "0.scores"]
    assert set(made.outputs[0].final) == {
        "box",
        "score",
    }  # scores choose the boxes


class Recurrent(nn.Module):
    """A flow that is corrected several times, as in RAFT, or a map of classes that is."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, C, 3, padding=1), block()
        self.motion, self.delta = nn.Conv2d(C + out, C, 3, padding=1), nn.Conv2d(C, out, 3, padding=1)
        self.out = out

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.body(self.stem(x))
        flow, flows = torch.zeros(1, self.out, 16, 16), []
        for _ in range(3):
            flow = flow + self.delta(self.motion(torch.cat([y, flow], 1)).relu())
            flows.append(flow)
        return flows


def test_corrections_of_an_output_are_final() -> None:
    made = binarize.plan(Recurrent(2), "bidense", example_inputs=IMAGE)
    assert {o.final for o in made.outputs} == {("delta",)}
    assert "motion" in {row.name for row in made.converted}


class Functional(nn.Module):
    """Its last layer is a function with a weight of the network's own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, C, 3, padding=1), block()
        self.weight = nn.Parameter(torch.rand(5, C))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.body(self.stem(x)).mean((2, 3)), self.weight)


def test_a_functional_classifier_is_the_last_layer() -> None:
    made = binarize.plan(Functional(), "bidense", example_inputs=IMAGE)
    assert [row.name for row in made.converted] == ["body.0"]  # the layer in front of it is not final
    assert made.outputs[0].final == made.outputs[0].kept == ("weight",)


class Pyramid(nn.Module):
    """An encoder of its own that gives the maps of its stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, C, 3, padding=1)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, 2 * c, 3, 2, 1), nn.BatchNorm2d(2 * c), nn.ReLU()) for c in (C, 2 * C)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        return [x := stage(x) for stage in self.stages]


def test_features_convert_all_their_layers() -> None:
    made = binarize.plan(Pyramid(), "bidense", example_inputs=IMAGE)
    assert {row.name for row in made.converted} == {"stages.0.0", "stages.1.0"}
    assert all(output.features and not output.final for output in made.outputs)
    assert [output.changed for output in made.outputs] == [("ReLU",), ("ReLU",)]
    assert any(note.startswith("warning: ReLU in front of outputs 0, 1") for note in made.notes)


@pytest.mark.parametrize("name", ["test_convnext", "test_efficientnet"])
def test_encoders_of_timm_convert_all_their_layers(name: str) -> None:
    made = binarize.plan(timm.create_model(name, features_only=True), "bidense")
    assert not [row.name for row in made.rows if row.reason == "final classifier or regressor"]
    assert all(output.features for output in made.outputs)


def test_a_timm_model_without_classes_gives_features() -> None:
    model = timm.create_model("test_resnet", num_classes=0)
    made = binarize.plan(model, "bidense")
    assert not [row.name for row in made.rows if row.reason == "final classifier or regressor"]


class Tabled(nn.Module):
    """A bias that a small network makes of a table of positions, as in Swin v2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, C, 3, padding=1), block()
        self.table: Tensor
        self.register_buffer("table", torch.rand(4, 2))
        self.query = nn.Parameter(torch.rand(4, C))
        self.position = nn.Sequential(nn.Linear(2, C), nn.ReLU(), nn.Linear(C, C))
        self.ask = nn.Linear(C, C)
        self.head = nn.Conv2d(C, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.stem(x))
        bias = (self.position(self.table) * self.ask(self.query)).mean(0)
        return self.head(y + bias[:, None, None])


def test_layers_that_see_parameters_only_see_no_input() -> None:
    made = binarize.plan(Tabled(), "bidense", example_inputs=IMAGE)
    reasons = {row.name: row.reason for row in made.rows}
    assert {reasons[name] for name in ("position.0", "position.2", "ask")} == {"sees parameters only"}
    assert reasons["stem"] == "stem: sees the input"
    assert [row.name for row in made.converted] == ["body.0"]


class Masks(nn.Module):
    """Masks as products of queries and a map; neck: a convolution and a norm, as an encoder ends."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, C, 3, padding=1), block()
        self.queries, self.embed = nn.Parameter(torch.rand(5, C)), nn.Linear(C, C)
        self.map = nn.Sequential(nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C))
        self.neck = nn.Sequential(nn.Conv2d(C, 32, 3, padding=1), nn.GroupNorm(1, 32))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.body(self.stem(x))
        queries = self.embed(self.queries + y.mean((2, 3)))
        return torch.einsum("qc,nchw->nqhw", queries, self.map(y)), self.neck(y)


def test_factors_behind_a_norm_and_necks_are_features() -> None:
    made = binarize.plan(Masks(), "bidense", example_inputs=IMAGE)
    assert [output.final for output in made.outputs] == [("embed",), ()]
    assert {row.name for row in made.converted} == {"body.0", "map.0", "neck.0"}


def test_what_a_scripted_function_gives_comes_from_what_it_is_given() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises against torch.jit
        metres = torch.jit.script(_metres)
    made = binarize.plan(Ended(lambda s, y, x: metres(y), 1), "bidense", example_inputs=IMAGE)
    assert made.outputs[0].final == ("head",)


def _metres(x: Tensor) -> Tensor:
    return x.sigmoid() * 10


class Padded(nn.Module):
    """Images of several sizes written into one batch, as detectors do; `how` says how."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.stem, self.body, self.head = nn.Conv2d(3, C, 3, padding=1), block(), nn.Conv2d(C, 2, 1)

    def forward(self, images: list[Tensor]) -> Tensor:
        batch = images[0].new_full((len(images), 3, 16, 16), 0.0)
        for index, image in enumerate(images):
            height, width = image.shape[-2:]
            if self.how == "copied into a view":
                batch[index, :, :height, :width].copy_(image)
            elif self.how == "set in a view":
                batch[index][:, :height, :width] = image
            elif self.how == "added to a view":
                part = batch[index].narrow(1, 0, height).narrow(2, 0, width)
                part += image
            else:
                batch[index, :, :height, :width] = image
        return self.head(self.body(self.stem(batch)))


@pytest.mark.parametrize("how", ["copied into a view", "set in a view", "added to a view", "set"])
def test_what_is_written_into_a_part_of_a_tensor_is_in_it(how: str) -> None:
    images = [torch.rand(3, 12, 16), torch.rand(3, 16, 9)]
    made = binarize.plan(Padded(how), "bidense", example_inputs=(images,))
    assert {row.name: row.reason for row in made.rows} == {
        "stem": "stem: sees the input",
        "body.0": "",
        "head": "final classifier or regressor",
    }
