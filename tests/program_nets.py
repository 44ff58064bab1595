"""Networks for tests of programs, and how far a program is from the modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

import binarize
from binarize.layers import BiasPReLU, Maxout
from binarize.runtime.program.capture import capture
from binarize.runtime.program.executor import Program
from binarize.runtime.program.graph import ProgramGraph
from binarize.runtime.program.passes import PASSES, run_passes
from binarize.runtime.program.results import described


class Net(nn.Module):
    """A stem, two binary layers, a norm and an activation between them, a head; the forward is chosen."""

    def __init__(self, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 3, stride=2, padding=1)
        self.a = nn.Conv2d(40, 40, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(40)
        self.r = nn.ReLU()
        self.b = nn.Conv2d(40, 70, 1, bias=False)
        self.head = nn.Conv2d(70, 5, 1)
        self._forward = forward

    def forward(self, x: Tensor, **kwargs: Any) -> Any:
        return self._forward(self, x, **kwargs)


def front(net: Any, x: Tensor) -> Tensor:
    """Up to the second binary layer."""
    return net.b(net.r(net.norm(net.a(net.stem(x)))))


def plain(net: Any, x: Tensor) -> Tensor:
    """All layers, one after the other."""
    return net.head(front(net, x))


def shaken(net: nn.Module) -> nn.Module:
    """The same with numbers as training leaves them."""
    torch.manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
            for parameter in module.parameters():
                nn.init.normal_(parameter)
        if isinstance(module, (BiasPReLU, Maxout, nn.PReLU)):
            for parameter in module.parameters():
                nn.init.uniform_(parameter, 0.1, 1)
    return net


def pair(net: nn.Module, method: str = "bidense", **options: Any) -> tuple[Any, Any]:
    """The converted network, and its deployed copy."""
    torch.manual_seed(0)
    if method == "bidense":
        options = {"granularity": "layer"} | options
    example = options.pop("example_inputs", torch.rand(2, 3, 64, 64))
    model = shaken(binarize.apply(net, method, example_inputs=example, **options)).eval()
    return model, binarize.deploy(model)


def third(net: Any, *args: Any, **kwargs: Any) -> Any:
    """The third result of a network, which its program makes if it has one."""
    with torch.no_grad():
        for _ in range(2):
            net(*args, **kwargs)
        return net(*args, **kwargs)


def programs(net: Any) -> tuple[Program, ...]:
    """Those that a deployed network has."""
    return net.binarize_programs.programs()


def fused(net: Any) -> set[str]:
    """The fusions that its programs have."""
    return {c.fusion for p in programs(net) for c in p.graph.chances if not c.reason}


def same(y: Tensor, expected: Tensor, share: float = 0.98) -> bool:
    """Whether nearly all values are equal up to rounding: one that lies on a threshold may turn a sign."""
    close = torch.isclose(y, expected, rtol=1e-4, atol=1e-4 * max(float(expected.abs().max()), 1.0))
    return y.shape == expected.shape and float(close.float().mean()) >= share


def program_of(net: nn.Module, *inputs: Tensor) -> Program:
    """The program of a network, without the calls that a deployed one needs before it makes it."""
    with torch.no_grad():
        captured = capture(net, inputs, {})
        results = described(captured.run(list(inputs)), list(inputs), captured.constants.values())
        graph = ProgramGraph.of(captured)
        run_passes(graph)
        return Program(graph, list(inputs), results)


def interpreted(program: ProgramGraph, inputs: Sequence[Tensor]) -> list[Any]:
    """The leaves of a graph's result, each operator called by the dispatcher."""
    values: dict[fx.Node, Any] = dict(program.constants)
    values |= {node: x for node, x in zip(program.inputs, inputs, strict=True) if node is not None}
    for node in program.graph.nodes:
        if node.op == "call_function":
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
    leaves: Any = program.output.args[0]
    return [values[leaf] if isinstance(leaf, fx.Node) else leaf for leaf in leaves]


def through_passes(net: nn.Module, x: Tensor, passes: Sequence[Any] = PASSES) -> list[tuple[str, float]]:
    """By pass, how far the graph behind it is from the one in front, relative to the largest value."""
    found: list[tuple[str, float]] = []
    with torch.no_grad():
        graph = ProgramGraph.of(capture(net, (x,), {}))
        before = interpreted(graph, [x])
        for one in passes:
            one(graph)
            graph.tidy()
            after = interpreted(graph, [x])
            off = max(
                float((a - b).abs().max() / b.abs().max().clamp_min(1e-9))
                for a, b in zip(after, before, strict=True)
            )
            found.append((one.__name__, off))
    return found
