"""Elementwise operators: one activation, and chains of operations (`binarize.runtime.pointwise_code`)."""

from __future__ import annotations

import torch
from torch import Tensor

from binarize.native.epilogue import Activation
from binarize.runtime.ops.common import channel_sums, register
from binarize.runtime.pointwise_code import Code, run


def _piecewise(
    x: Tensor,
    before: Tensor | None,
    negative: Tensor | None,
    positive: Tensor | None,
    after: Tensor | None,
    dim: int,
) -> Tensor:
    activation = Activation(
        kind="piecewise", before=before, negative=negative, positive=positive, after=after
    )
    return activation(x.movedim(dim, -1), -1).movedim(-1, dim)


def _pointwise(
    operands: list[Tensor], vectors: list[Tensor], code: str, *, with_sums: bool = False
) -> tuple[Tensor, Tensor]:
    known = Code.of_text(code)
    y = run(known, operands, vectors)
    return y, channel_sums(y, known.dim) if with_sums else y.new_empty(0)


piecewise = register(
    "piecewise(Tensor x, Tensor? before, Tensor? negative, Tensor? positive, Tensor? after, int dim) "
    "-> Tensor",
    _piecewise,
    fake=lambda x, *_: torch.empty_like(x),
)
pointwise = register(
    "pointwise(Tensor[] operands, Tensor[] vectors, str code, *, bool with_sums=False) -> (Tensor, Tensor)",
    _pointwise,
)
