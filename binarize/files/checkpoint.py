"""Float weights from files that other programs wrote: safetensors, or PyTorch's own with `weights_only`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from binarize.errors import ConfigError, FormatError
from binarize.files.checkpoint_entries import Entries, read_entries
from binarize.files.checkpoint_match import Match, find_match
from binarize.files.container import check_readable
from binarize.files.difference import difference

_COUNTER = "num_batches_tracked"  # absent from old checkpoints, and without effect on the output
_NEAR = 3  # names that an error compares
_SHOWN = 5  # entries that it lists
_PART = 0.5  # share of the model's tensors that a part has to have to be named


@dataclass(frozen=True, kw_only=True)
class CheckpointReport:
    """What was loaded.

    Attributes:
        entry: the entry of the file that the weights stood in ("state_dict"), or "" for the file itself.
        prefix: what was taken off every name ("module."), or "".
        tensors: how many were loaded.
        expected: how many the model has.
        beside: how many of that entry were left out: another part's, or not the network's.
        part: the part of the model that they are of ("encoder"), or "" for all of it.
    """

    entry: str
    prefix: str
    tensors: int
    expected: int
    beside: int = 0
    part: str = ""

    def __str__(self) -> str:
        parts = [f"{self.tensors} of {self.expected} tensors"]
        parts += [f"entry {self.entry!r}"] * bool(self.entry) + [f"prefix {self.prefix!r}"] * bool(
            self.prefix
        )
        parts += [f"{self.beside} others left out"] * bool(self.beside)
        return ", ".join(parts) + (f"; {self.part} only" if self.part else "")


def load_checkpoint(
    model: nn.Module, path: str | os.PathLike[str], *, parts: Sequence[str] = (), converted: bool = False
) -> CheckpointReport:
    """Load float weights into `model`, or into one part of it: all tensors of that, or none.

    Entries such as `state_dict` and `model_state_dict`, whatever stands beside them, and prefixes such as
    `module.`, `backbone.` or `_orig_mod.`, also stacked, are looked through.

    Args:
        model: the float model; its weights are overwritten, in its own dtypes.
        path: `.safetensors`, or `.pth`, `.pt`, `.bin`, `.ckpt`, `.tar` (read by `torch.load` with
            `weights_only=True`).
        parts: names of submodules, such as `encoder`: a file that does not fit the whole model may hold the
            weights of the first of these that it fits; tensors that this part does not have are left out.
        converted: also take the file of a converted network, for a `model` that is converted, too.

    Raises:
        ConfigError: if there is no such file, its name ends otherwise, or the model has no such part.
        FormatError: if it cannot be read, or its tensors are not exactly the model's.
    """
    file = check_readable(path)
    where = repr(str(path))
    entries = read_entries(file, where, converted=converted)
    match = find_match(entries, model.state_dict().keys(), where)
    expected = _expected(model, match)
    if not difference(expected, match.tensors):
        model.load_state_dict(match.tensors, strict=False)
        return CheckpointReport(
            entry=match.entry,
            prefix=match.prefix,
            tensors=len(match.tensors),
            expected=len(match.tensors),
            beside=match.beside,
        )
    for part in parts:
        if (report := _load_part(model, part, entries, where)) is not None:
            return report
    raise FormatError(_explained(model, where, expected, entries, match))


def _load_part(model: nn.Module, part: str, entries: Entries, where: str) -> CheckpointReport | None:
    try:
        inner = model.get_submodule(part)
    except AttributeError as error:
        raise ConfigError(f"{type(model).__name__} has no part {part!r}.") from error
    match = _fitting(inner, entries, where)
    if match is None:
        return None
    own = {name: t for name, t in match.tensors.items() if name in inner.state_dict()}
    inner.load_state_dict(own, strict=False)
    total = sum(len(tensors) for entry, tensors in entries.items() if entry == match.entry)
    return CheckpointReport(
        entry=match.entry,
        prefix=match.prefix,
        tensors=len(own),
        expected=len(model.state_dict()),
        beside=total - len(own),
        part=part,
    )


def _fitting(inner: nn.Module, entries: Entries, where: str) -> Match | None:
    """The tensors of a file that are all those of a module, among others."""
    for loose in (False, True):
        try:
            match = find_match(entries, inner.state_dict().keys(), where, loose=loose)
        except FormatError:  # it fits in several places
            continue
        expected = _expected(inner, match)
        if all(
            name in match.tensors and tuple(match.tensors[name].shape) == shape
            for name, shape in expected.items()
        ):
            return match
    return None


def _expected(model: nn.Module, match: Match) -> dict[str, tuple[int, ...]]:
    """Names and shapes that a file has to have: it may lack counters, and second names of a tensor."""
    found = match.tensors
    tied = _tied(model)
    return {
        name: tuple(value.shape)
        for name, value in model.state_dict().items()
        if name in found or not (name.endswith(_COUNTER) or tied.get(name) in found)
    }


def _tied(model: nn.Module) -> dict[str, str]:
    """Name -> first name of the same parameter, for parameters that have several names."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            tied[name] = first[id(parameter)]
    return tied


def _explained(
    model: nn.Module,
    where: str,
    expected: Mapping[str, tuple[int, ...]],
    entries: Entries,
    match: Match,
) -> str:
    """The message; a classifier of another size, or none, the most frequent cases, have their remedies."""
    found = match.tensors
    remedy = _other_classes(model, expected, found)
    if remedy:
        return f"checkpoint {where}: {remedy}"
    text = f"checkpoint {where} does not fit {type(model).__name__}: {difference(expected, found)}"
    if places := _places(match.entry, match.prefix):
        text += f" ({', '.join(places)})"
    if not match.hits and len(entries) > 1:
        groups = [f"{name!r} ({len(tensors)} tensors)" for name, tensors in entries.items()]
        text += f"; the file holds {', '.join(groups[:_SHOWN])}"
    text += _near_names(expected, found)
    total = len(model.state_dict())
    for name, child in model.named_children():
        count = len(child.state_dict())
        if count > _PART * total and _fitting(child, entries, where) is not None:
            return (
                f"{text}. It does fit the part {name!r} ({count} of {total} tensors): "
                f"load_checkpoint(model, FILE, parts=[{name!r}])."
            )
    return f"{text}."


def _places(entry: str, prefix: str) -> list[str]:
    named = {"entry": entry, "prefix": prefix}
    return [f"{what} {name!r}" for what, name in named.items() if name]


def _other_classes(
    model: nn.Module, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Tensor]
) -> str:
    config: Any = getattr(model, "pretrained_cfg", None)
    names = config.get("classifier") if isinstance(config, Mapping) else None
    heads = [names] if isinstance(names, str) else list(names or ())
    others = {
        name for name in expected.keys() | found.keys() if not name.startswith(tuple(f"{h}." for h in heads))
    }
    same = all(n in expected and n in found and tuple(found[n].shape) == expected[n] for n in others)
    for head in heads:
        weight = found.get(f"{head}.weight")
        shape = expected.get(f"{head}.weight")
        if same and weight is not None and shape and weight.dim() and weight.shape[0] != shape[0]:
            classes = weight.shape[0]
            return (
                f"its classifier {head!r} has {classes} classes, the model's has {shape[0]}. Build the model "
                f"with '?num_classes={classes}'."
            )
    missing = expected.keys() - found.keys()
    if missing and not found.keys() - expected.keys() and all(n.rpartition(".")[0] in heads for n in missing):
        return f"it has no classifier {heads[0]!r}. Build the model with '?num_classes=0', which has none."
    return ""


def _near_names(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Tensor]) -> str:
    """Names of the file that look most like missing ones: how they differ is often how to change them."""
    others = [name for name in found if name not in expected]
    missing = [name for name in expected if name not in found]
    pairs = [
        f"{name} is like {near[0]}"
        for name in missing[:_NEAR]
        if (near := difflib.get_close_matches(name, others[:2000], n=1, cutoff=0.8))
    ]
    return f"; in the file, {', '.join(pairs)}" if pairs else ""
