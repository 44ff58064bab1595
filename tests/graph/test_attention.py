"""Attention in plans and rewritten forwards: found, replaced, or left float with a reason."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import binarize
from binarize.errors import ConfigError
from binarize.graph import Plan, Policy, execute, plan
from binarize.layers import BinaryAttention, BinaryProduct
from binarize.methods import BiT

TOKENS = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Tokens (N, L, 16): a linear layer, attention by `core`, two more linear layers."""

    heads = 4

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Linear(16, 16)
        self.attn = self.make()
        self.middle = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def make(self) -> nn.Module:
        return Core(self.heads)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.attn(self.stem(x))))


class Core(nn.Module):
    def __init__(self, heads: int = 4, drop: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(16, 48)
        self.proj = nn.Linear(16, 16)
        self.drop = nn.Dropout(drop)
        self.bias = nn.Parameter(torch.randn(heads, 9, 9))

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        n, length, _ = x.shape
        return (
            self.qkv(x).reshape(n, length, 3, self.heads, 16 // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        )

    def merge(self, x: Tensor) -> Tensor:
        return self.proj(x.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return self.merge(F.scaled_dot_product_attention(q, k, v))


class Dropped(Core):
    """A rate of dropout that is not 0 in training only."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        rate = 0.5 if self.training else 0.0
        return self.merge(F.scaled_dot_product_attention(q, k, v, dropout_p=rate))


class WrittenOut(Core):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        scores = (q * 0.5) @ k.transpose(-2, -1)
        return self.merge(self.drop(scores.softmax(dim=-1)) @ v)


class Biased(Core):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return self.merge(F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias))


class BiasedWrittenOut(Core):
    def __init__(self, heads: int = 4) -> None:
        super().__init__(heads)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        scores = torch.matmul(q, k.mT) * 0.5 + self.bias
        return self.merge(torch.matmul(self.softmax(scores), v))


class Batched(Core):
    """Heads in the batch, products by bmm."""

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.split(x)
        q, k = q.reshape(n * self.heads, length, -1), k.reshape(n * self.heads, length, -1)
        v = v.reshape(n * self.heads, length, -1)
        weights = F.softmax(torch.bmm(q, k.transpose(1, 2)) / 2, dim=-1)
        return self.merge(torch.bmm(weights, v).view(n, self.heads, length, -1))


class Maps(Core):
    """Channels first: the rows are the second factor."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        q, k, v = q.transpose(-2, -1), k.transpose(-2, -1), v.transpose(-2, -1)
        weights = (q.transpose(-2, -1) @ k * 0.5).softmax(-1)
        return self.merge((v @ weights.transpose(-2, -1)).transpose(-2, -1))


class Channels(Core):
    """Attention between channels: the products sum over positions."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        q, k, v = q.transpose(-2, -1), k.transpose(-2, -1), v.transpose(-2, -1)
        return self.merge(((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(-2, -1))


class Linear(Core):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return self.merge(q @ (F.relu(k).transpose(-2, -1) @ v))


class Einsum(Core):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        weights = torch.einsum("nhld,nhsd->nhls", q, k).softmax(-1)
        return self.merge(torch.einsum("nhls,nhsd->nhld", weights, v))


class Gathered(Core):
    """Weights that come from no product."""

    def forward(self, x: Tensor) -> Tensor:
        _, k, v = self.split(x)
        return self.merge(k.mean(-1, keepdim=True).expand(-1, -1, -1, 9).softmax(-1) @ v)


class Twice(Core):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        weights = (q @ k.transpose(-2, -1)).softmax(-1)
        return self.merge(weights @ v + weights @ k)


class Stores(Core):
    """A forward that keeps its weights cannot be rewritten."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        self.weights = (q @ k.transpose(-2, -1)).softmax(-1)
        return self.merge(self.weights @ v)


class Torchs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


def net(core: type[nn.Module]) -> nn.Module:
    made = Net()
    torch.manual_seed(2)
    made.attn = core()
    return made.eval()


def attention(model: nn.Module) -> Any:
    (found,) = [m for m in model.modules() if isinstance(m, BinaryAttention)]
    return found


def converted(core: type[nn.Module], method: str = "bit") -> tuple[nn.Module, Plan]:
    made = plan(net(core), method, example_inputs=TOKENS, attention="binary")
    return execute(made, net(core)), made


WHOLE = {"query": (4, 1, 4), "key": (4, 4, 1), "value": (4, 1, 4)}
FOUND: dict[type[nn.Module], dict[str, Any]] = {
    Core: WHOLE,
    Dropped: WHOLE,
    WrittenOut: WHOLE,
    Biased: WHOLE,
    BiasedWrittenOut: WHOLE,
    Batched: {"query": (4,), "key": (4, 1), "value": (4,)},
    Maps: {"query": (4, 1, 4), "key": (4, 4, 1), "value": (4, 4, 1), "rows_right": True},
    Channels: {"query": (4, 4, 1), "key": (4, 1, 4), "value": (4, 4, 1)},
}


@pytest.mark.parametrize("method", ["bit", "bidense"])
@pytest.mark.parametrize("core", list(FOUND))
def test_attention_is_found_and_its_shifts_are_of_channels(core: type[nn.Module], method: str) -> None:
    model, made = converted(core, method)
    (row,) = made.attentions
    assert (row.name, row.converted, row.reason) == ("attn", True, "")
    (swap,) = [edit.attention for edit in made.edits if edit.action == "attention"]
    assert swap is not None
    expected = {"rows_right": False, **FOUND[core]}
    assert {name: getattr(swap.shapes, name) for name in expected} == expected
    found = attention(model)
    assert found.scores.left.move.shape == expected["query"]
    assert found.scores.right.move.shape == expected["key"]
    calls: list[Any] = []
    for product in (found.scores, found.context):
        product.register_forward_hook(lambda module, args, out: calls.append(module))
    y = model.train()(TOKENS)
    y.sum().backward()
    assert calls == [found.scores, found.context]
    for name, parameter in found.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all()
    # shapes hold for other batches and other lengths, as far as the network takes them
    assert model(TOKENS[:1]).shape == (1, 9, 3)
    if core not in (Biased, BiasedWrittenOut):
        assert model(torch.randn(3, 5, 16)).shape == (3, 5, 3)


def test_a_call_and_products_written_out_are_one_attention() -> None:
    """After their first batch: the scale of the scores is part of the query's where it is in front."""
    outs = []
    for core in (Core, WrittenOut):
        model, _ = converted(core)
        model.train()(TOKENS)
        outs.append(model.eval()(TOKENS))
    torch.testing.assert_close(*outs)


def test_queries_and_keys_are_binary_in_a_forward_by_hand() -> None:
    model, _ = converted(Biased)
    model.train()(TOKENS)
    model.eval()
    core: Any = model.attn
    x = model.stem(TOKENS)  # type: ignore[operator]
    q, k, v = core.split(x)
    found = attention(model)
    alpha = [p.alpha for p in (found.scores.left, found.scores.right, found.context.right)]
    q, k, v = (a * torch.where(t >= 0, 1.0, -1.0) for a, t in zip(alpha, (q, k, v), strict=True))
    weights = torch.softmax(q @ k.mT / 2 + core.bias, -1)
    rows = found.context.left.alpha
    weights = torch.where(weights >= rows / 2, rows, 0.0)
    torch.testing.assert_close(core(x), core.merge(weights @ v))


def test_dropout_of_weights_is_on_in_training_only() -> None:
    model, _ = converted(Dropped)
    outs = [[model.train(mode)(TOKENS) for _ in range(2)] for mode in (True, False)]
    assert not torch.equal(*outs[0])
    assert torch.equal(*outs[1])


REASONS: dict[type[nn.Module], str] = {
    Linear: "without a softmax between two products",
    Einsum: "not plain matrix products",
    Gathered: "not a product of queries and keys",
    Twice: "multiplied 2 times",
    Stores: "attn cannot be rewritten: its forward stores 'weights'",
    Torchs: "computed inside MultiheadAttention",
}


@pytest.mark.parametrize("core", list(REASONS))
def test_what_stays_float_has_a_reason_and_the_plan_warns(core: type[nn.Module]) -> None:
    model, made = converted(core)
    (row,) = made.attentions
    assert not row.converted
    assert REASONS[core] in row.reason
    assert not any(isinstance(m, BinaryProduct) for m in model.modules())
    warnings = [note for note in made.notes if note.is_warning]
    assert any("attention='binary' changes nothing" in note and str(row.reason) in note for note in warnings)
    assert REASONS[core] in str(made).replace("\n", " ") or len(REASONS[core]) > 30
    assert model(TOKENS).shape == (2, 9, 3)


def test_a_network_without_attention_is_warned_about() -> None:
    made = plan(
        nn.Sequential(*(nn.Linear(16, 16) for _ in range(3))),
        "bit",
        example_inputs=TOKENS,
        attention="binary",
    )
    assert made.attentions == ()
    assert any("of 0 attention steps" in note for note in made.notes)


def test_the_policy_keeps_attention_float() -> None:
    made = plan(net(Core), BiT(attention="binary"), example_inputs=TOKENS, policy=Policy(keep=("attn",)))
    assert [row.reason for row in made.attentions] == ["kept by name"]
    made = plan(net(Core), BiT(attention="binary"), example_inputs=TOKENS, policy=Policy(only=("middle",)))
    assert [row.reason for row in made.attentions] == ["not named by only"]


def test_by_default_attention_is_float_and_plans_are_as_before() -> None:
    made = plan(net(Core), "bit", example_inputs=TOKENS)
    assert made.attentions == ()
    assert "attention" not in json.dumps(made.as_dict())
    assert "attention" not in made.method["options"]
    model = execute(made, net(Core))
    assert not any(isinstance(m, BinaryProduct) for m in model.modules())
    same = plan(net(Core), "bit", example_inputs=TOKENS, attention="float")
    assert same.as_dict() == made.as_dict()


@pytest.mark.parametrize("method", ["bit", "bidense"])
def test_other_values_are_refused(method: str) -> None:
    with pytest.raises(ConfigError, match=r"attention='ternary', expected one of 'float', 'binary'"):
        plan(net(Core), method, example_inputs=TOKENS, attention="ternary")
    with pytest.raises(ConfigError, match="unknown option of bnn 'attention'"):
        plan(net(Core), "bnn", example_inputs=TOKENS, attention="binary")


@pytest.mark.parametrize("core", [Biased, WrittenOut, Maps])
def test_a_plan_from_its_json_form_does_the_same(core: type[nn.Module]) -> None:
    model, made = converted(core)
    for short in (False, True):
        again = Plan.from_dict(json.loads(json.dumps(made.as_dict(short=short))))
        assert again == made
        other = execute(again, net(core))
        other.load_state_dict(model.state_dict())
        assert torch.equal(other.eval()(TOKENS), model.eval()(TOKENS))


def test_the_plan_prints_attention() -> None:
    _, made = converted(Core)
    assert "attention 4x9x4" in str(made)
    assert "1 of 1 attention steps" in made.summary_line()


def test_the_given_model_is_unchanged_and_the_copy_is_a_module_like_others() -> None:
    given = net(Core)
    before, expected = copy.deepcopy(given.state_dict()), given(TOKENS)
    model = binarize.apply(given, "bit", example_inputs=TOKENS, attention="binary")
    assert torch.equal(given(TOKENS), expected)
    assert before.keys() == given.state_dict().keys()
    model.train()(TOKENS)
    model.eval()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(TOKENS), model(TOKENS))
    assert attention(twin) is not attention(model)
    assert type(model.attn) is type(twin.attn)
    assert isinstance(model.attn, Core)
