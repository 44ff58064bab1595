"""Chains of elementwise operators become one operator: each map is read and written once."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from binarize.runtime import ops
from binarize.runtime.pointwise_code import REGISTERS, Code, Instruction
from binarize.runtime.program.arguments import HARDTANH, arguments, source_of
from binarize.runtime.program.graph import COMPUTED, ProgramGraph, is_float, shape_of

aten = torch.ops.aten
_MOST = 24  # instructions of one chain


@dataclass
class _Step:
    """One elementwise operation in the making.

    Attributes:
        op: its name.
        inputs: nodes, or earlier steps of the same chain (by their node).
        p: first number.
        q: second number.
        vectors: over channels, None for those that are not there.
        dim: channel dim of the vectors.
    """

    op: str
    inputs: tuple[fx.Node, ...]
    p: float = 0.0
    q: float = 0.0
    vectors: tuple[Tensor | None, ...] = ()
    dim: int | None = None


@dataclass
class _Chain:
    """Steps by the node that each stands for, in their order."""

    steps: dict[fx.Node, _Step] = field(default_factory=dict)

    @property
    def dim(self) -> int | None:
        """Channel dim of the vectors, if there are any."""
        return next((s.dim for s in self.steps.values() if s.dim is not None), None)


def pointwise(program: ProgramGraph) -> None:
    """Find chains and replace each by one operator."""
    chains: dict[fx.Node, _Chain] = {}
    for node in list(program.graph.nodes):
        step = _step_of(program, node)
        if step is None:
            continue
        chain = _Chain({node: step})
        for source in dict.fromkeys(step.inputs):
            before = chains.get(source)
            if before is None:
                continue
            if reason := _why_not(node, source, before, chain):
                program.missed("pointwise", node, reason)
                continue
            chain = _Chain({**before.steps, **chain.steps})
            del chains[source]
        chains[node] = chain
    made: dict[fx.Node, fx.Node] = {}  # by the node that a chain's result took the place of
    for node, chain in chains.items():
        made[node] = _replace(program, node, chain, made)


def _why_not(node: fx.Node, source: fx.Node, before: _Chain, chain: _Chain) -> str:
    """Why the chain that ends at `source` is not continued by that of `node`; empty if it is."""
    if set(source.users) != {node}:
        return "others read the elementwise result in front of it, too"
    if shape_of(source) != shape_of(node):
        return "its shape is another one than that of the elementwise result in front of it"
    if not _same_dim(before, chain):
        return "its channels are in another dim than those of the elementwise operators in front of it"
    if not _fits(_Chain({**before.steps, **chain.steps})):
        return (
            f"more operands or instructions than a step takes ({REGISTERS} registers, {_MOST} instructions)"
        )
    return ""


def _same_dim(a: _Chain, b: _Chain) -> bool:
    return a.dim is None or b.dim is None or a.dim == b.dim


def _fits(chain: _Chain) -> bool:
    operands = {n for step in chain.steps.values() for n in step.inputs if n not in chain.steps}
    return len(chain.steps) <= _MOST and len(operands) + _temporaries(chain) <= REGISTERS


def _temporaries(chain: _Chain) -> int:
    last = {n: i for i, step in enumerate(chain.steps.values()) for n in step.inputs}
    alive = most = 0
    for i in range(len(chain.steps)):
        alive += 1
        most = max(most, alive)
        alive -= sum(1 for n, at in last.items() if at == i and n in chain.steps)
    return most + 1


def _replace(
    program: ProgramGraph, node: fx.Node, chain: _Chain, replaced: dict[fx.Node, fx.Node]
) -> fx.Node:
    operands = list(dict.fromkeys(n for s in chain.steps.values() for n in s.inputs if n not in chain.steps))
    registers = {n: i for i, n in enumerate(operands)}
    last = {n: i for i, step in enumerate(chain.steps.values()) for n in step.inputs}
    free = list(range(REGISTERS - 1, len(operands) - 1, -1))
    vectors: list[Tensor] = []
    instructions: list[Instruction] = []
    for i, (made, step) in enumerate(chain.steps.items()):
        a, b = registers[step.inputs[0]], registers[step.inputs[1]] if len(step.inputs) > 1 else -1
        done = [n for n in dict.fromkeys(step.inputs) if n in chain.steps and last[n] == i]
        free += [registers[n] for n in done]
        registers[made] = free.pop()
        held: list[int] = []
        for vector in step.vectors:
            held.append(-1 if vector is None else len(vectors))
            vectors += [] if vector is None else [vector]
        instructions.append(Instruction(step.op, registers[made], a, b, step.p, step.q, tuple(held)))
    like = next((i for i, n in enumerate(operands) if shape_of(n) == shape_of(node)), 0)
    dim = -1 if chain.dim is None else chain.dim  # of no vectors: the step that needs sums chooses it
    code = Code(tuple(instructions), registers[node], dim, like)
    constants = [program.constant(vector) for vector in vectors]
    with program.graph.inserting_after(node):
        now = [replaced.get(n, n) for n in operands]
        fused = program.graph.call_function(ops.pointwise, (now, constants, code.text()))
    with program.graph.inserting_after(fused):
        result = program.graph.call_function(operator.getitem, (fused, 0))
    val = node.meta["val"]
    fused.meta["val"], result.meta["val"] = (val, val.new_empty(0)), val
    if len(chain.steps) > 1:
        program.taken("pointwise", fused)
    program.replace(node, result)
    return result


def _step_of(program: ProgramGraph, node: fx.Node) -> _Step | None:
    """What an operator is as a step; None for what is not elementwise, not in float32, a number or empty."""
    make = _STEPS.get(node.target)
    if make is None or not is_float(node) or not shape_of(node) or 0 in shape_of(node):
        return None
    step = make(program, node)
    if step is None or not all(is_float(n) for n in step.inputs):
        return None
    return step if any(shape_of(n) == shape_of(node) for n in step.inputs) else None


def _single(op: str) -> Callable[[ProgramGraph, fx.Node], _Step | None]:
    def make(program: ProgramGraph, node: fx.Node) -> _Step | None:
        plain = len(node.args) == 1 and not node.kwargs
        return _Step(op, (source_of(node),)) if plain else None

    return make


def _pair(op: str) -> Callable[[ProgramGraph, fx.Node], _Step | None]:
    def make(program: ProgramGraph, node: fx.Node) -> _Step | None:
        a, b = node.args[:2]
        plain = not node.kwargs or list(node.kwargs.items()) == [("alpha", 1)]
        if not plain or len(node.args) > 2 or not isinstance(a, fx.Node):
            return None
        if isinstance(b, fx.Node):
            return _Step(op, (a, b))
        if not isinstance(b, (int, float)):
            return None
        if op == "div":
            return _quotient(program, a, float(b))
        scalar = {"add": ("add_scalar", b), "sub": ("add_scalar", -b), "mul": ("mul_scalar", b)}
        return _Step(scalar[op][0], (a,), float(scalar[op][1])) if op in scalar else None

    return make


def _quotient(program: ProgramGraph, x: fx.Node, by: float) -> _Step:
    """A product where it gives the same number: for powers of two whose inverse is not subnormal."""
    mantissa, exponent = math.frexp(by)
    if abs(mantissa) == 0.5 and abs(exponent) < 120:
        return _Step("mul_scalar", (x,), 1 / by)
    return _Step("div", (x, program.constant(torch.tensor(by, dtype=torch.float32))))


def _elu(program: ProgramGraph, node: fx.Node) -> _Step | None:
    x, alpha, scale, input_scale = arguments(node, (None, 1.0, 1.0, 1.0))
    return _Step("elu", (x,), float(alpha)) if scale == input_scale == 1 else None


def _clamp(program: ProgramGraph, node: fx.Node) -> _Step | None:
    if node.kwargs:
        return None
    usual = (None, None, None) if node.target is aten.clamp.default else HARDTANH
    x, low, high = arguments(node, usual)
    low = float("-inf") if low is None else low
    high = float("inf") if high is None else high
    return _Step("clamp", (x,), float(low), float(high))


def _relu6(program: ProgramGraph, node: fx.Node) -> _Step | None:
    return _Step("clamp", (source_of(node),), 0.0, 6.0)


def _gelu(program: ProgramGraph, node: fx.Node) -> _Step | None:
    way = node.kwargs.get("approximate", node.args[1] if len(node.args) > 1 else "none")
    return _Step("gelu_tanh" if way == "tanh" else "gelu", (source_of(node),))


def _numbers(op: str, *usual: float) -> Callable[[ProgramGraph, fx.Node], _Step | None]:
    def make(program: ProgramGraph, node: fx.Node) -> _Step | None:
        x, *given = arguments(node, (None, *usual))
        if node.kwargs or len(given) != len(usual) or not all(isinstance(v, (int, float)) for v in given):
            return None
        p, q = (*given, 0.0)[:2]
        return _Step(op, (x,), float(p), float(q))

    return make


def _piecewise(program: ProgramGraph, node: fx.Node) -> _Step | None:
    x, *arrays, dim = arguments(node)
    if not program.known(*arrays):
        program.missed("pointwise", node, COMPUTED)
        return None
    vectors = tuple(program.tensor(a) for a in arrays)
    return _Step("piecewise", (x,), vectors=vectors, dim=int(dim))


def _batch_norm(program: ProgramGraph, node: fx.Node) -> _Step | None:
    x, *given, training, _, eps, _ = arguments(node)
    if training or not program.known(*given):
        program.missed("pointwise", node, "it takes means of its input" if training else COMPUTED)
        return None
    factor, constant, centre, spread = (program.tensor(t) for t in given)
    if centre is None or spread is None:
        return None
    scale = (spread + float(eps)).rsqrt()
    scale = scale if factor is None else scale * factor.detach()
    shift = -centre * scale
    shift = shift if constant is None else shift + constant.detach()
    return _Step("affine", (x,), vectors=(scale.contiguous(), shift.contiguous()), dim=1)


_STEPS: dict[Any, Callable[[ProgramGraph, fx.Node], _Step | None]] = {
    aten.add.Tensor: _pair("add"),
    aten.sub.Tensor: _pair("sub"),
    aten.mul.Tensor: _pair("mul"),
    aten.div.Tensor: _pair("div"),
    aten.mul.Scalar: _pair("mul"),
    aten.add.Scalar: _pair("add"),
    aten.sub.Scalar: _pair("sub"),
    aten.div.Scalar: _pair("div"),
    aten.minimum.default: _pair("min"),
    aten.maximum.default: _pair("max"),
    aten.relu.default: _single("relu"),
    aten.sigmoid.default: _single("sigmoid"),
    aten.silu.default: _single("silu"),
    aten.tanh.default: _single("tanh"),
    aten.hardsigmoid.default: _single("hardsigmoid"),
    aten.hardswish.default: _single("hardswish"),
    aten.exp.default: _single("exp"),
    aten.sqrt.default: _single("sqrt"),
    aten.rsqrt.default: _single("rsqrt"),
    aten.square.default: _single("square"),
    aten.neg.default: _single("neg"),
    aten.abs.default: _single("abs"),
    aten.gelu.default: _gelu,
    aten.elu.default: _elu,
    aten.clamp.default: _clamp,
    aten.hardtanh.default: _clamp,
    aten.relu6.default: _relu6,
    aten.leaky_relu.default: _numbers("leaky", 0.01),
    aten.softplus.default: _numbers("softplus", 1.0, 20.0),
    ops.piecewise: _piecewise,
    aten.batch_norm.default: _batch_norm,
}
