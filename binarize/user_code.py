"""A callable that returns a network: in a Python file, `path/to/nets.py:unet`, or `package.module:Net`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from binarize.errors import ConfigError, listed, near_names, near_paths, unknown_name, with_article

if TYPE_CHECKING:
    from torch import nn

_FILE = re.compile(r"(?P<path>.+\.py)(:(?P<name>[^?:]*)(\?(?P<query>.*))?)?", re.DOTALL)


def is_file(text: str) -> bool:
    """Whether a text names a callable in a Python file."""
    return _FILE.fullmatch(text) is not None


def parts(text: str) -> tuple[str, str, str]:
    """Place, name of the callable and query of `PLACE:NAME?QUERY`; the last two may be empty."""
    match = _FILE.fullmatch(text)
    if match:
        return match["path"], match["name"] or "", match["query"] or ""
    start, _, query = text.partition("?")
    place, _, name = start.partition(":")
    return place, name, query


def is_module(place: str) -> bool:
    """Whether a dotted name leads to something that can be imported, installed or in the current folder."""
    if not all(part.isidentifier() for part in place.split(".")):
        return False
    with _with_modules_of(Path.cwd()):
        try:
            return importlib.util.find_spec(place.partition(".")[0]) is not None
        except (ImportError, ValueError):
            return False


@contextlib.contextmanager
def _on_path(folder: str, index: int) -> Iterator[None]:
    sys.path.insert(index, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the file removed it itself
            sys.path.remove(folder)


def _with_modules_of(folder: Path | None) -> contextlib.AbstractContextManager[None]:
    """Modules of a folder can be imported too; installed ones come first."""
    return contextlib.nullcontext() if folder is None else _on_path(str(folder), len(sys.path))


_NEIGHBOURS: dict[str, Path] = {}
"""Folder of each module in `sys.modules` that a file of the user's imported from beside it."""


@contextlib.contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Let a file import its own neighbours, not those of the same names beside another file before it."""
    for name, place in list(_NEIGHBOURS.items()):
        top = name.partition(".")[0]
        if place != folder and ((folder / f"{top}.py").is_file() or (folder / top).is_dir()):
            sys.modules.pop(name, None)
            del _NEIGHBOURS[name]
    before = set(sys.modules)
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).resolve().is_relative_to(folder):
                _NEIGHBOURS[name] = folder


class Code:
    """A callable of the user's, imported when it is first looked at; whoever makes one runs that code.

    Args:
        text: `path/to/nets.py:unet` or `package.module:Net`, without a query.
        folder: where modules may lie that are not installed; None for nowhere.
    """

    def __init__(self, text: str, folder: Path | None) -> None:
        self.text = text
        self.folder = folder
        self.place, self.name, _ = parts(text)
        self.path = Path(self.place) if is_file(text) else None
        self._make: Callable[..., Any] | None = None

    def fingerprint(self) -> str | None:
        """SHA-256 of the file's text, in hexadecimal; None for a module."""
        return None if self.path is None else hashlib.sha256(self.path.read_bytes()).hexdigest()

    def found_in_folder(self) -> bool:
        """Whether it is a module that `folder` holds, and that was not installed.

        Raises:
            ConfigError: there is no such callable, or it cannot be imported.
        """
        self._found()
        top = sys.modules.get(self.place.partition(".")[0])
        if self.path is not None or self.folder is None or top is None:
            return False
        held = [*getattr(top, "__path__", [getattr(top, "__file__", None)])]
        return self.folder.resolve() in {Path(place).resolve().parent for place in held if place}

    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """What the callable takes by name; `**` is among them under its own name.

        Raises:
            ConfigError: there is no such callable, or its file cannot be imported.
        """
        found = self._found()
        try:
            return inspect.signature(found).parameters
        except (TypeError, ValueError):  # of a class in C
            return {}

    def build(self, **kwargs: Any) -> nn.Module:
        """The network that the callable returns.

        Raises:
            ConfigError: there is no such callable, it does not take an argument, fails, or returns something
                else.
        """
        from torch import nn

        make = self._found()
        parameters = self.parameters()
        if parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            for key in kwargs:
                if key not in parameters:
                    raise ConfigError(
                        f"{self.text}: {unknown_name(f'option of {self.name}()', key, parameters)}"
                    )
            self._check_complete(parameters, kwargs)
        with self._importing():
            try:
                model = make(**kwargs)
            except (Exception, SystemExit) as error:
                raise ConfigError(f"{self.text}: {self.name}() failed: {self._last_line(error)}") from error
        if not isinstance(model, nn.Module):
            raise ConfigError(
                f"{self.text}: {self.name}() returned {with_article(type(model).__name__)}, expected a "
                "torch.nn.Module."
            )
        return model

    def _found(self) -> Callable[..., Any]:
        if self._make is not None:
            return self._make
        if self.path is not None and not self.path.is_file():
            raise ConfigError(f"{self.text}: there is no file {str(self.path)!r}.{near_paths(self.path)}")
        if not self.name:
            raise ConfigError(
                f"{self.place}: name a callable in the file that returns the model, {self.place}:build_model."
            )
        with self._importing():
            found: Any = self._imported()
            where = self.path.name if self.path is not None else self.place
            for part in self.name.split("."):
                if not hasattr(found, part):
                    held = getattr(found, "__dict__", {})
                    names = [n for n, v in held.items() if callable(v) and not n.startswith("_")]
                    near = near_names(part, names)
                    hint = f"; did you mean {' or '.join(near)}?" if near else "."
                    raise ConfigError(f"{self.text}: {where} has no {part!r}{hint}")
                found = getattr(found, part)
        if not callable(found):
            raise ConfigError(
                f"{self.text}: {self.name!r} is {with_article(type(found).__name__)}, expected a callable "
                "that returns a network."
            )
        self._make = found
        return found

    def _check_complete(self, parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any]) -> None:
        """Refuse a call that leaves out an argument which has no default."""
        needed = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        missing = [
            name for name, p in parameters.items()
            if p.kind in needed and p.default is p.empty and name not in given
        ]  # fmt: skip
        if missing:
            values = "&".join(f"{name}=VALUE" for name in missing)
            raise ConfigError(
                f"{self.text}: {self.name}() needs {listed(missing)}, and nothing gives it a value. Write "
                f"'{self.place}:{self.name}?{values}', or in a recipe network.options."
            )

    def _imported(self) -> ModuleType:
        if self.path is None:
            try:
                return importlib.import_module(self.place)
            except (Exception, SystemExit) as error:
                raise ConfigError(
                    f"{self.text}: importing {self.place} failed: {self._last_line(error)}"
                ) from error
        name = "binarize_model_" + re.sub(r"\W", "_", self.path.stem)
        spec = importlib.util.spec_from_file_location(name, self.path.resolve())
        if spec is None or spec.loader is None:
            raise ConfigError(f"{self.text}: {str(self.path)!r} cannot be imported as Python.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickle look classes up there
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise ConfigError(
                f"{self.text}: importing {self.path.name} failed: {self._last_line(error)}"
            ) from error
        return module

    @contextlib.contextmanager
    def _importing(self) -> Iterator[None]:
        """Allow a file to import modules from its folder, as a script could."""
        if self.path is None:
            with _with_modules_of(self.folder):
                yield
            return
        folder = self.path.resolve().parent
        with _on_path(str(folder), 0), _neighbours(folder):
            yield

    def _last_line(self, error: BaseException) -> str:
        """The last line of the traceback, with the last line of the user's file in it."""
        line = traceback.format_exception_only(error)[-1].strip()
        if self.path is None:
            return line
        resolved = str(self.path.resolve())
        numbers = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == resolved
        ]
        return f"{line} ({self.path.name}, line {numbers[-1]})" if numbers else line
