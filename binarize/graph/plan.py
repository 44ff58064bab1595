"""A plan: every decision about a model, frozen, printable, and executable from its JSON form."""

from __future__ import annotations

import dataclasses
import json
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text
from torch import fx, nn

from binarize.errors import FormatError
from binarize.graph.output_plan import OutputPlan, output_lines
from binarize.methods.build import BINARY_ALREADY
from binarize.methods.forms import Form
from binarize.tables import BINARY, FLOAT, SLOWER, Name, plain, widest_part

_NAME_WIDTH = 24
_KIND_WIDTH = 26
_WIDE = 110  # columns in which a layer needs one line
KeptBy = Literal["", "policy", "method", "layer", "unused"]


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """What happens to one convolution or linear layer.

    Attributes:
        name: path in the model.
        kind: `conv2d`, `dw conv2d` (depthwise), `grouped conv2d`, `linear`...
        in_shape: of the example run; empty if it did not reach the layer.
        out_shape: likewise.
        weight_shape: of the float layer.
        converted: becomes binary.
        reason: why not, or where it stands.
        kept_by: who keeps it float: `policy`, `method` (it refuses such a layer), `layer` (there is no binary
            replacement for it, or its weight is used without calling it) or `unused` (the run did not reach
            it); empty if converted.
        bypass: its kind; `units` where a method builds the layer from several bypassed ones.
        bypass_reason: why there is none although the method has one.
        norm: what happens to the norm behind and in front.
        activation: what happens to the activation behind.
        residual: what happens to the sum around it.
        site_kind: `conv`, `pointwise` or `token`.
        context: what the method was told about the surroundings.
        absorbs: path of the norm module that the layer takes over.
        nonnegative: input channels [start, stop) whose values are never negative.
        activations: the set of its binary activations, such as `{0, 1}`; empty for the method's usual one.
    """

    name: str
    kind: str
    in_shape: tuple[int, ...] = ()
    out_shape: tuple[int, ...] = ()
    weight_shape: tuple[int, ...] = ()
    converted: bool = False
    reason: str = ""
    kept_by: KeptBy = ""
    bypass: str = "none"
    bypass_reason: str = ""
    norm: str = ""
    activation: str = ""
    residual: str = ""
    site_kind: str = ""
    context: tuple[tuple[str, bool], ...] = ()
    absorbs: str | None = None
    nonnegative: tuple[tuple[int, int], ...] = ()
    activations: str = ""


@dataclass(frozen=True, kw_only=True)
class Swap:
    """Replace the module at `path`.

    Attributes:
        path: in the model.
        to: `identity`; `batch_norm`; `activation`: the method's own; `unfuse`: what a fused norm held beside
            the norm (dropout, and the method's or its own activation); `inner_act`: the activation inside a
            norm that stays; `no_inner_act`: none there; `drop_act`: nothing but a fused dropout;
            `input_norm`: a BatchNorm in front of the float layer there, which stays.
        channels: C of a norm or activation.
        dim: channel dimension, 1 or -1.
        spatial: number of spatial dims.
        spatial_between: see `ActivationSite`.
        blinds: see `ActivationSite`.
        own: keep the network's own activation in an `unfuse`.
    """

    path: str
    to: str
    channels: int = 0
    dim: int = 1
    spatial: int = 2
    spatial_between: bool = False
    blinds: bool = False
    own: bool = True


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Change one node of the own graph of the module at `owner`.

    Attributes:
        owner: path of the module.
        node: name of the node.
        action: `drop`: its value is that of argument `keep`; `activation`: a new module is called on
            argument 0; `norm`: a new module is called on the node's own value;
            `identity`: its value is that of argument 0; `layer`: it applies the weight of the layer at
            `owner`, and the binary layer is called on its input instead.
        keep: see `action`.
        fixed: parameters of the forward that the graph holds at their defaults.
        lists: parameters that are lists or tuples, with the name of their type and their length.
        constants: names and values of what is passed in `**kwargs` beside tensors.
        tensors: names of the tensors there.
        activation: describes the new activation or norm (its `path` is its name in the owner).
    """

    owner: str
    node: str
    action: str
    keep: int = 0
    fixed: tuple[str, ...] = ()
    lists: tuple[tuple[str, str, int], ...] = ()
    constants: tuple[tuple[str, Any], ...] = ()
    tensors: tuple[str, ...] = ()
    activation: Swap | None = None


@dataclass(frozen=True)
class Traced:
    """Own graphs of modules, valid for one model object.

    Attributes:
        model: the model that was planned for.
        graphs: by path, for training and evaluation.
        forms: of converted layers that have forwards of their own, by path.
    """

    model: weakref.ref[nn.Module]
    graphs: dict[str, fx.Graph]
    forms: dict[str, Form]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `apply` does to a model: nothing more, nothing less.

    Attributes:
        model: class name of the model.
        method: name and options.
        policy: as `Policy.as_dict`.
        rows: one per convolution and linear layer, in the order of the run.
        swaps: norms, activations and layer scale that are replaced.
        edits: changes of modules' own forwards.
        notes: what could not be traced or reached, and what was done instead.
        inputs: shapes of the tensors that the example run was given.
        outputs: the tensors that the network gives, each with its last layers.
        traced: the graphs that were made on the way, for execution on the same model; not kept in any file.
    """

    model: str
    method: dict[str, Any]
    policy: dict[str, Any]
    rows: tuple[LayerPlan, ...]
    swaps: tuple[Swap, ...] = ()
    edits: tuple[Edit, ...] = ()
    notes: tuple[str, ...] = ()
    inputs: tuple[tuple[int, ...], ...] = ()
    outputs: tuple[OutputPlan, ...] = ()
    traced: Traced | None = field(default=None, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "traced": None}  # graphs belong to a model in this process

    @property
    def converted(self) -> tuple[LayerPlan, ...]:
        """The rows that become binary."""
        return tuple(row for row in self.rows if row.converted)

    def as_dict(self, *, short: bool = False) -> dict[str, Any]:
        """As JSON holds it; `from_dict` takes it back.

        Args:
            short: leave out the fields of rows, swaps and edits that have their default value.
        """
        given = dataclasses.asdict(dataclasses.replace(self, traced=None))
        del given["traced"]
        if short:
            parts = (("rows", LayerPlan), ("swaps", Swap), ("edits", Edit), ("outputs", OutputPlan))
            for name, cls in parts:
                given[name] = [_without_defaults(item, cls) for item in given[name]]
        return json.loads(json.dumps(given))

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> Plan:
        """The inverse of `as_dict`.

        Raises:
            FormatError: if something is missing or unknown.
        """
        try:
            rows = tuple(_row(row) for row in given["rows"])
            swaps = tuple(Swap(**swap) for swap in given["swaps"])
            edits = tuple(_edit(edit) for edit in given["edits"])
            return cls(
                model=given["model"],
                method=given["method"],
                policy=given["policy"],
                rows=rows,
                swaps=swaps,
                edits=edits,
                notes=tuple(given["notes"]),
                # not in the first files
                inputs=tuple(_shape(shape) for shape in given.get("inputs", ())),
                outputs=tuple(_output(output) for output in given.get("outputs", ())),
            )
        except (KeyError, TypeError) as error:
            raise FormatError(f"plan: {error}; expected what Plan.as_dict() gives.") from None

    def summary_line(self) -> str:
        """One line: how many layers and weights become binary, and why the others stay."""
        total = sum(_count(row.weight_shape) for row in self.rows)
        binary = sum(_count(row.weight_shape) for row in self.converted)
        share = 100 * binary / total if total else 0.0
        reasons = Counter(row.reason for row in self.rows if not row.converted)
        kept = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        layers = f"{len(self.converted)} of {len(self.rows)} layers"
        text = f"{self.method['name']}: {layers}, {share:.1f} % of weights"
        return f"{text}; kept: {kept}" if kept else text

    def __str__(self) -> str:
        return plain(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(
            title=f"{self.model}: {self.method['name']}",
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        folded = list(self._folded())
        least = widest_part(name for name, _ in folded)
        table.add_column("layer", min_width=least, max_width=max(_NAME_WIDTH, least, options.max_width // 3))
        table.add_column("float layer", no_wrap=options.max_width >= _WIDE, max_width=_KIND_WIDTH)
        table.add_column("becomes", no_wrap=options.max_width >= _WIDE)
        table.add_column("norm, activation, sum")
        for name, row in folded:
            state = f"binary, {_bypass_text(row)}" if row.converted else _kept_text(row)
            told = (row.reason, row.norm, row.activation, row.residual, row.bypass_reason)
            detail = "; ".join(part for part in told if part and part != "none")
            if row.activations:  # in a line of its own, which is not broken inside the braces
                detail = f"activations {row.activations}\n{detail}"
            style = BINARY if row.converted else FLOAT
            cells = (f"{row.kind} {_geometry(row)}", state, detail)
            table.add_row(Name(name), *map(Text, cells), style=style)
        yield table
        for line in (self.summary_line(), *output_lines(self.outputs)):
            yield Text(line)
        for note in self.notes:
            yield Text(note, SLOWER) if note.startswith("warning: ") else Text(f"note: {note}")

    def _folded(self) -> Iterator[tuple[str, LayerPlan]]:
        """Rows in order; runs of blocks that differ by an index only are one row each."""
        seen: dict[Any, list[LayerPlan]] = {}
        for row in self.rows:
            seen.setdefault(_look(row), []).append(row)
        for rows in seen.values():
            yield (rows[0].name if len(rows) == 1 else f"{_pattern(rows)} (x{len(rows)})"), rows[0]


def _shape(given: Any) -> tuple[int, ...]:
    if len(given) > 8 or not all(type(n) is int and 0 <= n < 2**31 for n in given):
        raise TypeError(f"{given!r} is no shape")
    return tuple(given)


def _look(row: LayerPlan) -> Any:
    """All that a table shows of a row, indices in names aside."""
    generic = ".".join("*" if part.isdigit() else part for part in row.name.split("."))
    return (
        generic,
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


def _pattern(rows: list[LayerPlan]) -> str:
    """The names of similar rows as one: indices that differ become ranges."""
    columns = zip(*(row.name.split(".") for row in rows), strict=True)
    parts = []
    for column in columns:
        values = list(dict.fromkeys(column))
        numbers = sorted(int(v) for v in values) if all(v.isdigit() for v in values) else []
        if len(values) == 1:
            parts.append(values[0])
        elif numbers and numbers == list(range(numbers[0], numbers[-1] + 1)):
            parts.append(f"{numbers[0]}-{numbers[-1]}")
        else:
            parts.append("{" + ",".join(values) + "}")
    return ".".join(parts)


def _geometry(row: LayerPlan) -> str:
    """Kernel and channels: `3x3 64>128`."""
    if not row.weight_shape:
        return ""
    outgoing, incoming, *kernel = row.weight_shape
    if row.kind.startswith("conv_transpose"):
        outgoing, incoming = incoming, outgoing
    if row.in_shape and row.out_shape and kernel:  # with groups, the weight does not tell both
        incoming, outgoing = row.in_shape[1], row.out_shape[1]
    size = "x".join(str(k) for k in kernel)
    return f"{size} {incoming}>{outgoing}".strip()


def _kept_text(row: LayerPlan) -> str:
    return "stays" if row.reason == BINARY_ALREADY else "float"


def _bypass_text(row: LayerPlan) -> str:
    return "no bypass" if row.bypass == "none" else row.bypass


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count if shape else 0


def _row(given: dict[str, Any]) -> LayerPlan:
    shapes = {name: tuple(given.get(name, ())) for name in ("in_shape", "out_shape", "weight_shape")}
    context = tuple((str(name), bool(value)) for name, value in given.get("context", ()))
    ranges = tuple((int(start), int(stop)) for start, stop in given.get("nonnegative", ()))
    return LayerPlan(**{**given, **shapes, "context": context, "nonnegative": ranges})


def _output(given: dict[str, Any]) -> OutputPlan:
    names = {name: tuple(map(str, given.get(name, ()))) for name in ("final", "kept", "functions", "changed")}
    return OutputPlan(**{**given, **names, "shape": _shape(given.get("shape", ()))})


def _without_defaults(given: dict[str, Any], cls: type) -> dict[str, Any]:
    defaults = {item.name: item.default for item in dataclasses.fields(cls)}
    return {name: value for name, value in given.items() if value != defaults[name]}


def _edit(given: dict[str, Any]) -> Edit:
    activation = Swap(**given["activation"]) if given.get("activation") is not None else None
    lists = tuple((str(name), str(kind), int(length)) for name, kind, length in given.get("lists", ()))
    constants = tuple((str(name), value) for name, value in given.get("constants", ()))
    names = {name: tuple(given.get(name, ())) for name in ("fixed", "tensors")}
    return Edit(**{**given, **names, "lists": lists, "constants": constants, "activation": activation})
