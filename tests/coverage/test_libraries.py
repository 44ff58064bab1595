"""Networks of other libraries than timm: what is checked of them, and the catalogues."""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import binarize
from binarize.coverage import Record, catalogue, check, outputs, pool, trials
from binarize.coverage.catalogue import CatalogueSubject
from binarize.coverage.libraries.network import Given, Network
from binarize.errors import ConfigError
from binarize.graph import execute

LIBRARIES = ("smp", "torchvision", "transformers")


class Stereo(nn.Module):
    """Two images in; a map and a vector out, of one head each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(6, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.out = nn.Conv2d(16, 2, 1)
        self.score = nn.Linear(16, 3)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
        x = torch.relu(self.norm(self.stem(torch.cat([left, right], 1))))
        x = torch.relu(x + self.body(x))
        return {"map": self.out(x), "scores": [self.score(x.mean((2, 3)))]}


def both(images: Tensor, training: bool) -> Given:
    return {"left": images[:, :3], "right": images[:, 3:]}


def network(name: str = "stereo", heads: Sequence[str] = ("out", "score"), **more: Any) -> Network:
    given: dict[str, Any] = {"channels": 6, "sizes": ((16, 16), (16, 24)), "feed": both, **more}
    return Network(name=name, task="flow", build=Stereo, heads=tuple(heads), **given)


Own = Callable[..., CatalogueSubject]


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Own]:
    """A library of one network."""

    def make(entry: Network) -> CatalogueSubject:
        module = types.ModuleType("own")
        module.NETWORKS = (entry,)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "binarize.coverage.libraries.own", module)
        monkeypatch.setitem(catalogue.DISTRIBUTIONS, "own", "torch")
        catalogue.catalogue.cache_clear()
        return CatalogueSubject(name=entry.name, library="own")

    yield make
    catalogue.catalogue.cache_clear()
    catalogue._measure.cache_clear()


def test_a_network_of_two_inputs_passes_with_all_steps(own: Own) -> None:
    subject = own(network())
    record = check(subject)
    assert record.status == "pass", record.reason
    assert (record.library, record.name, record.family) == ("own", "stereo", "flow")
    steps = {"build", "plan", "convert", "forward", "backward", "batch", "load", "pack", "resize", "final"}
    assert set(record.seconds) == steps | {"total"}
    assert (record.size, record.second_size) == ((6, 16, 16), (6, 16, 24))
    assert record.convs_converted == 1
    assert record.not_packed == ()
    kept = {name for output in record.outputs for name in output["kept"]}
    assert kept == {"out", "score"}
    assert Record.loads(record.dumps()) == record
    assert subject.measure() == (sum(p.numel() for p in Stereo().parameters()), 3)


def test_final_layers_are_those_of_the_source() -> None:
    made = binarize.plan(Stereo().eval(), example_inputs=both(torch.zeros(1, 6, 16, 16), False))
    outputs.final_layers(made, ["out", "score"], [])
    outputs.final_layers(made, ["out"], ["sc*"])
    with pytest.raises(trials.CheckError, match="final layers made binary: body"):
        outputs.final_layers(made, ["out", "score", "body"], [])
    with pytest.raises(trials.CheckError, match="kept as final layers, but they are not: score"):
        outputs.final_layers(made, ["out"], [])


def test_a_wrong_final_layer_is_a_failure(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("binarize.coverage.checks._Check._at_sizes", lambda *given, **more: None)
    record = check(own(network(heads=["body"])))
    assert (record.status, record.failed) == ("fail", "final")
    assert record.reason == "final layers made binary: body"


def test_an_output_of_another_structure_is_found(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    class Half(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, **given: Tensor) -> Any:
            return {"map": self.model(**given)["map"]}

    monkeypatch.setattr("binarize.coverage.checks.execute", lambda plan, model: Half(execute(plan, model)))
    record = check(own(network()))
    assert (record.status, record.failed) == ("fail", "convert")
    assert "'scores': [(2, 3) float32]" in record.reason


def converted(subject: CatalogueSubject) -> tuple[nn.Module, Tensor]:
    """A network with the statistics of a batch, and images."""
    size = subject.network.channels, *subject.network.sizes[0]
    model = binarize.apply(subject.build(), "bidense", example_inputs=subject.example(size))
    images = torch.randn(2, *size)
    with trials.statistics_of_one_batch(model.train()), torch.no_grad():
        trials.call(model, subject.feed(images, True))
    return model.eval(), images


def test_packed_layers_that_compute_something_else_are_found(
    own: Own, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subject = own(network())
    model, images = converted(subject)
    assert trials.packing(model, subject, images, str(tmp_path)) == {}

    def worn(model: nn.Module) -> nn.Module:
        packed = binarize.deploy(model)
        layer = next(iter(binarize.runtime.deployed_layers(packed).values()))
        layer.bits.bitwise_not_()
        return packed

    monkeypatch.setattr("binarize.coverage.trials.deploy", worn)
    with pytest.raises(trials.CheckError, match="packed, body differs in"):
        trials.packing(model, subject, images, str(tmp_path))


def test_a_packed_file_that_gives_something_else_is_found(
    own: Own, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subject = own(network())
    model, images = converted(subject)

    def other(path: Path, float_model: nn.Module) -> nn.Module:
        loaded = binarize.load(path, float_model)
        loaded.get_submodule("out").bias.data.add_(1)
        return loaded

    monkeypatch.setattr("binarize.coverage.trials.load", other)
    with pytest.raises(trials.CheckError, match="packed model gives another output"):
        trials.packing(model, subject, images, str(tmp_path))


def test_a_layer_that_nothing_depends_on_may_be_named(own: Own) -> None:
    subject = own(network())
    model, images = converted(subject)
    model.get_submodule("body").requires_grad_(False)
    outputs = trials.train(model, subject, images)
    with pytest.raises(trials.NotFiniteError, match=r"1 latent weights .* first body \(none\)"):
        trials.backward(model, subject, outputs)
    subject = own(network(idle=("bo*",)))
    trials.backward(model, subject, trials.train(model, subject, images))


def test_what_belongs_to_the_first_image(own: Own) -> None:
    objects = [{"boxes": torch.zeros(3, 4)}, {"boxes": torch.zeros(1, 4)}]
    found = own(network(first=(0,), counted=True)).of_first(objects)
    assert [tuple(tensor.shape) for tensor in found] == [(3, 4)]
    output = {"logits": torch.zeros(2, 5), "queries": torch.zeros(7, 2)}
    found = own(network(only=("logits",))).of_first(output)
    assert [tuple(tensor.shape) for tensor in found] == [(1, 5)]
    assert own(network(counted=True)).layout(objects) == own(network(counted=True)).layout(objects[::-1])
    assert own(network()).layout(objects) != own(network()).layout(objects[::-1])


def test_a_process_is_told_the_library(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = own(network())
    asked: list[dict[str, Any]] = []

    class Process:
        alive, done = True, 0

        def ask(self, line: str) -> str:
            asked.append(json.loads(line))
            keys = ("library", "name", "use", "method")
            given = {key: asked[-1][key] for key in keys}
            return Record(**given, versions=subject.versions(), status="pass").dumps()

        def close(self) -> None:
            pass

    monkeypatch.setattr(pool, "Worker", Process)
    work = pool.jobs_for([subject], ["bidense"], min_convs=99)  # which is about timm's models
    found = pool.run(work, processes=1, memory=1 << 30)
    assert [(r.library, r.name, r.status) for r in found] == [("own", "stereo", "pass")]
    assert asked[0]["library"] == "own"


def test_networks_by_library_and_glob(own: Own) -> None:
    own(network())
    named = [(s.library, s.name, s.use) for s in catalogue.chosen(["own"], [], ["model"])]
    assert named == [("own", "stereo", "model")]
    several = catalogue.chosen(["timm", "own"], ["resnet18", "ster*"], ["model", "upernet"])
    assert [(s.library, s.name, s.use) for s in several] == [
        ("timm", "resnet18", "model"),
        ("timm", "resnet18", "upernet"),
        ("own", "stereo", "model"),
    ]
    with pytest.raises(
        ConfigError, match=r"'steroe' matches none of the 1 networks of own; did you mean stereo"
    ):
        catalogue.chosen(["own"], ["steroe"], ["model"])
    with pytest.raises(ConfigError, match="did you mean 'transformers'"):
        catalogue.chosen(["transformer"], [], ["model"])


@pytest.mark.parametrize(
    ("library", "module", "distribution"),
    [
        ("smp", "segmentation_models_pytorch", "segmentation-models-pytorch"),
        ("transformers", "transformers", "transformers"),
    ],
)
def test_a_library_that_is_missing_is_named(
    library: str, module: str, distribution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for name in (library, "small_transformers"):
        monkeypatch.delitem(sys.modules, f"binarize.coverage.libraries.{name}", raising=False)
    catalogue.catalogue.cache_clear()
    with pytest.raises(ConfigError, match=rf"{distribution} cannot be imported .*pip install {distribution}"):
        catalogue.chosen([library], [], ["model"])


def test_final_layers_of_a_network_with_two_outputs() -> None:
    model = Stereo().eval()
    made = binarize.plan(model, example_inputs=both(torch.zeros(1, 6, 16, 16), False))
    found = outputs.outputs_of(made)
    assert json.loads(json.dumps(found)) == list(found)
    assert {name for output in found for name in output["kept"]} == {"out", "score"}


def installed(library: str) -> None:
    """Skip where a library is not there; which the default tests do without."""
    pytest.importorskip("segmentation_models_pytorch" if library == "smp" else library)


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_every_network_of_a_library_passes(library: str, tmp_path: Path) -> None:
    """BINARIZE_COVERAGE names a file to keep the results in; what it holds is not checked again."""
    installed(library)
    chosen = catalogue.chosen([library], [], ["model"])
    assert len(chosen) >= 14
    kept = os.environ.get("BINARIZE_COVERAGE")
    records = Path(kept) if kept else tmp_path / "records.jsonl"
    memory = int(0.8 * pool.available_memory())
    found = pool.run(pool.jobs_for(chosen, ["bidense"]), processes=2, memory=memory, records=records)
    assert [f"{r.name}: {r.failed}: {r.reason}" for r in found if r.status != "pass"] == []
    assert all(r.outputs for r in found)


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_catalogues_name_layers_that_exist(library: str) -> None:
    installed(library)
    from fnmatch import fnmatchcase

    for entry in catalogue.catalogue(library).values():
        names = [name for name, module in entry.build().named_modules() if hasattr(module, "weight")]
        for glob in (*entry.heads, *entry.beside):
            assert any(fnmatchcase(name, glob) for name in names), f"{entry.name}: {glob}"
