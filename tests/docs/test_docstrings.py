"""Public names are documented: all of them, their methods, and their arguments."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
MODULES = sorted(
    name
    for page in (DOCS / "api").glob("*.md")
    for name in re.findall(r"^::: (binarize\.[\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    if not name.rpartition(".")[2][0].isupper() and page.stem != "binarize"
)


def public(module: Any) -> Iterator[tuple[str, Any]]:
    """The functions and classes that a module offers."""
    own = [n for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__]
    for name in getattr(module, "__all__", own):
        value = getattr(module, name)
        if not name.startswith("_") and callable(value) and not inspect.ismodule(value):
            yield name, value


def lacks(text: str, names: list[str]) -> list[str]:
    return [name for name in names if not re.search(rf"\b{name}\b", text)]


def faults(name: str, value: Any) -> Iterator[str]:
    text = value.__doc__ or ""
    if not text:
        yield f"{name} has no docstring"
    elif inspect.isfunction(value):
        names = [n for n in inspect.signature(value).parameters if not n.startswith("_")]
        if len(names) > 1 and "Args:" not in text:
            yield f"{name} has no Args"
        elif len(names) > 1 and (missing := lacks(text, names)):
            yield f"{name} does not say what {missing} are"
    elif inspect.isclass(value):
        for member, function in vars(value).items():
            plain = getattr(function, "fget", getattr(function, "__func__", function))
            if member[0] != "_" and inspect.isfunction(plain) and not inspect.getdoc(getattr(value, member)):
                yield f"{name}.{member} has no docstring"
        constructor = vars(value).get("__init__")
        if inspect.isfunction(constructor):
            inherited = " ".join(base.__doc__ or "" for base in value.__mro__)
            names = [n for n in inspect.signature(constructor).parameters if n != "self"]
            if missing := lacks(inherited, names):
                yield f"{name} does not say what {missing} are"


def test_the_reference_has_modules() -> None:
    assert len(MODULES) > 12


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_documented(module: str) -> None:
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError:  # a function
        parent, _, name = module.rpartition(".")
        assert not list(faults(name, getattr(importlib.import_module(parent), name)))
        return
    assert not [fault for name, value in public(found) for fault in faults(f"{module}.{name}", value)]
