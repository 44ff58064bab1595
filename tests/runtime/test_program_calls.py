"""Calls of deployed networks that have programs: threads, watchers, changes, and what cannot be a program."""

from __future__ import annotations

import gc
import threading
import warnings
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from program_nets import Net, front, pair, plain, programs, same, third
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import binarize
from binarize.errors import BinarizeWarning
from binarize.native.library import available
from binarize.runtime.program import dispatch, known

pytestmark = pytest.mark.skipif(not available(), reason="the native kernels are not built")


def test_other_threads_may_call_while_a_program_is_recorded() -> None:
    _, packed = pair(Net(plain))
    x = torch.rand(1, 3, 32, 32)
    wanted = third(packed, x)
    stop, wrong = threading.Event(), list[str]()

    def call() -> None:
        with torch.no_grad():
            while not stop.is_set():
                try:
                    if not same(packed(x), wanted):
                        wrong.append("another result")
                except Exception as error:
                    wrong.append(repr(error))

    other = threading.Thread(target=call)
    other.start()
    for size in (34, 36):
        third(packed, torch.rand(1, 3, size, 32))
    stop.set()
    other.join()
    assert wrong == []
    assert len(programs(packed)) == 3


def test_one_thread_records_a_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    _, packed = pair(Net(plain))
    x, recorded, capture = torch.rand(1, 3, 32, 32), list[int](), dispatch.capture
    monkeypatch.setattr(dispatch, "capture", lambda *args: recorded.append(1) or capture(*args))

    def call() -> None:
        with torch.no_grad():
            packed(x)

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(recorded) == 1


class Mirrored(Net):
    """Calls itself, as test-time augmentation does."""

    def forward(self, x: Tensor, inner: bool = False) -> Tensor:
        return plain(self, x) if inner else self(x.flip(3), inner=True).flip(3)


def test_a_forward_may_call_its_network() -> None:
    model, packed = pair(Mirrored(plain))
    x = torch.rand(1, 3, 32, 32)
    done = threading.Thread(target=lambda: third(packed, x), daemon=True)
    done.start()
    done.join(60)
    assert not done.is_alive()
    with torch.no_grad():
        assert same(third(packed, x), model(x))


class Seen(TorchFunctionMode):
    """Counts functions."""

    count = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_who_watches_sees_the_modules() -> None:
    def scaled(net: Any, x: Tensor, by: Tensor | None = None) -> Tensor:
        y = plain(net, x) + net.stem(x).mean()
        return y if by is None else y * by

    _, packed = pair(Net(scaled))
    x, by = torch.rand(2, 3, 32, 32), torch.rand(3, 1)
    third(packed, x)
    third(packed, x, by=by[0])
    assert len(programs(packed)) == 2
    with torch.no_grad(), Seen() as mode:
        packed(x)
    assert mode.count > 5
    with torch.no_grad():
        many = torch.vmap(lambda v: packed(x, by=v))(by)
        assert same(many[1], packed._call_impl(x, by=by[1]))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        tangent = forward_ad.unpack_dual(packed(dual)).tangent
        assert tangent is not None
        assert tangent.abs().max() > 0


CHANGES: dict[str, Any] = {
    "memory that comes back": lambda net: [
        setattr(net.norm.weight, "data", net.norm.weight.data * factor) for factor in (2, -1.5, -1)
    ],
    "a list": lambda net: net.factors.__setitem__(0, 3.0),
    "an array": lambda net: setattr(net, "array", np.array([2.0, 2.0])),
    "the class's forward": None,
}


@pytest.mark.parametrize("how", list(CHANGES))
def test_changes_are_seen(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def between(net: Any, x: Tensor) -> Tensor:
        y = net.b(net.r(net.norm(net.stem(x)))) * net.factors[0]
        return net.head(y) * float(net.array.sum())

    net = Net(between)
    net.factors, net.array = [1.0], np.array([1.0, 1.0])  # type: ignore[assignment]
    _, packed = pair(net)
    x = torch.rand(1, 3, 32, 32)
    before = third(packed, x)
    assert programs(packed)
    with torch.no_grad():
        if CHANGES[how] is None:
            old = Net.forward
            monkeypatch.setattr(Net, "forward", lambda self, x: 2 * old(self, x))
        else:
            CHANGES[how](packed)
        now = packed(x)
        assert not torch.allclose(now, before, rtol=1e-3)
        assert same(now, packed._call_impl(x))
        assert same(third(packed, x), now)


class Stored(nn.Module):
    """Keeps a module where torch does not find it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.hidden = net, [nn.BatchNorm2d(5).eval()]

    def forward(self, x: Tensor) -> Tensor:
        return self.hidden[0](self.net(x))


def test_modules_outside_of_the_network() -> None:
    _, packed = pair(Stored(Net(plain)))
    x = torch.rand(1, 3, 32, 32)
    before = third(packed, x)
    assert packed.binarize_programs.reasons() == ("it calls a BatchNorm2d that is not one of its submodules",)
    with torch.no_grad():
        packed.hidden[0].weight.fill_(2)
        assert torch.allclose(packed(x), 2 * before, rtol=1e-4)


def test_what_a_forward_writes_elsewhere_is_written_by_every_call() -> None:
    store: dict[str, Any] = {}

    def noted(net: Any, x: Tensor) -> Tensor:
        store["count"] = store.get("count", 0) + 1
        store["features"] = net.stem(x)
        return plain(net, x)

    _, packed = pair(Net(noted))
    store.clear()
    x = torch.rand(1, 3, 32, 32)
    third(packed, x)
    third(packed, x)
    assert store["count"] == 6
    assert type(store["features"]) is Tensor
    assert "outside of the network" in packed.binarize_programs.reasons()[0]


def without_autocast(net: Any, x: Tensor) -> Tensor:
    y = front(net, x)
    with torch.autocast("cpu", enabled=False):
        return net.head(y)


def chosen(net: Any, x: Tensor) -> Tensor:
    y = front(net, x)
    return net.head(y) * y[y > 0.1].mean()


def asserting(net: Any, x: Tensor) -> Tensor:
    return plain(net, x) * (2 if bool((x >= 0).all()) else 1)


@pytest.mark.parametrize("forward", [without_autocast, chosen, asserting])
def test_blocks_and_sizes_that_no_graph_holds(forward: Any, capfd: pytest.CaptureFixture[str]) -> None:
    _, packed = pair(Net(forward))
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert same(third(packed, x), packed._call_impl(x))
    assert packed.binarize_programs.reasons()
    assert not programs(packed)
    assert capfd.readouterr().err == ""


def test_a_fault_of_a_pass_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Any) -> None:
        raise KeyError("a node")

    _, packed = pair(Net(plain))
    monkeypatch.setattr(dispatch, "run_passes", broken)
    x = torch.rand(1, 3, 32, 32)
    with pytest.warns(BinarizeWarning, match="internal error: KeyError"):
        y = third(packed, x)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(packed(x), y)


def test_programs_run_in_as_many_threads_as_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = pair(Net(plain))
    packed, asked, call = binarize.deploy(model, threads=1), list[int](), dispatch.Program.__call__

    def noted(self: Any, inputs: Any, threads: int, *others: Any) -> Any:
        asked.append(threads)
        return call(self, inputs, threads, *others)

    monkeypatch.setattr(dispatch.Program, "__call__", noted)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        third(packed, torch.rand(1, 3, 32, 32))
    finally:
        torch.set_num_threads(threads)
    assert asked == [1, 1]


def test_programs_that_were_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "PROGRAMS", 2)
    _, packed = pair(Net(plain))
    kept = torch.rand(1, 3, 32, 32)
    third(packed, kept)
    (program,) = programs(packed)
    for size in range(2):
        third(packed, torch.rand(1, 3, 34 + 2 * size, 32))
        third(packed, kept)
    assert len(programs(packed)) == 2
    assert program in programs(packed)


def test_ever_new_sizes_are_not_recorded_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "PROGRAMS", 2)
    _, packed = pair(Net(plain))
    recorded, capture = list[int](), dispatch.capture
    monkeypatch.setattr(dispatch, "capture", lambda *args: recorded.append(1) or capture(*args))
    with torch.no_grad():
        for size in range(8):
            x = torch.rand(1, 3, 20 + 2 * size, 20)
            for _ in range(2):
                packed(x)
    assert len(recorded) == 3
    with torch.no_grad():
        for _ in range(known.PATIENCE + 1):
            packed(x)
    assert len(programs(packed)) >= 1


def test_a_network_goes_when_its_user_drops_it() -> None:
    _, packed = pair(Net(plain))
    third(packed, torch.rand(1, 3, 32, 32))
    assert programs(packed)
    part = weakref.ref(packed.head)
    gone = weakref.ref(packed)
    gc.disable()
    try:
        del packed
        assert gone() is None
        assert part() is None
    finally:
        gc.enable()


def test_tensors_of_inference_mode() -> None:
    model, _ = pair(Net(lambda net, x: net.head(net.b(F.relu(net.norm(net.stem(x)))))))
    x = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        packed = binarize.deploy(model)
        before = third(packed, x)
        packed.head.weight.mul_(2)  # type: ignore[union-attr, operator]
        packed.head.bias.mul_(2)  # type: ignore[union-attr, operator]
        torch.testing.assert_close(packed(x), 2 * before, rtol=1e-4, atol=1e-4)
