"""Chains of elementwise operators as data: instructions on registers, and what they mean in torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

REGISTERS = 16
"""As many as the library has (`BZ_REGISTERS`)."""


class Instruction(NamedTuple):
    """One operation on registers, element by element.

    Attributes:
        op: its name in `binarize.native.structs.OPS`.
        to: register of the result.
        a: register of the first operand.
        b: of the second; -1 for operations on one.
        p: first number.
        q: second number.
        vectors: indices of the operator's vectors over channels, -1 for none.
    """

    op: str
    to: int
    a: int
    b: int = -1
    p: float = 0.0
    q: float = 0.0
    vectors: tuple[int, ...] = ()


class Code(NamedTuple):
    """What an operator `pointwise` does.

    Attributes:
        instructions: in their order; registers below the number of operands hold these.
        result: register of the result.
        dim: channel dimension of the vectors.
        like: index of the operand whose memory format the result has.
    """

    instructions: tuple[Instruction, ...]
    result: int
    dim: int
    like: int

    def text(self) -> str:
        """As an operator's argument."""
        return json.dumps([list(self.instructions), self.result, self.dim, self.like])

    @classmethod
    def of_text(cls, text: str) -> Code:
        """The inverse of `text`."""
        instructions, result, dim, like = json.loads(text)
        made = (Instruction(op, to, a, b, p, q, tuple(held)) for op, to, a, b, p, q, held in instructions)
        return cls(tuple(made), result, dim, like)


def run(code: Code, operands: Sequence[Tensor], vectors: Sequence[Tensor]) -> Tensor:
    """The code in plain torch; shapes broadcast."""
    registers: dict[int, Tensor] = dict(enumerate(operands))
    rank = max(t.dim() for t in operands)
    for step in code.instructions:
        given = [registers[step.a]] + ([registers[step.b]] if step.b >= 0 else [])
        lined_up = [None if i < 0 else _lined_up(vectors[i], code.dim, rank) for i in step.vectors]
        registers[step.to] = _TORCH[step.op](*given, step.p, step.q, *lined_up)
    return registers[code.result]


def _lined_up(vector: Tensor, dim: int, rank: int) -> Tensor:
    return vector.view(*(-1 if d == dim % rank else 1 for d in range(rank)))


def _piecewise(x: Tensor, p: float, q: float, *arrays: Tensor | None) -> Tensor:
    before, negative, positive, after = arrays
    t = x if before is None else x + before
    below = torch.zeros_like(t) if negative is None else t * negative
    above = t if positive is None else t * positive
    y = torch.where(t < 0, below, above)
    return y if after is None else y + after


def _affine(x: Tensor, p: float, q: float, factor: Tensor | None, constant: Tensor | None) -> Tensor:
    y = x if factor is None else x * factor
    return y if constant is None else y + constant


_TORCH: dict[str, Callable[..., Any]] = {
    "add": lambda a, b, p, q: a + b,
    "sub": lambda a, b, p, q: a - b,
    "mul": lambda a, b, p, q: a * b,
    "div": lambda a, b, p, q: a / b,
    "min": lambda a, b, p, q: torch.minimum(a, b),
    "max": lambda a, b, p, q: torch.maximum(a, b),
    "neg": lambda a, p, q: -a,
    "abs": lambda a, p, q: a.abs(),
    "relu": lambda a, p, q: a.relu(),
    "clamp": lambda a, p, q: a.clamp(p, q),
    "piecewise": _piecewise,
    "sigmoid": lambda a, p, q: a.sigmoid(),
    "silu": lambda a, p, q: F.silu(a),
    "tanh": lambda a, p, q: a.tanh(),
    "gelu": lambda a, p, q: F.gelu(a),
    "gelu_tanh": lambda a, p, q: F.gelu(a, approximate="tanh"),
    "hardsigmoid": lambda a, p, q: F.hardsigmoid(a),
    "hardswish": lambda a, p, q: F.hardswish(a),
    "exp": lambda a, p, q: a.exp(),
    "sqrt": lambda a, p, q: a.sqrt(),
    "rsqrt": lambda a, p, q: a.rsqrt(),
    "square": lambda a, p, q: a.square(),
    "elu": lambda a, p, q: F.elu(a, p),
    "softplus": lambda a, p, q: F.softplus(a, p, q),
    "leaky": lambda a, p, q: F.leaky_relu(a, p),
    "affine": _affine,
    "add_scalar": lambda a, p, q: a + p,
    "mul_scalar": lambda a, p, q: a * p,
    "copy": lambda a, p, q: a,
}


def apply(op: str, x: Tensor, p: float = 0.0, q: float = 0.0) -> Tensor:
    """One of the operations that read one register and numbers only, in torch."""
    return _TORCH[op](x, p, q)
