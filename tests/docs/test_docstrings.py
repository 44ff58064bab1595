"""Public names are documented: all of them, their methods, arguments, shapes of tensors, and errors."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

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


SHAPE = re.compile(r"\([A-Z*.n][^()]*\)|\bshapes?\b|\bnumbers?\b")
"""How docstrings write one: (N, C, H, W), `the shape of x`, `one number per channel`."""


def functions(name: str, value: Any) -> Iterator[tuple[str, Any, str]]:
    """A function, or the public methods of a class, each with all that is written about its arguments."""
    if inspect.isfunction(value):
        yield name, value, value.__doc__ or ""
    elif inspect.isclass(value):
        for member, function in vars(value).items():
            plain = getattr(function, "__func__", function)
            if member[0] != "_" and inspect.isfunction(plain):
                yield f"{name}.{member}", plain, f"{inspect.getdoc(getattr(value, member))} {value.__doc__}"


def tensors(function: Any) -> list[str]:
    """Arguments that are tensors; several at once (`dict[str, Tensor]`) need no shape."""
    hints = function.__annotations__.items()
    return [
        name for name, hint in hints if name != "return" and re.fullmatch(r"Tensor( \| None)?", str(hint))
    ]


def raised(function: Any) -> set[str]:
    """The errors that a function itself raises."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = [
        node.exc.func
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]
    names = {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}
    return {name for name in names if name.endswith("Error")} - {"NotImplementedError", "AttributeError"}


def unsaid(name: str, value: Any) -> Iterator[str]:
    for path, function, text in functions(name, value):
        if (found := tensors(function)) and not SHAPE.search(text):
            yield f"{path} does not say the shape of {found}"
        if "Raises:" not in text and (errors := [error for error in raised(function) if error not in text]):
            yield f"{path} does not say when it raises {errors}"


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


@pytest.mark.parametrize("module", MODULES)
def test_shapes_and_errors_are_documented(module: str) -> None:
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError:
        parent, _, name = module.rpartition(".")
        assert not list(unsaid(name, getattr(importlib.import_module(parent), name)))
        return
    assert not [fault for name, value in public(found) for fault in unsaid(f"{module}.{name}", value)]


def test_what_is_unsaid() -> None:
    def without(x: Tensor) -> Tensor:
        """Nothing."""
        raise ValueError(x)

    def with_both(x: Tensor) -> Tensor:
        """Of (N, C).

        Raises:
            ValueError: always.
        """
        raise ValueError(x)

    assert list(unsaid("f", without)) == [
        "f does not say the shape of ['x']",
        "f does not say when it raises ['ValueError']",
    ]
    assert not list(unsaid("f", with_both))
