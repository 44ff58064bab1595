"""Which fusions the programs of a deployed network have, where there are none, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import nn

from binarize.errors import ConfigError
from binarize.native.library import available
from binarize.runtime.program.dispatch import Programs
from binarize.runtime.program.graph import Chance
from binarize.tables import SLOWER, plain

NOT_YET = "no program yet: it is made at the second call with inputs of one shape"
WITHOUT_KERNELS = "no program: the native kernels are not installed (`binarize doctor` says why)"


@dataclass(frozen=True, kw_only=True)
class Missed:
    """Places where a pass could not fuse, for one reason.

    Attributes:
        reason: see above.
        places: paths of modules, in the order of the network; one for each time.
    """

    reason: str
    places: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """What one pass (`binarize.runtime.program.passes`) found.

    Attributes:
        name: of the pass.
        taken: paths of modules where it fused something, one for each time.
        missed: by reason.
    """

    name: str
    taken: tuple[str, ...]
    missed: tuple[Missed, ...]


@dataclass(frozen=True, kw_only=True)
class ProgramFusions:
    """The fusions of one program.

    Attributes:
        shapes: of the inputs that the program is for.
        fusions: in the order of the passes.
    """

    shapes: tuple[tuple[int, ...], ...]
    fusions: tuple[Fusion, ...]


@dataclass(frozen=True, kw_only=True)
class FusionReport:
    """All programs of a network; prints as a table each.

    Attributes:
        programs: there are several after inputs of several shapes.
        reasons: why there is no program, for inputs of which that is known.
    """

    programs: tuple[ProgramFusions, ...] = ()
    reasons: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        programs = [
            {
                "shapes": [list(shape) for shape in program.shapes],
                "fusions": [
                    {
                        "name": fusion.name,
                        "taken": list(fusion.taken),
                        "missed": [{"reason": m.reason, "places": list(m.places)} for m in fusion.missed],
                    }
                    for fusion in program.fusions
                ],
            }
            for program in self.programs
        ]
        return {"programs": programs, "reasons": list(self.reasons)}

    def __str__(self) -> str:
        return plain(self)

    def __rich__(self) -> Group:
        parts: list[RenderableType] = []
        for program in self.programs:
            shapes = ", ".join("x".join(map(str, shape)) for shape in program.shapes)
            parts += [Text(f"fusions for inputs of {shapes}"), _table(program.fusions)]
        parts += [Text(f"no program: {reason}", style=SLOWER) for reason in self.reasons]
        if not parts:
            parts.append(Text(NOT_YET if available() else WITHOUT_KERNELS, style=SLOWER))
        return Group(*parts)


def fusions(model: nn.Module, *args: Any, **kwargs: Any) -> FusionReport:
    """What was fused in the programs of a deployed network, and what was not, and why.

    Args:
        model: deployed.
        *args: inputs of the network, as for a call: the program for them is made, if it is not there yet.
            Without any, the report is on the programs that earlier calls made.
        **kwargs: likewise.

    Raises:
        ConfigError: the model is not deployed.
    """
    programs = getattr(model, "binarize_programs", None)
    if not isinstance(programs, Programs):
        raise ConfigError(
            f"{type(model).__name__} has no programs: only what binarize.deploy and binarize.load (of a "
            "packed file) return has them."
        )
    if args or kwargs:
        with torch.no_grad():
            for _ in range(2):
                model(*args, **kwargs)
    found = [
        ProgramFusions(shapes=program.shapes, fusions=grouped(program.graph.chances))
        for program in programs.programs()
    ]
    return FusionReport(programs=tuple(found), reasons=tuple(dict.fromkeys(programs.reasons())))


def grouped(chances: Iterable[Chance]) -> tuple[Fusion, ...]:
    """Chances by fusion and reason."""
    by_name: dict[str, dict[str, list[str]]] = {}
    for chance in chances:
        by_name.setdefault(chance.fusion, {}).setdefault(chance.reason, []).append(chance.place)
    return tuple(
        Fusion(
            name=name,
            taken=tuple(by_reason.get("", ())),
            missed=tuple(Missed(reason=r, places=tuple(p)) for r, p in by_reason.items() if r),
        )
        for name, by_reason in by_name.items()
    )


def _table(found: Sequence[Fusion]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("fusion", no_wrap=True)
    table.add_column("taken", justify="right", no_wrap=True)
    table.add_column("missed", justify="right", no_wrap=True)
    table.add_column("why, and where for the first time")
    for fusion in found:
        rows = [(str(len(m.places)), f"{m.reason}: {m.places[0]}") for m in fusion.missed] or [("", "")]
        for index, (count, why) in enumerate(rows):
            first = (fusion.name, str(len(fusion.taken))) if not index else ("", "")
            table.add_row(*first, count, why)
    return table
