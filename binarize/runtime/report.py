"""What deployment made of each convolution and linear layer, and why some stayed float."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import nn

from binarize.errors import ConfigError
from binarize.runtime.fusions import FusionReport, fusions
from binarize.tables import BINARY, FLOAT, SLOWER, Name, plain, widest_part


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One layer.

    Attributes:
        name: path in the model.
        kind: `conv`, `transposed`, `linear`, or the class of a layer that is not packed.
        packed: its weights are bits.
        reason: why not, or why torch computes it and not a native kernel; empty where one does.
        weights: how many.
        bytes: of its bits and vectors, or of its float weights and bias.
    """

    name: str
    kind: str
    packed: bool
    reason: str
    weights: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class DeployReport:
    """All layers of a deployed model, in its order; prints as a table.

    Attributes:
        model: its class.
        layers: convolutions and linear layers.
        refused: the binary layers that stayed float by path, and why.
        attentions: binary attention, which has no weights: torch computes it, for the reason given.
        fusions: of the model's programs, when `report` was called; None in the model's own `deploy_report`,
            as programs are made later.
    """

    model: str
    layers: tuple[LayerReport, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    attentions: tuple[LayerReport, ...] = ()
    fusions: FusionReport | None = field(default=None, compare=False, repr=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if "refused" not in state:  # pickled by an earlier version
            refused = {layer.name: layer.reason for layer in self.layers if layer.kind.startswith("Binary")}
            vars(self)["refused"] = refused

    @property
    def packed(self) -> tuple[LayerReport, ...]:
        """The layers that compute from bits."""
        return tuple(layer for layer in self.layers if layer.packed)

    def summary_line(self) -> str:
        """How many layers and weights are packed."""
        weights = sum(layer.weights for layer in self.layers)
        share = 100 * sum(layer.weights for layer in self.packed) / weights if weights else 0.0
        text = f"{self.model}: {len(self.packed)} of {len(self.layers)} layers packed, "
        text += f"{share:.1f} % of weights"
        text = f"{text}; {len(self.refused)} binary layers stay float" if self.refused else text
        count = len(self.attentions)
        return f"{text}; {count} binary attention{'s' * (count > 1)} computed in float" if count else text

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        given = {"model": self.model, "layers": [dict(vars(layer)) for layer in self.layers]}
        if self.attentions:
            given["attentions"] = [dict(vars(row)) for row in self.attentions]
        return given

    def __str__(self) -> str:
        return plain(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("layer", min_width=widest_part(layer.name for layer in self.layers))
        table.add_column("kind", no_wrap=True)
        table.add_column("weights", justify="right")
        table.add_column("bytes", justify="right")
        table.add_column("runs as", no_wrap=True)
        notes: dict[str, int] = {}  # reasons repeat: each is printed once, below the table
        for layer in (*self.layers, *self.attentions):
            runs_as = ("bits, torch" if layer.reason else "bits") if layer.packed else "float"
            if layer.reason:
                runs_as += f" ({notes.setdefault(layer.reason, len(notes) + 1)})"
            style = FLOAT if not layer.packed else SLOWER if layer.reason else BINARY
            cells = (layer.kind, f"{layer.weights:,}", f"{layer.bytes:,}", runs_as)
            table.add_row(Name(layer.name or "(model)"), *cells, style=style)
        yield table
        yield "\n".join([*(f"({number}) {reason}" for reason, number in notes.items()), self.summary_line()])


def report(model: nn.Module) -> DeployReport:
    """What `deploy`, or `load` of a packed file, made of the layers of `model`; and the fusions up to now.

    Raises:
        ConfigError: the model is not deployed.
    """
    found = getattr(model, "deploy_report", None)
    if not isinstance(found, DeployReport):
        raise ConfigError(
            f"{type(model).__name__} is not deployed: there is a report on what binarize.deploy and "
            "binarize.load (of a packed file) return."
        )
    programs = getattr(model, "binarize_programs", None)  # not there if an earlier version deployed it
    return found if programs is None else dataclasses.replace(found, fusions=fusions(model))
