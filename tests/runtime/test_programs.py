"""Deployed networks as programs: the results of the modules, whatever the network's forward does."""

from __future__ import annotations

import copy
import io
import pickle
import threading
import warnings
from typing import Any

import pytest
import torch
from program_nets import Net, front, fused, pair, plain, programs, same, shaken, third
from torch import Tensor, nn

import binarize
from binarize.layers.normed import put_norm_in_front
from binarize.native.library import available
from binarize.runtime.program import dispatch
from binarize.runtime.program.state import State

pytestmark = pytest.mark.skipif(not available(), reason="the native kernels are not built")


def read_elsewhere(net: Any, x: Tensor) -> Tensor:
    y = net.norm(net.a(net.stem(x)))
    return net.head(net.b(net.r(y))) + y.mean()


def called_twice(net: Any, x: Tensor) -> Tensor:
    return net.head(net.r(net.b(net.r(net.norm(net.a(net.stem(x)))))))


def by_size(net: Any, x: Tensor) -> Tensor:
    y = net.norm(net.a(net.stem(x)))
    if x.shape[-1] > 64:
        y = y - y.mean((2, 3), keepdim=True)
    return net.head(net.b(net.r(y)))


def by_batch(net: Any, x: Tensor) -> Tensor:
    y = front(net, x)
    return net.head(y if len(x) == 2 else y * 2)


def in_place(net: Any, x: Tensor) -> Tensor:
    y = net.norm(net.a(net.stem(x)))
    y += 1
    y.mul_(2.0)
    return net.head(net.b(torch.relu_(y)))


def head_read(net: Any, x: Tensor) -> Tensor:
    y = front(net, x)
    return net.head(y) + y.mean()


def head_called_twice(net: Any, x: Tensor) -> Tensor:
    y = net.r(net.norm(net.a(net.stem(x))))
    return net.head(net.b(y)) + net.head(net.b(-y))


def raw_stem(net: Any, x: Tensor) -> Tensor:
    y = net.stem(x)
    return net.head(net.b(net.r(net.norm(net.a(y))))) + y.mean()


def weight_read(net: Any, x: Tensor) -> Tensor:
    return plain(net, x) + net.head.weight.mean()


def from_a_part(net: Any, x: Tensor) -> Tensor:
    return plain(net, x[:, :, 1:, ::2].flip(3))


FORWARDS = [plain, read_elsewhere, called_twice, by_size, by_batch, in_place, head_read, head_called_twice,
            raw_stem, weight_read, from_a_part]  # fmt: skip


CASES = [
    pytest.param(
        forward,
        method,
        id=f"{forward.__name__}-{method}",
        marks=() if forward is plain or method == "bidense" else pytest.mark.slow,
    )
    for forward in FORWARDS
    for method in ("bidense", "bnn", "reactnet", "adabin", "bisrnet")
]


@pytest.mark.parametrize(("forward", "method"), CASES)
def test_results_are_those_of_the_modules(forward: Any, method: str) -> None:
    model, packed = pair(Net(forward), method)
    for shape in ((2, 3, 64, 64), (1, 3, 41, 70), (2, 3, 96, 96)):
        x = torch.rand(shape)
        with torch.no_grad():
            assert same(third(packed, x), model(x))
    assert len(programs(packed)) == 3


def by_value(net: Any, x: Tensor) -> Tensor:
    y = net.norm(net.a(net.stem(x)))
    if bool(y.max() > 1e9):
        y = y * 0
    return net.head(net.b(net.r(y)))


def beside(net: Any, x: Tensor) -> Tensor:
    net.seen = front(net, x)
    return net.head(net.seen)


def counting(net: Any, x: Tensor) -> Tensor:
    net.calls = getattr(net, "calls", 0) + 1
    return plain(net, x) * net.calls


def part_written(net: Any, x: Tensor) -> Tensor:
    y = net.norm(net.a(net.stem(x)))
    y[:, :5] += 1
    return net.head(net.b(net.r(y)))


def input_written(net: Any, x: Tensor) -> Tensor:
    y = plain(net, x)
    x.zero_()
    return y


def number(net: Any, x: Tensor) -> Tensor:
    return plain(net, x) * float(x.mean())


@pytest.mark.parametrize("forward", [by_value, beside, counting, part_written, input_written, number],
                         ids=lambda f: f.__name__)  # fmt: skip
def test_what_has_no_program_runs_as_modules(forward: Any) -> None:
    model, packed = pair(Net(forward), "reactnet")
    if forward is counting:
        model.calls = packed.calls = 0
    for _ in range(4):
        x = torch.rand(2, 3, 48, 48)
        with torch.no_grad():
            assert same(packed(x.clone()), model(x.clone()))
            if forward is beside:
                assert same(packed.seen, model.seen)
            if forward is input_written:
                packed(x)
                assert not x.any()
    assert not programs(packed)
    assert packed.binarize_programs.reasons()


def test_programs_are_made_at_second_sight() -> None:
    _, packed = pair(Net(plain))
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        packed(x)
        assert not programs(packed)
        packed(x)
        (first,) = programs(packed)
        packed(torch.rand(1, 3, 32, 32))
        assert programs(packed) == (first,)
        packed(x.contiguous(memory_format=torch.channels_last))
        packed(torch.rand(2, 3, 32, 32))
    assert programs(packed) == (first,)


def test_hooks_get_the_modules() -> None:
    model, packed = pair(Net(plain))
    x = torch.rand(2, 3, 40, 56)
    wanted = third(packed, x)
    assert programs(packed)
    for name in ("stem", "a", "b", "r", "head"):
        seen: list[Tensor] = []
        handles = [
            net.get_submodule(name).register_forward_hook(lambda m, args, y, seen=seen: seen.append(y + 0))
            for net in (model, packed)
        ]
        with torch.no_grad():
            model(x)
            assert same(packed(x), wanted)
        assert len(seen) == 2
        assert same(seen[1], seen[0])
        for handle in handles:
            handle.remove()
    changed = packed.b.register_forward_pre_hook(lambda m, args: (args[0] * 0,))
    with torch.no_grad():
        assert not same(packed(x), wanted, 0.5)
    changed.remove()
    assert same(third(packed, x), wanted)
    assert programs(packed)


def test_norms_in_front_of_layers_are_part_of_the_program() -> None:
    model, packed = pair(
        nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 4, 1))
    )
    put_norm_in_front(model[3], nn.BatchNorm2d(16).eval())
    packed = binarize.deploy(shaken(model))
    x = torch.rand(2, 3, 20, 24)
    wanted = third(packed, x)
    assert programs(packed)
    with torch.no_grad():
        assert same(wanted, model(x))
        seen: list[Tensor] = []
        handle = packed[3].register_forward_pre_hook(lambda m, args: seen.append(args[0]))
        assert same(packed(x), wanted)
        assert len(seen) == 1
        handle.remove()
        packed(x)
        assert len(seen) == 1


CHANGES: dict[str, Any] = {
    "load": lambda net: net.head.load_state_dict({k: 2 * v for k, v in net.head.state_dict().items()}),
    "assign": lambda net: net.head.load_state_dict(
        {k: 2 * v for k, v in net.head.state_dict().items()}, assign=True
    ),
    "in place": lambda net: [p.mul_(2) for p in net.head.parameters()],
    "data": lambda net: [setattr(p, "data", 2 * p.data) for p in net.head.parameters()],
    "replaced": lambda net: setattr(net, "head", nn.Sequential(net.head, Twice()).eval()),
    "forward": lambda net: setattr(net, "_forward", lambda net, x: 2 * plain(net, x)),
    "bits": lambda net: net.a.bits.bitwise_not_(),
}


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@pytest.mark.parametrize("how", list(CHANGES))
def test_changes_of_a_network_are_seen(how: str) -> None:
    _, packed = pair(Net(plain))
    x = torch.rand(2, 3, 40, 56)
    before = third(packed, x)
    with torch.no_grad():
        CHANGES[how](packed)
        now = packed(x)
        assert not torch.allclose(now, before, rtol=1e-3)
        if how != "bits":
            torch.testing.assert_close(now, 2 * before, rtol=1e-4, atol=1e-4)
        assert same(third(packed, x), now)
    assert programs(packed)


@pytest.mark.parametrize("how", ["data", "in place", "assigned"])
def test_changes_of_an_activation_that_a_layer_took_over_are_seen(how: str) -> None:
    _, packed = pair(Net(plain))
    x = torch.rand(2, 3, 40, 56)
    before = third(packed, x)
    assert "activation" in fused(packed)
    state = {name: 3 * t for name, t in packed.r.state_dict().items()}
    with torch.no_grad():
        if how == "assigned":
            packed.r.load_state_dict(state, assign=True)
        for name, parameter in packed.r.named_parameters() if how != "assigned" else ():
            if how == "data":
                parameter.data = state[name]
            else:
                parameter.copy_(state[name])
        now = packed(x)
    assert not same(now, before, 0.1)
    assert same(third(packed, x), now)
    assert programs(packed)


@pytest.mark.parametrize("where", ["classifier", "linear"])
def test_float_weights_are_read_at_each_call(where: str) -> None:
    """Changes that torch does not count, by NumPy or `.data`, are seen, too."""

    class Classifier(Net):
        def __init__(self) -> None:
            super().__init__(lambda net, x: net.fc(front(net, x).mean((2, 3))))
            self.fc = nn.Linear(70, 21)

    _, packed = pair(Classifier() if where == "linear" else Net(plain))
    head = packed.fc if where == "linear" else packed.head
    x = torch.rand(1, 3, 32, 40)
    y = third(packed, x)
    assert programs(packed)
    head.weight.data.mul_(2)
    head.bias.detach().numpy()[:] *= 2
    assert torch.allclose(third(packed, x), 2 * y, rtol=1e-5, atol=1e-5)
    assert len(programs(packed)) == 1


def test_training_mode_and_gradients_get_the_modules() -> None:
    _, packed = pair(Net(lambda net, x: torch.dropout(plain(net, x), 0.5, net.training)))
    x = torch.rand(2, 3, 40, 56)
    wanted = third(packed, x)
    packed.train()
    with torch.no_grad():
        assert (packed(x) == 0).any()
    packed.eval()
    assert same(third(packed, x), wanted)
    packed.head.requires_grad_(True)
    packed(x).sum().backward()
    assert packed.head.weight.grad is not None
    with pytest.raises(binarize.errors.TrainingError, match="gives no gradient"):
        packed(x.clone().requires_grad_())


def test_a_submodule_in_training_mode_gets_the_modules() -> None:
    _, packed = pair(Net(lambda net, x: torch.dropout(plain(net, x), 0.5, net.head.training)))
    x = torch.rand(2, 3, 40, 56)
    packed.head.train()
    with torch.no_grad():
        assert all((packed(x) == 0).any() for _ in range(4))
    assert not programs(packed)
    packed.head.eval()
    wanted = third(packed, x)
    assert programs(packed)
    packed.head.train()
    with torch.no_grad():
        assert (packed(x) == 0).any()
    packed.head.eval()
    with torch.no_grad():
        assert torch.equal(packed(x), wanted)
    assert len(programs(packed)) == 1


@pytest.mark.parametrize("what", ["hook", "train"])
def test_hooks_and_training_from_the_start_cost_no_state(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, packed = pair(Net(plain))
    made = []
    monkeypatch.setattr(dispatch, "State", lambda model: made.append(model) or State(model))
    handle = packed.a.register_forward_hook(lambda m, args, y: None)
    if what == "train":
        handle.remove()
        packed.head.train()
    x = torch.rand(2, 3, 40, 56)
    with torch.no_grad():
        for _ in range(5):
            packed(x)
    assert len(made) <= 1
    assert not programs(packed)
    handle.remove()
    packed.eval()
    third(packed, x)
    assert programs(packed)


def test_copies_have_programs_of_their_own() -> None:
    _, packed = pair(Net(plain), "reactnet")
    x = torch.rand(2, 3, 40, 56)
    wanted = third(packed, x)
    sent = io.BytesIO()
    torch.save(packed, sent)
    sent.seek(0)
    copies = [
        copy.deepcopy(packed),
        pickle.loads(pickle.dumps(packed)),
        torch.load(sent, weights_only=False),
    ]
    for other in copies:
        assert not programs(other)
        assert torch.equal(third(other, x), wanted)
        assert len(programs(other)) == 1
        with torch.no_grad():
            other.head.bias.add_(1)
        assert torch.equal(third(packed, x), wanted)


def test_threads_have_memory_of_their_own() -> None:
    _, packed = pair(Net(plain))
    images = [torch.rand(1, 3, 48, 48) for _ in range(4)]
    wanted = [third(packed, x) for x in images]
    wrong: list[int] = []

    def work(i: int) -> None:
        with torch.no_grad():
            wrong.extend(i for _ in range(20) if not torch.equal(packed(images[i]), wanted[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(programs(packed)) == 1


def test_results_are_not_overwritten_by_later_calls() -> None:
    _, packed = pair(Net(lambda net, x: [plain(net, x), front(net, x)]))
    third(packed, torch.rand(1, 3, 32, 32))
    with torch.no_grad():
        first = packed(torch.rand(1, 3, 32, 32))
        kept = [t.clone() for t in first]
        packed(torch.rand(1, 3, 32, 32))
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))


def test_a_batch_does_not_change_its_images() -> None:
    for granularity in ("layer", "group", "channel"):
        _, packed = pair(Net(plain), granularity=granularity)
        x = torch.rand(3, 3, 40, 56)
        batch = third(packed, x)
        for i in range(3):
            torch.testing.assert_close(third(packed, x[i : i + 1])[0], batch[i], rtol=1e-5, atol=1e-5)


def several(net: Any, x: Tensor, *, scale: float = 1.0, mask: Tensor | None = None) -> dict[str, Any]:
    y = plain(net, x) * scale
    y = y if mask is None else y * mask
    return {
        "logits": y,
        "again": (y, [y.softmax(1), y[:, :2]]),
        "x": x,
        "what": "scores",
        "n": 3,
        "none": None,
    }


def test_arguments_and_results_of_every_kind() -> None:
    model, packed = pair(Net(several))
    x, mask = torch.rand(2, 3, 40, 56), (torch.rand(2, 1, 20, 28) > 0.5).float()
    for given in ({}, {"scale": 2.0}, {"mask": mask}, {"scale": 2.0, "mask": mask}):
        got = third(packed, x, **given)
        with torch.no_grad():
            wanted = model(x, **given)
        assert got.keys() == wanted.keys()
        assert same(got["logits"], wanted["logits"])
        assert same(got["again"][1][0], wanted["again"][1][0])
        assert same(got["again"][1][1], wanted["again"][1][1])
        assert got["again"][0] is got["logits"]
        assert got["x"].data_ptr() == x.data_ptr()
        assert (got["what"], got["n"], got["none"]) == ("scores", 3, None)
    assert len(programs(packed)) == 4


def test_not_a_number_is_what_the_modules_make_of_it() -> None:
    for granularity in ("layer", "group", "channel"):
        _, packed = pair(Net(plain), granularity=granularity)
        x = torch.rand(1, 3, 32, 32)
        third(packed, x)
        x[0, 0, 5, 5] = torch.nan
        with torch.no_grad():
            got, wanted = packed(x), packed._call_impl(x)
        assert torch.equal(got.isnan(), wanted.isnan())


@pytest.mark.filterwarnings("ignore")  # of tracers that are on their way out
def test_traced_compiled_and_exported() -> None:
    _, packed = pair(Net(plain), "reactnet")
    x = torch.rand(2, 3, 40, 56)
    wanted = third(packed, x)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.jit.trace(packed, x, check_trace=False)(x), wanted, rtol=1e-4, atol=1e-4
        )
        mapped = torch.vmap(lambda t: packed(t[None])[0])(x)
        torch.testing.assert_close(mapped, wanted, rtol=1e-4, atol=1e-4)
        compiled = torch.compile(packed, backend="eager")
        torch.testing.assert_close(compiled(x), wanted, rtol=1e-4, atol=1e-4)
        exported = torch.export.export(packed, (x,))
        torch.testing.assert_close(exported.module()(x), wanted, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            assert packed(x).dtype == torch.bfloat16
    assert torch.equal(third(packed, x), wanted)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inference_mode(mode: Any) -> None:
    model, packed = pair(Net(plain))
    x = torch.rand(2, 3, 40, 56)
    with mode():
        for _ in range(3):
            y = packed(x)
        assert same(y, model(x))
        assert y.is_inference() == (mode is torch.inference_mode)
    assert programs(packed)


def test_without_gradients_disabled() -> None:
    model, packed = pair(Net(plain))
    x = torch.rand(2, 3, 40, 56)
    for _ in range(3):
        y = packed(x)
    assert programs(packed)
    assert not y.requires_grad
    assert same(y, model(x).detach())


def test_the_network_keeps_its_class_names_and_tensors() -> None:
    model, packed = pair(Net(plain))
    third(packed, torch.rand(1, 3, 32, 32))
    assert type(packed) is type(model)
    again = binarize.deploy(model)
    assert packed.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in packed.state_dict().items())
    assert "binarize_programs" not in packed.state_dict()
    with warnings.catch_warnings(action="error"):
        assert str(packed)


def test_parts_of_a_network_are_networks() -> None:
    model, packed = pair(Net(plain))
    x, maps = torch.rand(2, 3, 64, 64), torch.rand(2, 70, 8, 8)
    third(packed, x)
    with torch.no_grad():
        torch.testing.assert_close(packed.head(maps), model.head(maps))
        assert same(packed.b(packed.r(packed.norm(packed.a(packed.stem(x))))), front(model, x))
    shaken(packed)
    assert fused(packed)
