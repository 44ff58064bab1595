"""Where a program's values lie: strides, addresses and memory that results share."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from program_nets import Net, front, pair, plain, programs, same, third
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

import binarize
from binarize import native
from binarize.native.library import available, features
from binarize.runtime.program import memory

pytestmark = pytest.mark.skipif(not available(), reason="the native kernels are not built")
IMAGE = (2, 3, 16, 16)


@torch.library.custom_op("binarize_tests::rows_in_memory", mutates_args=())
def rows_in_memory(x: Tensor) -> Tensor:
    """As other packages' kernels read memory: in its order."""
    return torch.as_strided(x, (x.numel(),), (1,)).clone()


@rows_in_memory.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.numel())


def _contiguous_as_strided(y: Tensor) -> Tensor:
    return y.contiguous().as_strided((2, 4), (9, 2), 3)


def _part_as_strided(y: Tensor) -> Tensor:
    return y.contiguous()[1:].as_strided((3, 4), (9, 2))


def _around_as_strided(y: Tensor) -> Tensor:
    return y.contiguous()[:, :2].as_strided((2, 5, 8), (320, 64, 1))


def _as_strided_in_place(y: Tensor) -> Tensor:
    return y.clone(memory_format=torch.contiguous_format).as_strided_((2, 4), (9, 2))


def _complex(y: Tensor) -> Tensor:
    y = y.permute(0, 2, 3, 1)[..., :4].contiguous().view(2, -1, 2)
    return torch.view_as_real(torch.view_as_complex(y) * (1 + 2j))


def _complex_of_maps(y: Tensor) -> Tensor:
    y = y.contiguous().unflatten(3, (4, 2))
    return torch.view_as_real(torch.view_as_complex(y).sum(1))


def _other_dtype(y: Tensor) -> Tensor:
    return y.contiguous().view(torch.int32) // 2**20


def _alias(y: Tensor) -> Tensor:
    return torch.ops.aten._reshape_alias(y.contiguous(), (2, 40, 8), (320, 8, 1)).cumsum(1)


def _foreign(y: Tensor) -> Tensor:
    return rows_in_memory(y.contiguous())


def _bool_view(y: Tensor) -> Tensor:
    return (y > 0).contiguous().view(2, -1)


def _int_flatten(y: Tensor) -> Tensor:
    return (y * 100).long().contiguous().flatten(1).unflatten(1, (8, 40))


def _double(y: Tensor) -> Tensor:
    return y.double().contiguous().view(2, 40, 8).cumsum(1).float()


STRIDED = [_contiguous_as_strided, _part_as_strided, _as_strided_in_place, _complex, _complex_of_maps,
           _other_dtype, _alias, _foreign, _bool_view, _int_flatten, _double]  # fmt: skip


def _all(y: Tensor) -> list[Tensor]:
    return [forward(y) for forward in STRIDED]


def _packed(forward: Any) -> Any:
    return pair(Net(forward), example_inputs=torch.rand(IMAGE))[1]


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x.double()


def _check(packed: Any, *inputs: Any) -> None:
    """Whether the third call gives what the modules give."""
    with torch.no_grad():
        expected = packed._call_impl(*inputs)
    pairs = zip(tree_leaves(third(packed, *inputs)), tree_leaves(expected), strict=True)
    off = [i for i, (a, b) in enumerate(pairs) if a.dtype != b.dtype or not same(_real(a), _real(b))]
    assert not off


def test_operators_that_look_at_strides_see_those_of_the_modules() -> None:
    packed = _packed(lambda net, x: _all(plain(net, x)))
    _check(packed, torch.rand(IMAGE))
    assert len(programs(packed)) == 1
    errors = packed.binarize_programs.compared(torch.rand(IMAGE))
    assert max(e.worst for e in errors) < 1e-3


def test_memory_around_a_tensor_is_not_read() -> None:
    packed = _packed(lambda net, x: _around_as_strided(plain(net, x)))
    _check(packed, torch.rand(IMAGE))
    assert not programs(packed)
    assert "around its argument" in packed.binarize_programs.reasons()[0]


class Normed(nn.Module):
    """Tokens through two binary layers, with norms, activations and weights that are inputs or computed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.a = nn.Linear(24, 24)
        self.b = nn.Linear(24, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor, w: Tensor, k: Tensor) -> Any:
        own = w * 2 - 0.3
        maps = F.max_pool2d(F.batch_norm(self.stem(x), w, own**2 + 1, own, w).relu(), 2)
        foreign = F.max_pool2d(F.conv2d(x, k, w, padding=1).relu(), 2)
        tall = F.max_pool2d(F.conv2d(x, k.flip(0).mT, own).relu(), 2)
        y = F.layer_norm(self.b(self.a(maps.flatten(2).mT)), (24,), w, own)
        y = F.layer_norm(y, (24,), own)
        maps = F.prelu(maps, own) * own[:, None, None] + w[:, None, None]
        return self.head(y), F.linear(y[:, 0], own[None]), maps, foreign, tall


def test_vectors_that_are_inputs_or_computed_are_read_at_each_call() -> None:
    def given() -> tuple[Tensor, ...]:
        return torch.rand(IMAGE), torch.randn(24), torch.randn(24, 3, 3, 3)

    packed = pair(Normed(), example_inputs=given())[1]
    for _ in range(2):
        _check(packed, *given())
    assert len(programs(packed)) == 1


class Windows(nn.Module):
    """Binary linear layers on windows of maps: tokens of five dims, whose rows are not evenly spaced."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 1)
        self.a = nn.Linear(24, 24)
        self.b = nn.Linear(24, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).unflatten(3, (4, 4)).unflatten(2, (4, 4)).permute(0, 2, 4, 3, 5, 1)
        return self.head(self.b(self.a(y)) + y)


def test_tokens_of_many_dims_are_read_at_each_call() -> None:
    packed = pair(Windows(), example_inputs=torch.rand(IMAGE))[1]
    for _ in range(2):
        _check(packed, torch.rand(IMAGE))
    assert len(programs(packed)) == 1


def test_constants_with_other_strides_are_read_in_their_order() -> None:
    net = Net(lambda net, x: net.head(net.b(net.a(F.max_pool2d(net.norm(net.stem(x)).relu(), 2)))))
    packed = pair(net, example_inputs=torch.rand(IMAGE))[1]
    packed.stem.to(memory_format=torch.channels_last)
    packed.norm.weight.data = torch.rand(80)[::2]
    x = torch.rand(IMAGE)
    _check(packed, x)
    with torch.no_grad():
        packed.stem.weight.data[:] = torch.randn(40, 3, 3, 3)  # past torch: it is read at each call
        assert same(packed(x), packed._call_impl(x))
    assert programs(packed)


def test_calls_in_inference_mode_and_outside_of_it_alternate() -> None:
    net = Net(lambda net, x: plain(net, x).cumsum(1) + torch.linspace(-1, 1, 16).cos())
    packed, x = pair(net, example_inputs=torch.rand(1, 3, 32, 32))[1], torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        expected = [packed(x).clone() for _ in range(3)][-1]
    with torch.no_grad():
        assert same(packed(x), expected)
    packed.requires_grad_(False)
    assert same(third(packed, x), expected)
    assert same((packed(x) * torch.ones(1, requires_grad=True)).detach(), expected)
    assert programs(packed)


def test_results_lie_on_the_cpu_whatever_the_default_device_is() -> None:
    packed, x = _packed(plain), torch.rand(IMAGE)
    expected = third(packed, x)
    program = programs(packed)[0]
    program._ready.clear()  # as for a call that runs at the same time as another one
    with torch.no_grad(), torch.device("meta"):
        y = program([x], 1)
    assert y.device.type == "cpu"
    assert same(y, expected)


def _lying(leaves: list[Tensor], x: Tensor, packed: Any) -> list[Any]:
    """What users can see of the memory of results: strides, and with what they share it."""
    known = {x.untyped_storage().data_ptr(): "x", packed.head.bias.untyped_storage().data_ptr(): "bias"}
    found: list[Any] = []
    for i, leaf in enumerate(leaves):
        place = leaf.untyped_storage().data_ptr()
        name = known.setdefault(place, str(i)) if leaf.numel() else "empty"
        itself = [leaf is x, leaf is packed.head.bias, [leaf is y for y in leaves]]
        start = leaf.data_ptr() - leaves[int(name)].data_ptr() if name.isdigit() else leaf.storage_offset()
        found.append((tuple(leaf.shape), leaf.stride(), leaf.dtype, name, itself, start))
    return found


def _strides(net: Any, x: Tensor) -> list[Tensor]:
    y = plain(net, x)
    tokens = y.flatten(2).mT
    return [y.contiguous(), y.clone(memory_format=torch.contiguous_format).relu() * 2, tokens.contiguous(),
            y.permute(0, 2, 3, 1).contiguous(), y.argmax(1), (y > 0).contiguous(), y.double().contiguous(),
            y.transpose(2, 3).contiguous().sigmoid(), y[:, :3, ::2].contiguous(),
            y.cumsum(1).contiguous()]  # fmt: skip


def _aliases(net: Any, x: Tensor) -> list[Tensor]:
    y = plain(net, x)
    return [x.clone(), x, x[:, 1:], x.detach(), x.contiguous(), x.mT.contiguous(), net.head.bias,
            net.head.bias.clone(), net.head.bias[1:].detach(), y, y.clone(), y, y[:, 1:], y.view(2, -1)
            if y.is_contiguous() else y.permute(0, 2, 3, 1)]  # fmt: skip


def _parts(net: Any, x: Tensor) -> list[Tensor]:
    a = net.r(net.norm(net.a(net.stem(x))))
    b = net.r(net.stem(x))
    both = torch.cat([a, b], 1)
    more = torch.cat([both, a + 1], 1)
    return [a, both, more, more[:, 3:50], b.split(20, 1)[1], b.split(20, 1)[0], plain(net, x)]


def _odd(net: Any, x: Tensor) -> list[Tensor]:
    y = plain(net, x)
    wide = y.mean(1, keepdim=True).expand(-1, 4, -1, -1)
    return [y[:, :0], y[:0].clone(), wide, x.unfold(3, 4, 2), x.new_zeros(0), y.sum(),
            x.expand(3, -1, -1, -1, -1), torch.arange(6).view(2, 3), y[0, :, 1], y[1].clone()]  # fmt: skip


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("forward", [_strides, _aliases, _parts, _odd], ids=lambda f: f.__name__)
def test_results_lie_as_those_of_the_modules(forward: Any, last: bool) -> None:
    packed = _packed(forward)
    for _ in range(2):
        x = torch.rand(IMAGE)
        x = x.contiguous(memory_format=torch.channels_last) if last else x
        with torch.no_grad():
            expected = packed._call_impl(x)
        got = third(packed, x)
        assert _lying(got, x, packed) == _lying(expected, x, packed)
        assert all(same(a.double(), b.double()) for a, b in zip(got, expected, strict=True) if a.numel())
    assert len(programs(packed)) == 1


@pytest.mark.parametrize(("forward", "reason"), [
    (lambda net, x: [y := plain(net, x), y.view(torch.int32)], "several dtypes"),
    (lambda net, x: [plain(net, x), x.view(torch.int32)], "another dtype"),
    (lambda net, x: plain(net, x).unfold(3, 4, 2), "overlap"),
    (lambda net, x: torch.complex(plain(net, x), net.head.bias[:, None, None]).conj(), "conjugate"),
], ids=["dtypes", "input", "overlap", "conj"])  # fmt: skip
def test_results_that_a_program_cannot_give_are_the_modules(forward: Any, reason: str) -> None:
    packed = _packed(forward)
    _check(packed, torch.rand(IMAGE))
    assert reason in packed.binarize_programs.reasons()[0]


def test_inputs_that_share_memory_are_not_taken_for_each_other() -> None:
    packed, x, z = (
        _packed(lambda net, x, y=None: [plain(net, x), x if y is None else y]),
        *torch.rand(2, *IMAGE),
    )
    with torch.no_grad():
        for _ in range(3):
            packed(x, y=x)
        assert packed(x, y=z)[1] is z
        assert packed(z, y=x)[1] is x


def _segmentation() -> Net:
    """Scores at twice the image's size."""
    torch.manual_seed(0)
    return Net(lambda net, x: F.interpolate(net.head(front(net, x)), scale_factor=4.0, mode="bilinear"))


@pytest.mark.parametrize("small", [0, 4096])
def test_maps_lie_in_the_memory_of_a_large_result(monkeypatch: pytest.MonkeyPatch, small: int) -> None:
    _, packed = pair(_segmentation())
    x = torch.rand(2, 3, 48, 40)
    expected = third(packed, x)
    before = programs(packed)[0].bytes
    monkeypatch.setattr(memory, "LARGE", 1024)
    monkeypatch.setattr(memory, "SMALL", small)
    _, again = pair(_segmentation())
    kept = [third(again, x) for _ in range(2)]
    assert programs(again)[0].bytes < before
    assert all(torch.equal(y, expected) for y in kept)
    y = third(again, x.flip(-1))
    assert not torch.equal(y, expected)
    assert torch.equal(kept[0], expected)  # no later call writes into a result


def _several(net: Any, x: Tensor) -> tuple[Tensor, ...]:
    scores = F.interpolate(net.head(front(net, x)), scale_factor=4.0, mode="bilinear")
    shares = scores.softmax(1)
    return scores, shares, shares[:, 1:3], scores.argmax(1), scores > 0, scores.double()


def test_several_large_results_of_calls_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several dtypes, one read by the others, one a part of another; the caller keeps them all."""
    monkeypatch.setattr(memory, "LARGE", 1)
    monkeypatch.setattr(memory, "SMALL", 0)
    _, packed = pair(Net(_several))
    images = [torch.rand(2, 3, 48, 40) for _ in range(4)]
    expected = [[y.clone() for y in third(packed, x)] for x in images]
    (program,) = programs(packed)
    assert len(program._planned.hosts) == 5
    assert any(place is not None and place.host is not None for place in program._planned.places)
    start = threading.Barrier(4)

    def call(first: int) -> list[tuple[int, Any]]:
        start.wait()
        numbers = [(first + i) % 4 for i in range(8)]
        with torch.inference_mode():
            return [(i, packed(images[i])) for i in numbers]

    with ThreadPoolExecutor(4) as pool:
        made = [result for results in pool.map(call, range(4)) for result in results]
    for i, ours in made:
        assert all(torch.equal(a, b) for a, b in zip(ours, expected[i], strict=True))
        assert ours[2].untyped_storage().data_ptr() == ours[1].untyped_storage().data_ptr()
    with torch.no_grad():
        modules = packed._call_impl(images[0])
    assert all(same(a, b) for a, b in zip(expected[0][:3], modules[:3], strict=True))


@pytest.mark.skipif(len(features().isas) < 2, reason="one instruction set only")
def test_calls_at_the_same_time_after_another_instruction_set_was_chosen() -> None:
    """Memory that was planned for the steps of one instruction set is not used for those of another."""
    _, packed = pair(Net(plain), granularity="channel")
    x = torch.rand(IMAGE)
    expected = third(packed, x)
    programs(packed)[0]._ready.clear()  # as if other calls held all of its memory
    try:
        native.set_isa("portable")
        assert same(third(packed, x), expected)
        assert len(programs(packed)) == 2
    finally:
        native.set_isa("auto")


@pytest.mark.slow
def test_the_maps_of_a_upernet_lie_in_its_scores() -> None:
    """Of 151 classes at 480x480: scores of 133 MiB, before them maps of 28 MiB at a time."""
    net = binarize.networks.upernet("convnext_tiny", num_classes=151).eval()
    packed = binarize.deploy(binarize.apply(net, "bidense", form="table", granularity="layer").eval())
    x = torch.rand(1, 3, 480, 480)
    with torch.inference_mode():
        for _ in range(2):
            packed(x)
    (program,) = programs(packed)
    assert program.bytes <= 12 << 20  # the map in front of the classifier, and its bits
