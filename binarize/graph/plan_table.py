"""How a plan is printed: a table of its layers, its outputs, its notes and warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from rich import box
from rich.table import Table
from rich.text import Text

from binarize.errors import listed
from binarize.graph.plan_rows import AttentionPlan, LayerPlan, OutputPlan
from binarize.graph.plan_sentences import Code, Statement, several
from binarize.tables import BINARY, FLOAT, SLOWER, Name, widest_part

Row = TypeVar("Row", LayerPlan, AttentionPlan)

_NAME_WIDTH = 24
_KIND_WIDTH = 26
_WIDE = 110  # from this width on, a layer needs one line


def layer_table(
    title: str, rows: Sequence[LayerPlan], width: int, attentions: Sequence[AttentionPlan] = ()
) -> Table:
    """The table of the layers, then of attention; runs of equal blocks are one row.

    Args:
        title: above the table.
        rows: of the plan.
        width: columns that the terminal has.
        attentions: of the plan.
    """
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    folded, others = list(_folded(rows, _look)), list(_folded(attentions, _attention_look))
    least = widest_part(name for name, _ in (*folded, *others))
    table.add_column("layer", min_width=least, max_width=max(_NAME_WIDTH, least, width // 3))
    table.add_column("float layer", no_wrap=width >= _WIDE, max_width=_KIND_WIDTH)
    table.add_column("becomes", no_wrap=width >= _WIDE)
    table.add_column("norm, activation, sum")
    for name, row in (*folded, *others):
        cells = _cells(row) if isinstance(row, LayerPlan) else _attention_cells(row)
        table.add_row(Name(name), *map(Text, cells), style=BINARY if row.converted else FLOAT)
    return table


def table_rows(
    rows: Sequence[LayerPlan], attentions: Sequence[AttentionPlan] = ()
) -> list[tuple[tuple[str, str, str, str], bool]]:
    """The cells of `layer_table`, and whether the layer becomes binary, for tables in other forms."""
    layers = [((name, *_cells(row)), row.converted) for name, row in _folded(rows, _look)]
    others = [
        ((name, *_attention_cells(row)), row.converted) for name, row in _folded(attentions, _attention_look)
    ]
    return [*layers, *others]


def _cells(row: LayerPlan) -> tuple[str, str, str]:
    state = f"binary, {_bypass_text(row)}" if row.converted else _kept_text(row)
    said = (row.reason, row.norm, row.activation, row.residual, row.bypass_reason)
    detail = "; ".join(part for part in said if part and part != "none")
    if row.activations:  # in a line of its own, which is not broken inside the braces
        detail = f"activations {row.activations}\n{detail}"
    return f"{row.kind} {_geometry(row)}", state, detail


def _attention_cells(row: AttentionPlan) -> tuple[str, str, str]:
    shape = "x".join(map(str, row.query[1:]))
    return f"attention {shape}".strip(), "binary" if row.converted else "float", str(row.reason)


def note_lines(notes: Iterable[str]) -> Iterator[Text]:
    """Notes and warnings, the latter in colour."""
    for note in notes:
        yield Text(note, SLOWER) if Statement.read(note).is_warning else Text(f"note: {note}")


def summary_line(method: str, rows: Sequence[LayerPlan], attentions: Sequence[AttentionPlan] = ()) -> str:
    """One line: how many layers and weights become binary, and why the others stay; how much attention."""
    converted = [row for row in rows if row.converted]
    total = sum(_count(row.weight_shape) for row in rows)
    binary = sum(_count(row.weight_shape) for row in converted)
    share = 100 * binary / total if total else 0.0
    reasons = Counter(row.reason for row in rows if not row.converted)
    kept = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    layers = f"{len(converted)} of {len(rows)} layers"
    text = f"{method}: {layers}, {share:.1f} % of weights"
    if attentions:
        text += f", {sum(row.converted for row in attentions)} of {len(attentions)} attention steps"
    return f"{text}; kept: {kept}" if kept else text


def _folded(rows: Sequence[Row], look: Callable[[Row], Any]) -> Iterator[tuple[str, Row]]:
    """Rows in order; runs of blocks that differ by an index only are one row each."""
    seen: dict[Any, list[Row]] = {}
    for row in rows:
        seen.setdefault(look(row), []).append(row)
    for alike in seen.values():
        yield (alike[0].name if len(alike) == 1 else f"{_pattern(alike)} (x{len(alike)})"), alike[0]


def _look(row: LayerPlan) -> Any:
    """All that a table shows of a row, except indices in names."""
    return (
        _generic(row.name),
        row.kind,
        row.weight_shape,
        row.converted,
        row.reason,
        row.bypass,
        row.bypass_reason,
        row.norm,
        row.activation,
        row.residual,
        row.activations,
    )


def _attention_look(row: AttentionPlan) -> Any:
    return _generic(row.name), row.step, row.query, row.converted, row.reason


def _generic(name: str) -> str:
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))


def _pattern(rows: Sequence[LayerPlan | AttentionPlan]) -> str:
    """The names of similar rows as one: indices that differ become ranges."""
    columns = zip(*(row.name.split(".") for row in rows), strict=True)
    parts = []
    for column in columns:
        values = list(dict.fromkeys(column))
        numbers = sorted(int(v) for v in values) if all(v.isdecimal() for v in values) else []
        if len(values) == 1:
            parts.append(values[0])
        elif numbers and numbers == list(range(numbers[0], numbers[-1] + 1)):
            parts.append(f"{numbers[0]}-{numbers[-1]}")
        else:
            parts.append("{" + ",".join(values) + "}")
    return ".".join(parts)


def _geometry(row: LayerPlan) -> str:
    """Kernel and channels: `3x3 64>128`."""
    if len(row.weight_shape) < 2:
        return ""
    outgoing, incoming, *kernel = row.weight_shape
    if row.kind.startswith("conv_transpose"):
        outgoing, incoming = incoming, outgoing
    if (
        min(len(row.in_shape), len(row.out_shape)) > 1 and kernel
    ):  # with groups, the weight's shape does not give both
        incoming, outgoing = row.in_shape[1], row.out_shape[1]
    size = "x".join(str(k) for k in kernel)
    return f"{size} {incoming}>{outgoing}".strip()


def _kept_text(row: LayerPlan) -> str:
    return "stays" if row.code is Code.BINARY_ALREADY else "float"


def _bypass_text(row: LayerPlan) -> str:
    return "no bypass" if row.bypass == "none" else row.bypass


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count if shape else 0


def output_lines(outputs: Iterable[OutputPlan]) -> Iterator[Text]:
    """The outputs with their last layers; outputs of the same layers are one line."""
    groups: dict[tuple[object, ...], list[OutputPlan]] = {}
    for output in outputs:
        groups.setdefault((output.features, output.final, output.kept, output.functions), []).append(output)
    for group in groups.values():
        first = group[0]
        line = f"{several('output', [output.name for output in group])}: "
        if first.features:
            line += "features, all of their layers may become binary"
        elif first.final:
            names = [name if name in first.kept else f"{name} (binary)" for name in first.final]
            line += several("last layer", names)
        else:
            line += "no layer"
        if first.functions and not first.features:
            line += f", then {listed(first.functions)}"
        yield Text(line)
