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
from binarize.layers import BinaryLayer
from binarize.runtime.deploy import deployed_layers
from binarize.runtime.packed import PackedLayer
from binarize.tables import FLOAT, WORSE, Name, plain, widest_part

CLOSE = 1e-5
"""Relative to the largest value of a layer's output: what rounding explains."""


@dataclass
class LayerError:
    """A packed layer against the trained one, given the trained network's own activations.

    Attributes:
        name: dotted path.
        worst: largest abs(difference) / largest abs(output) over all inputs.
        median: of abs(difference) / largest abs(output), mean over inputs.
        beyond: share of values further off than `CLOSE`: an input that lies on a threshold to the last digit
            can fall to either side, and moves the sums that it enters by a whole step.
    """

    name: str
    worst: float = 0.0
    median: float = 0.0
    beyond: float = 0.0
    inputs: int = field(default=0, repr=False)

    def add(self, ours: Tensor, trained: Tensor) -> None:
        """Count an output."""
        scale = trained.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        off = ((ours - trained).abs() / scale).nan_to_num(torch.inf, torch.inf)
        self.worst = max(self.worst, off.max().item())
        old, new = self.inputs, self.inputs + 1
        self.median = (self.median * old + off.median().item()) / new
        self.beyond = (self.beyond * old + (off > CLOSE).float().mean().item()) / new
        self.inputs = new


@dataclass(frozen=True)
class Verification:
    """Result of `verify`; prints as a table.

    Attributes:
        layers: of every packed layer.
        agreement: share of positions at which both networks' largest output channel is the same one; None
            for networks of one output channel.
        difference: mean of abs(difference of the outputs) / mean abs(output).
        inputs: how many batches were looked at.
    """

    layers: tuple[LayerError, ...]
    agreement: float | None
    difference: float
    inputs: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        names = ("name", "worst", "median", "beyond")
        layers = [{name: _json(getattr(error, name)) for name in names} for error in self.layers]
        return {
            "inputs": self.inputs,
            "agreement": self.agreement,
            "difference": _json(self.difference),
            "layers": layers,
        }

    def __str__(self) -> str:
        return plain(self)

    def __rich__(self) -> Group:
        inputs = f"{self.inputs} input{'s' * (self.inputs != 1)}"
        agree = "" if self.agreement is None else f", same largest channel at {100 * self.agreement:.3f} %"
        title = Text(f"{inputs}: outputs differ by {self.difference:.2g} of their mean{agree}")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("layer", min_width=widest_part(error.name for error in self.layers))
        for head in ("worst", "median", f"beyond {CLOSE:g}"):
            table.add_column(head, justify="right", no_wrap=True)
        for e in self.layers:
            numbers = (f"{e.worst:.1e}", f"{e.median:.1e}", f"{100 * e.beyond:.3g} %")
            # a sign that turned is rounding at work; a layer that is off in the middle is wrong
            style = WORSE if not e.median <= CLOSE else FLOAT
            table.add_row(Name(e.name or "(model)"), *numbers, style=style)
        return Group(title, table)


def verify(trained: nn.Module, packed: nn.Module, inputs: Iterable[Tensor]) -> Verification:
    """Run both networks; each packed layer also sees what its trained counterpart sees.

    A network of signs amplifies rounding: the last digit of a statistic can turn a sign, which moves what
    follows by whole steps. So layers are compared on equal inputs, and whole networks by what they decide.

    Args:
        trained: converted, with latent weights; in evaluation mode during the run, then as before.
        packed: its packed form.
        inputs: batches for both networks' forward.

    Raises:
        ConfigError: networks that do not belong together, or no inputs.
    """
    layers = {name: m for name, m in trained.named_modules() if isinstance(m, BinaryLayer)}
    pairs = {name: (layers[name], ours) for name, ours in deployed_layers(packed).items() if name in layers}
    if not pairs:
        raise ConfigError("verify: no layer of the packed network is a binary one of the trained network.")
    errors = {name: LayerError(name) for name in pairs}
    same, positions, off, size, count = 0, 0, 0.0, 0.0, 0
    modes = {module: module.training for module in trained.modules()}
    trained.eval()
    try:
        with torch.no_grad(), _compared(pairs, errors):
            for batch in inputs:
                ours, theirs = packed(batch), trained(batch)
                if ours.shape != theirs.shape:
                    raise ConfigError(
                        f"verify: outputs of shapes {tuple(ours.shape)} and {tuple(theirs.shape)}."
                    )
                off += (ours - theirs).abs().nan_to_num(torch.inf, torch.inf).double().sum().item()
                size += theirs.abs().double().sum().item()
                if theirs.dim() > 1 and theirs.shape[1] > 1:
                    equal = ours.argmax(1) == theirs.argmax(1)
                    same, positions = same + int(equal.sum()), positions + equal.numel()
                count += 1
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not count:
        raise ConfigError("verify: no inputs.")
    return Verification(
        layers=tuple(errors.values()),
        agreement=same / positions if positions else None,
        difference=off / size if size else 0.0,
        inputs=count,
    )


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
