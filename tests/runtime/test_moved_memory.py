"""Packed networks whose tensors get other memory: no kernel reads what was freed, or what was there."""

from __future__ import annotations

import copy
import gc
import io
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import binarize
from binarize.layers import RPReLU
from binarize.runtime import PackedLayer
from binarize.runtime.layer_data import LayerData


class Net(nn.Module):
    """A stem with a pool, convolutions of several kinds, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
        self.a, self.act = nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.up = nn.ConvTranspose2d(16, 16, 2, 2)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(self.depth(self.act(self.a(self.stem(x))))))


def tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def layers(model: nn.Module) -> list[PackedLayer]:
    return [m for m in model.modules() if isinstance(m, PackedLayer)]


def _grow(tensor: Tensor) -> None:
    storage = tensor.untyped_storage()
    if not storage.resizable():
        return
    size = storage.nbytes()
    storage.resize_(size + 4096)
    storage.resize_(size)


def _each(change: Callable[[Tensor], Any]) -> Callable[[nn.Module], Any]:
    def act(model: nn.Module) -> None:
        with torch.no_grad():
            for tensor in tensors(model):
                change(tensor)

    return act


MOVES: dict[str, Callable[[nn.Module], Any]] = {
    "tensors shared": _each(lambda t: t.share_memory_()),
    "by file name": _each(lambda t: t.untyped_storage()._share_filename_cpu_()),
    "by descriptor": _each(lambda t: t.untyped_storage()._share_fd_cpu_()),
    "module shared": lambda model: model.share_memory(),
    "sent": lambda model: ForkingPickler.dumps(model),
    "data": _each(lambda t: setattr(t, "data", t.data.clone())),
    "set_": _each(lambda t: t.set_(t.clone())),
    "storage set_": _each(lambda t: t.set_(t.untyped_storage().clone(), 0, t.shape, t.stride())),
    "resized": _each(_grow),
    "swapped buffers": lambda model: [
        setattr(layer, name, getattr(layer, name).clone())
        for layer in layers(model)
        for name in ("bits", "vectors")
    ],
    "to": lambda model: model.double().float(),
    "loaded": lambda model: model.load_state_dict(copy.deepcopy(model.state_dict())),
    "assigned": lambda model: model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True),
    "pickled": lambda model: pickle.dumps(model),
    "saved": lambda model: torch.save(model, io.BytesIO()),
}


def deployed(method: str, **options: Any) -> tuple[nn.Module, nn.Module]:
    """A converted network and its packed form."""
    torch.manual_seed(0)
    model = binarize.apply(Net(), method, example_inputs=torch.rand(1, 3, 32, 32), **options).eval()
    for module in model.modules():
        if isinstance(module, RPReLU):
            for parameter in module.parameters():
                nn.init.uniform_(parameter, 0.1, 1)
    return model, binarize.deploy(model)


def fill_freed_memory() -> list[Tensor]:
    """Memory that was just freed gets other contents."""
    gc.collect()
    return [
        torch.full((n,), float("nan"))
        for n in (4, 8, 16, 32, 48, 64, 80, 96, 128, 256, 512)
        for _ in range(40)
    ]


FAST = ("assigned", "by descriptor", "pickled")
CASES = [
    pytest.param(method, move, marks=() if method == "bidense" and move in FAST else pytest.mark.slow)
    for method in ("bidense", "adabin")
    for move in MOVES
]


@pytest.mark.parametrize(("method", "move"), CASES)
def test_results_stay_when_memory_moves(method: str, move: str) -> None:
    options = {"granularity": "layer"} if method == "bidense" else {}
    _, packed = deployed(method, **options)
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = packed(x)
        for _ in range(2):
            packed(x)  # by its program at last
        MOVES[move](packed)
        held = fill_freed_memory()
        for _ in range(4):
            torch.testing.assert_close(packed(x), expected, rtol=1e-5, atol=1e-6)
    assert held


@pytest.mark.parametrize("how", ["data", "in place", "set_", "swapped"])
@pytest.mark.parametrize("name", ["bits", "vectors"])
def test_new_values_are_seen(name: str, how: str) -> None:
    _, packed = deployed("bidense", granularity="layer")
    layer = packed.a
    x = torch.randn(1, 16, 8, 8)
    with torch.no_grad():
        before, reference = layer(x), layer.reference(x)
        old = getattr(layer, name)
        new = ~old if name == "bits" else 1.5 * old
        if how == "data":
            old.data = new
        elif how == "in place":
            old.copy_(new)
        elif how == "set_":
            old.set_(new)
        else:
            setattr(layer, name, new)
        assert not torch.allclose(layer.reference(x), reference)
        torch.testing.assert_close(layer(x), layer.reference(x), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(layer(x), before)


def _answer(queue: Any, back: Any, threads: int) -> None:
    torch.set_num_threads(threads)  # sums of floats depend on it
    model, x = queue.get()
    with torch.no_grad():
        back.put(model(x).numpy())


@pytest.mark.slow
def test_parent_and_child_compute_the_same() -> None:
    _, packed = deployed("bidense")
    x, maps = torch.rand(1, 3, 32, 32), torch.randn(1, 16, 8, 8)
    context = multiprocessing.get_context("spawn")
    queue, back = context.Queue(), context.Queue()
    with torch.no_grad():
        expected, of_layer = packed(x), packed.a(maps)
        process = context.Process(target=_answer, args=(queue, back, torch.get_num_threads()))
        process.start()
        queue.put((packed, x))
        # While the queue's thread moves the tensors, packed layers read memory of their own. Torch's float
        # layers do not: theirs can be freed under a call, in float networks as well.
        answers = [packed.a(maps) for _ in range(50)]
        other = torch.from_numpy(back.get(timeout=120))
        process.join()
        assert all(torch.equal(answer, of_layer) for answer in answers)
        assert all(torch.equal(answer, expected) for answer in (packed(x), other))


def test_packed_layers_while_a_thread_moves_their_memory() -> None:
    _, packed = deployed("bidense", granularity="layer")
    x = torch.randn(1, 16, 8, 8)
    with torch.no_grad():
        for name in ("a", "depth", "up"):
            expected = packed.get_submodule(name)(x)
            for _ in range(30):
                layer = copy.deepcopy(packed.get_submodule(name))
                layer(x)
                mover = threading.Thread(target=MOVES["by descriptor"], args=(layer,))
                mover.start()
                answers = [layer(x)]
                while mover.is_alive():
                    answers.append(layer(x))
                assert all(torch.equal(answer, expected) for answer in [*answers, layer(x)])


def test_memory_that_moves_while_kernels_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read of memory that another thread freed meanwhile is not kept, and not used."""
    _, packed = deployed("bidense", granularity="layer")
    layer, x, read = packed.a, torch.randn(1, 16, 8, 8), LayerData.signs
    expected = layer.reference(x)
    calls: list[Tensor] = []

    def signs(data: LayerData, dtype: torch.dtype, plane: int = 0) -> Tensor:
        calls.append(read(data, dtype, plane))
        if len(calls) > 1:
            return calls[-1]
        MOVES["by descriptor"](layer)
        return -calls[-1]  # freed memory holds anything

    monkeypatch.setattr(LayerData, "signs", signs)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    assert len(calls) == 2
