"""The header entry of a model file: what it says, how it is checked. `docs/files.md` specifies it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from binarize.errors import FormatError
from binarize.files.checksum import canonical_json, checksum

ENTRY = "binarize"
"""Key of the header's text entry."""
FORMAT = "binarize-model"
FORMAT_VERSION = 1
"""Of the files with latent weights that are written here; files of a higher version are refused."""
PACKED_FORMAT = "binarize-packed"
PACKED_VERSION = 3
"""The highest of packed files (`docs/format.md`); likewise. A file has the lowest that its layers need."""
_QUANTIZERS = (({"kind": "shifted_step"}, 2), ({"granularity": "group"}, 2), ({"kind": "levels"}, 3))
"""What in a quantizer readers below that version do not know."""

_SOURCES: dict[str, dict[str, type]] = {
    "timm": {"name": str, "kwargs": dict},
    "networks": {"name": str, "kwargs": dict},
    "custom": {"class": str},
}


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a model file says about its model.

    Attributes:
        source: how to rebuild the float model.
        plan: the conversion plan as JSON, or None for a float model.
        aliases: name of a tensor -> name under which the same (tied) tensor is stored.
        transient: dtype of each floating-point buffer that is not stored but rebuilt.
        versions: of the packages that wrote the file; for people, nothing depends on them.
        strides: of each tensor that lies in memory in another order than it is stored in (channels-last):
            convolutions round by that order. Not in the first files.
    """

    format: ClassVar[str] = FORMAT
    version: ClassVar[int] = FORMAT_VERSION

    source: Mapping[str, Any]
    plan: Mapping[str, Any] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    transient: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    strides: Mapping[str, Any] = field(default_factory=dict)

    def dumps(self, tensors: Mapping[str, Tensor]) -> str:
        """The entry's text, with the checksum over itself and `tensors`.

        Raises:
            TypeError: if a part of it cannot be written as JSON.
        """
        fields = self._fields()
        return canonical_json({**fields, "sha256": checksum(fields, tensors)})

    def blank(self) -> str:
        """A text as long as the entry's, with no checksum in it."""
        return canonical_json({**self._fields(), "sha256": "0" * 64})

    def _fields(self) -> dict[str, Any]:
        fields = {"format": self.format, "version": self.version, **dataclasses.asdict(self)}
        if not fields["strides"]:  # so that the first readers' files stay as they are, to the byte
            del fields["strides"]
        return fields


@dataclass(frozen=True, kw_only=True)
class PackedHeader(Header):
    """What a packed file says about its model, beside what `Header` has.

    Attributes:
        layers: packed layers by path, as `PackedSpec.as_dict` gives them.
        kept: binary layers that are not packed, and why.
        leftovers: dtype in which float tensors are stored.
    """

    format: ClassVar[str] = PACKED_FORMAT
    version: ClassVar[int] = PACKED_VERSION

    layers: Mapping[str, Any] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    leftovers: str = "float32"

    def _fields(self) -> dict[str, Any]:
        needed = max((_version_of(layer) for layer in self.layers.values()), default=1)
        return {**super()._fields(), "version": needed}


def _version_of(layer: Mapping[str, Any]) -> int:
    """The lowest version of packed files that can hold a layer."""
    quantizer = layer.get("quantizer", {})
    found = [version for new, version in _QUANTIZERS if new.items() <= quantizer.items()]
    third = "weight_planes" in layer or (layer.get("inner") or {}).get("kind") == "piecewise"
    return max([3 if third else 1, *found])


_KINDS: dict[str, type[Header]] = {FORMAT: Header, PACKED_FORMAT: PackedHeader}
FLOAT_DTYPES = ("float32", "float16", "bfloat16")
"""The dtypes in which packed files store floats."""


def loads(metadata: Mapping[str, str], where: str) -> tuple[Header, dict[str, Any]]:
    """The header in a file's text entries, and its raw fields for `verify`.

    Args:
        metadata: all text entries of the file.
        where: names the file in messages.

    Raises:
        FormatError: if the entry is missing, corrupted or of a newer version.
    """
    if ENTRY not in metadata:
        raise FormatError(
            f"{where} was not written by binarize: its header has no {ENTRY!r} entry. "
            "A file of float weights is read with --checkpoint, or binarize.files.load_checkpoint."
        )
    try:
        fields = json.loads(metadata[ENTRY], parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where} is corrupted: its {ENTRY!r} entry is not JSON ({error}).") from error
    kind = fields.get("format") if isinstance(fields, dict) else None
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise FormatError(
            f"{where} is corrupted or foreign: its {ENTRY!r} entry is of no format of {list(_KINDS)}."
        )
    version = fields.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FormatError(f"{where} is corrupted: format version {version!r}, expected a positive integer.")
    if version > cls.version:
        raise FormatError(
            f"{where} has format version {version}; this binarize reads versions up to {cls.version}. "
            "Install a newer binarize to read it."
        )
    _expect(
        where, fields, {"source": dict, "aliases": dict, "transient": dict, "versions": dict, "sha256": str}
    )
    if "plan" not in fields or not isinstance(fields["plan"], (dict, type(None))):
        raise FormatError(f"{where} is corrupted: 'plan' in its header is neither a plan nor null.")
    _check_source(where, fields["source"])
    texts = ["aliases", "transient", "versions"]
    if cls is PackedHeader:
        _expect(where, fields, {"layers": dict, "kept": dict, "leftovers": str})
        if fields["leftovers"] not in FLOAT_DTYPES:
            raise FormatError(
                f"{where} is corrupted: leftovers {fields['leftovers']!r}, expected one of "
                f"{list(FLOAT_DTYPES)}."
            )
        texts.append("kept")
    for name in texts:
        if not all(isinstance(value, str) for value in fields[name].values()):
            raise FormatError(
                f"{where} is corrupted: {name!r} in its header holds something else than texts."
            )
    if not isinstance(fields.get("strides", {}), dict):
        raise FormatError(f"{where} is corrupted: 'strides' in its header is not a dict.")
    known = {item.name for item in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in fields.items() if name in known}), fields


def versions() -> dict[str, str]:
    """Of the packages that write a file."""
    return {name: _version(name) for name in ("binarize", "torch", "timm")}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def dtype_of(name: str, where: str) -> torch.dtype:
    """The floating-point dtype called `name` ("float16").

    Raises:
        FormatError: there is no such dtype.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise FormatError(f"{where} is corrupted: {name!r} in its header is not a floating-point type.")
    return dtype


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _check_source(where: str, source: dict[str, Any]) -> None:
    kind = source.get("source")
    if not isinstance(kind, str) or kind not in _SOURCES:
        raise FormatError(
            f"{where} is corrupted: source {kind!r} in its header, expected one of {list(_SOURCES)}."
        )
    _expect(where, source, _SOURCES[kind])
    code = source.get("code")
    if code is not None and not (isinstance(code, dict) and _describes_code(code)):
        raise FormatError(f"{where} is corrupted: 'code' in its header does not describe a callable.")


def _describes_code(entry: Mapping[str, Any]) -> bool:
    """Whether an entry names a callable, its arguments, the checksum of its file and a signature."""
    may_lack = all(isinstance(entry.get(key, ""), str) for key in ("folder", "signature"))
    texts = isinstance(entry.get("name"), str) and may_lack
    known = isinstance(entry.get("sha256", ...), (str, type(None)))
    return texts and known and isinstance(entry.get("options"), dict)


def _expect(where: str, fields: Mapping[str, Any], types: Mapping[str, type]) -> None:
    for name, kind in types.items():
        if not isinstance(fields.get(name), kind):
            got = f"a {type(fields[name]).__name__}" if name in fields else "nothing"
            raise FormatError(
                f"{where} is corrupted: {name!r} in its header is {got}, not a {kind.__name__}."
            )
