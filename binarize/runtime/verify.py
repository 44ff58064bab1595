"""How far a packed network is from the one that was trained, layer by layer and as a whole."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from binarize.errors import ConfigError
from binarize.graph.trace.call_signature import named_tensors
from binarize.layers import BinaryLayer
from binarize.runtime.deploy import deployed_layers
from binarize.runtime.layer import PackedLayer
from binarize.runtime.program.capture import NoProgramError
from binarize.runtime.program.compare import StepError
from binarize.runtime.program.dispatch import Programs
from binarize.tables import FLOAT, WORSE, Name, plain, widest_part

CLOSE = 1e-5
"""Relative to the largest value of a layer's output: what rounding explains."""

APART = 1e-2
"""Relative to the mean of an output: from here on, the report says that the networks differ."""

FEW = 1e-2
"""Share of a result's values that may lie on thresholds."""

ON_THRESHOLDS = (
    "The layers agree; the networks differ because inputs lie on thresholds, as those of untrained networks "
    "do: there the last digit turns signs."
)

ROUNDED = (
    "The layers agree within what rounded scales may change; the networks differ because that turns signs. "
    "With exact scales (exact_scales=True, --exact-scales) it does not happen."
)


@dataclass
class LayerError:
    """A packed layer against the trained one, given the trained network's own activations.

    Attributes:
        name: dotted path.
        worst: largest abs(difference) / largest abs(output) over all inputs.
        median: of abs(difference) / largest abs(output), mean over inputs.
        beyond: share of values further off than `allowed`: an input that lies on a threshold to the last
            digit can fall to either side, and moves the sums that it enters by a whole step.
        allowed: `CLOSE`, and what rounding of scales may add (`binarize.runtime.kernel_support`).
    """

    name: str
    worst: float = 0.0
    median: float = 0.0
    beyond: float = 0.0
    inputs: int = field(default=0, repr=False)
    allowed: float = CLOSE

    @property
    def agrees(self) -> bool:
        """Whether the layer does what the trained one does, but for single values."""
        return self.median <= self.allowed

    def add(self, ours: Tensor, trained: Tensor) -> None:
        """Count an output."""
        scale = trained.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        off = ((ours - trained).abs() / scale).nan_to_num(torch.inf, torch.inf)
        self.worst = max(self.worst, off.max().item())
        old, new = self.inputs, self.inputs + 1
        self.median = (self.median * old + off.median().item()) / new
        self.beyond = (self.beyond * old + (off > self.allowed).float().mean().item()) / new
        self.inputs = new


@dataclass
class OutputError:
    """An output of the packed network against that of the trained one.

    Attributes:
        name: its path in what the network returns (`logits`, `aux.0`); empty for a network that returns a
            tensor.
    """

    name: str
    off: float = field(default=0.0, repr=False)
    size: float = field(default=0.0, repr=False)
    same: int = field(default=0, repr=False)
    positions: int = field(default=0, repr=False)

    @property
    def difference(self) -> float:
        """Mean of abs(difference) / mean abs(output)."""
        return self.off / self.size if self.size else math.inf if self.off else 0.0

    @property
    def agreement(self) -> float | None:
        """Share of positions whose largest channel is the same one; None for outputs of one channel."""
        return self.same / self.positions if self.positions else None

    def add(self, ours: Tensor, trained: Tensor) -> None:
        """Count a batch."""
        if ours.shape != trained.shape:
            raise ConfigError(
                f"verify: outputs {self.name} of shapes {tuple(ours.shape)} and {tuple(trained.shape)}."
            )
        wide = torch.complex128 if trained.is_complex() else torch.float64
        a, b = ours.to(wide), trained.to(wide)
        self.off += (a - b).abs().nan_to_num(torch.inf, torch.inf).sum().item()
        self.size += b.abs().sum().item()
        if trained.is_floating_point() and trained.dim() > 1 and trained.shape[1] > 1:
            equal = ours.argmax(1) == trained.argmax(1)
            self.same, self.positions = self.same + int(equal.sum()), self.positions + equal.numel()


@dataclass(frozen=True)
class Verification:
    """Result of `verify`; prints as a table.

    Attributes:
        layers: of every packed layer.
        agreement: share of positions at which both networks' largest output channel is the same one; None
            for networks of one output channel. Of several outputs, the least.
        difference: mean of abs(difference of the outputs) / mean abs(output). Of several outputs, the
            largest.
        inputs: how many batches were compared.
        outputs: each tensor that the networks return.
        steps: each operator of the program that the packed network runs for inputs such as the first one,
            against its definition; none if it runs as modules.
        no_program: why it runs as modules; empty if it has a program.
    """

    layers: tuple[LayerError, ...]
    agreement: float | None
    difference: float
    inputs: int
    outputs: tuple[OutputError, ...] = ()
    steps: tuple[StepError, ...] = ()
    no_program: str = ""

    @property
    def remark(self) -> str:
        """Why networks differ whose layers agree; empty if that is not so."""
        if self.difference <= APART or not all(error.agrees for error in self.layers):
            return ""
        return ROUNDED if any(error.allowed > CLOSE for error in self.layers) else ON_THRESHOLDS

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        names = ("name", "worst", "median", "beyond", "allowed")
        layers = [{name: _json(getattr(error, name)) for name in names} for error in self.layers]
        return {
            "inputs": self.inputs,
            "agreement": self.agreement,
            "difference": _json(self.difference),
            "remark": self.remark,
            "outputs": [
                {"name": e.name, "agreement": e.agreement, "difference": _json(e.difference)}
                for e in self.outputs
            ],
            "layers": layers,
            "steps": [
                {
                    "operator": e.operator,
                    "place": e.place,
                    "worst": _json(e.worst),
                    "beyond": _json(e.beyond),
                }
                for e in self.steps
            ],
            "no_program": self.no_program,
        }

    def __str__(self) -> str:
        return plain(self)

    def __rich__(self) -> Group:
        inputs = f"{self.inputs} input{'s' * (self.inputs != 1)}"
        lines = [Text(f"{inputs}: outputs differ by {_figures(self.difference, self.agreement)}")]
        if len(self.outputs) > 1:
            lines += [Text(f"  {e.name}: {_figures(e.difference, e.agreement)}") for e in self.outputs]
        if self.remark:
            lines.append(Text(self.remark))
        lines.append(self._program())
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("layer", min_width=widest_part(error.name for error in self.layers))
        rounded = sum(e.allowed > CLOSE for e in self.layers)
        heads = ("allowed", "beyond") if rounded else (f"beyond {CLOSE:g}",)
        for head in ("worst", "median", *heads):
            table.add_column(head, justify="right", no_wrap=True)
        for e in self.layers:
            allowed = (f"{e.allowed:.1e}",) if rounded else ()
            numbers = (f"{e.worst:.1e}", f"{e.median:.1e}", *allowed, f"{100 * e.beyond:.3g} %")
            # a sign that turned is rounding at work; a layer that is off in the middle is wrong
            style = FLOAT if e.agrees else WORSE
            table.add_row(Name(e.name or "(model)"), *numbers, style=style)
        if not rounded:
            return Group(*lines, table)
        return Group(*lines, table, Text(f"scales are rounded in {rounded} of {len(self.layers)} layers"))

    def _program(self) -> Text:
        if not self.steps:
            return Text(f"runs as modules: {self.no_program}")
        worst = max(self.steps, key=lambda e: (e.beyond, e.worst))
        text = (
            f"program of {len(self.steps)} operators: each agrees with its definition, to {worst.worst:.1e}"
        )
        if not worst.beyond:
            return Text(text)
        where = f"{worst.operator} of {worst.place}"
        text = f"program of {len(self.steps)} operators: {where} differs from its definition in "
        few = worst.beyond <= FEW
        return Text(f"{text}{100 * worst.beyond:.3g} % of its values", style="" if few else WORSE)


def verify(trained: nn.Module, packed: nn.Module, inputs: Iterable[Tensor]) -> Verification:
    """Run both networks; each packed layer also sees what its trained counterpart sees.

    What the packed network runs when it is called again with inputs such as the first ones, its program, is
    compared operator by operator, too.

    A network of signs amplifies rounding: the last digit of a statistic can turn a sign, which moves what
    follows by whole steps. So layers are compared on equal inputs, and whole networks by what they decide.

    Args:
        trained: converted, with latent weights; in evaluation mode during the run, then as before.
        packed: its packed form.
        inputs: batches for both networks' forward.

    Raises:
        ConfigError: networks that do not belong together or return no tensors, or no inputs.
    """
    layers = {name: m for name, m in trained.named_modules() if isinstance(m, BinaryLayer)}
    pairs = {name: (layers[name], ours) for name, ours in deployed_layers(packed).items() if name in layers}
    if not pairs:
        refused = getattr(getattr(packed, "deploy_report", None), "refused", None) or {}
        why = next((f" {name} is not packed: {reason}." for name, reason in refused.items()), "")
        raise ConfigError(
            f"verify: no layer of the packed network is a binary one of the trained network.{why}"
        )
    errors = {name: LayerError(name, allowed=CLOSE + ours.tolerance()) for name, (_, ours) in pairs.items()}
    outputs: dict[str, OutputError] = {}
    count, first = 0, torch.empty(0)
    modes = {module: module.training for module in trained.modules()}
    trained.eval()
    try:
        with torch.no_grad(), _compared(pairs, errors):
            for batch in inputs:
                if count == 0:
                    first = batch
                    for _ in range(2):  # then the program of such inputs is there: it is what is compared
                        packed(batch)
                _compare_outputs(outputs, packed(batch), trained(batch))
                count += 1
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not count:
        raise ConfigError("verify: no inputs.")
    steps, no_program = _compare_program(packed, first)
    agreements = [e.agreement for e in outputs.values() if e.agreement is not None]
    return Verification(
        layers=tuple(errors.values()),
        agreement=min(agreements, default=None),
        difference=max(e.difference for e in outputs.values()),
        inputs=count,
        outputs=tuple(outputs.values()),
        steps=steps,
        no_program=no_program,
    )


def _compare_program(packed: nn.Module, batch: Any) -> tuple[tuple[StepError, ...], str]:
    programs = getattr(packed, "binarize_programs", None)
    if not isinstance(programs, Programs):
        return (), "it was deployed before programs existed"
    try:
        return tuple(programs.compared(batch)), ""
    except NoProgramError as error:
        return (), str(error)


def _compare_outputs(found: dict[str, OutputError], packed: Any, trained: Any) -> None:
    """Count every tensor that the networks return for a batch, wherever it is in their results."""
    ours, theirs = dict(named_tensors(packed)), dict(named_tensors(trained))
    if not theirs or ours.keys() != theirs.keys():
        names = [", ".join(name or "a tensor" for name in every) or "no tensor" for every in (ours, theirs)]
        raise ConfigError(f"verify: the packed network returns {names[0]}, the trained one {names[1]}.")
    for name, output in theirs.items():
        found.setdefault(name, OutputError(name)).add(ours[name], output)


def _figures(difference: float, agreement: float | None) -> str:
    agree = "" if agreement is None else f", same largest channel at {100 * agreement:.3f} %"
    return f"{difference:.2g} of their mean{agree}"


def _json(value: Any) -> Any:
    """JSON has no infinity: what is not finite is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def _compared(
    pairs: dict[str, tuple[BinaryLayer, PackedLayer]], errors: dict[str, LayerError]
) -> Iterator[None]:
    """While this is open, each call of a trained layer is also made of its packed form, and compared."""
    handles = []
    for name, (layer, ours) in pairs.items():

        def compare(
            module: nn.Module,
            args: Any,
            kwargs: Any,
            output: Tensor,
            ours: PackedLayer = ours,
            name: str = name,
        ) -> None:
            # a packed layer may do what is behind it too
            errors[name].add(ours(*args, **kwargs), output.clone())

        handles.append(layer.register_forward_hook(compare, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
