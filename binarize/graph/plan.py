"""A plan: every decision about a model, frozen, printable, and executable from its JSON form."""

from __future__ import annotations

import dataclasses
import json
import weakref
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text
from torch import fx, nn

from binarize.errors import BinarizeError, FormatError
from binarize.graph.plan_rows import Edit, KeptBy, LayerPlan, OutputPlan, Swap
from binarize.graph.plan_sentences import Statement
from binarize.graph.plan_table import layer_table, note_lines, output_lines, summary_line
from binarize.layers.recipe import METHODS
from binarize.methods.forms import Form
from binarize.tables import plain

__all__ = ["Edit", "KeptBy", "LayerPlan", "OutputPlan", "Plan", "Swap", "Traced"]

_IN_FILES = {"removes_sign_information": "blinds"}  # fields whose key in files is another
_FAULTS = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
_STATEMENTS = ("reason", "bypass_reason", "activation", "residual")
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "str | None": (str, type(None)),
    "KeptBy": (str,),
    "Statement | str": (Statement, str),
    "dict[str, Any]": (dict,),
}
"""Of fields, by the text of their annotation."""

T = TypeVar("T")


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
    """Exactly what `apply` does to a model.

    Attributes:
        model: class name of the model.
        method: name and options.
        policy: as `Policy.as_dict`.
        rows: one per convolution and linear layer, in the order of the run.
        swaps: norms, activations and layer scale that are replaced.
        edits: changes of modules' own forwards.
        notes: what could not be traced or reached, and what was done instead.
        inputs: shapes of the input tensors of the example run.
        outputs: the tensors that the network returns, each with its last layers.
        traced: the graphs that were made while planning, for execution on the same model; not stored in
            files.
    """

    model: str
    method: dict[str, Any]
    policy: dict[str, Any]
    rows: tuple[LayerPlan, ...]
    swaps: tuple[Swap, ...] = ()
    edits: tuple[Edit, ...] = ()
    notes: tuple[Statement, ...] = ()
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
        """As plain values for JSON; `from_dict` is the inverse.

        Args:
            short: leave out the fields of rows, swaps and edits that have their default value.
        """
        given = dataclasses.asdict(dataclasses.replace(self, traced=None))
        del given["traced"]
        given["swaps"] = [_renamed(swap, _IN_FILES) for swap in given["swaps"]]
        for edit in given["edits"]:
            edit["activation"] = edit["activation"] and _renamed(edit["activation"], _IN_FILES)
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
            swaps = tuple(_checked(Swap(**swap)) for swap in given["swaps"])
            edits = tuple(_edit(edit) for edit in given["edits"])
            made = cls(
                model=given["model"],
                method=given["method"],
                policy=given["policy"],
                rows=rows,
                swaps=swaps,
                edits=edits,
                notes=tuple(map(Statement.read, given["notes"])),
                # not in the first files
                inputs=tuple(_shape(shape) for shape in given.get("inputs", ())),
                outputs=tuple(_output(output) for output in given.get("outputs", ())),
            )
            if not isinstance(made.method["name"], str):
                raise TypeError(f"the method's name {made.method['name']!r} is not a text")
            return _checked(made)
        except _FAULTS as error:
            raise FormatError(f"plan: {error}; expected what Plan.as_dict() gives.") from None

    def summary_line(self) -> str:
        """One line: how many layers and weights become binary, and why the others stay."""
        return summary_line(self._method_text(), self.rows)

    def _method_text(self) -> str:
        """The method's name, and the bits of its weights and activations where they are more than one."""
        name, options = self.method["name"], self.method.get("options") or {}
        try:
            weight, activation = METHODS.get(name).create(**options).bits
        except (BinarizeError, TypeError):  # of a package that is not installed, or of another version
            return name
        return name if weight == activation == 1 else f"{name} W{weight}A{activation}"

    def __str__(self) -> str:
        return plain(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        title = f"{self.model}: {self._method_text()}"
        yield layer_table(title, self.rows, options.max_width)
        yield Text(self.summary_line())
        yield from output_lines(self.outputs)
        yield from note_lines(self.notes)


def _checked(made: T) -> T:
    """`made`, whose fields are compared with their types, as far as these are plain."""
    for item in dataclasses.fields(made):  # pyright: ignore[reportArgumentType]
        value, expected = getattr(made, item.name), _TYPES.get(str(item.type))
        if expected is not None and type(value) not in expected:
            raise TypeError(f"{item.name} {value!r} is not of type {item.type}")
    return made


def _shape(given: Any) -> tuple[int, ...]:
    if len(given) > 8 or not all(type(n) is int and 0 <= n < 2**31 for n in given):
        raise TypeError(f"{given!r} is not a shape")
    return tuple(given)


def _row(given: dict[str, Any]) -> LayerPlan:
    shapes = {name: _shape(given.get(name, ())) for name in ("in_shape", "out_shape", "weight_shape")}
    context = tuple((str(name), bool(value)) for name, value in given.get("context", ()))
    ranges = tuple((int(start), int(stop)) for start, stop in given.get("nonnegative", ()))
    said = {name: Statement.read(given[name]) for name in _STATEMENTS if given.get(name)}
    return _checked(LayerPlan(**{**given, **said, **shapes, "context": context, "nonnegative": ranges}))


def _output(given: dict[str, Any]) -> OutputPlan:
    names = {name: tuple(map(str, given.get(name, ()))) for name in ("final", "kept", "functions", "changed")}
    return _checked(OutputPlan(**{**given, **names, "shape": _shape(given.get("shape", ()))}))


def _without_defaults(given: dict[str, Any], cls: type) -> dict[str, Any]:
    defaults = {_IN_FILES.get(item.name, item.name): item.default for item in dataclasses.fields(cls)}
    return {name: value for name, value in given.items() if value != defaults[name]}


def _renamed(given: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in given.items()}


def _edit(given: dict[str, Any]) -> Edit:
    activation = _checked(Swap(**given["activation"])) if given.get("activation") is not None else None
    lists = tuple((str(name), str(kind), int(length)) for name, kind, length in given.get("lists", ()))
    constants = tuple((str(name), value) for name, value in given.get("constants", ()))
    names = {name: tuple(given.get(name, ())) for name in ("fixed", "tensors")}
    return _checked(
        Edit(**{**given, **names, "lists": lists, "constants": constants, "activation": activation})
    )
