"""A module that keeps its class, attributes and methods and runs a rewritten forward.

The class is made at run time as a subclass of the module's own, so that `isinstance`, helper methods and
state dict keys stay as they were; pickle and deepcopy make it again from the source of the new forward.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import linecache
from typing import Any

from torch import fx, nn

from binarize.errors import RewriteError

# One entry per global name of the source: (name, module, qualified name); an empty qualified name is the
# module itself, an empty module means a builtin constant given by its repr.
Names = tuple[tuple[str, str, str], ...]
_CONSTANTS = {"inf": float("inf"), "nan": float("nan"), "NoneType": type(None)}


def install(module: nn.Module, graph: fx.Graph) -> None:
    """Make `module` run `graph` as its forward.

    Raises:
        RewriteError: the graph refers to something that cannot be imported by name.
    """
    graph.lint()
    code = graph.python_code("self")
    names = tuple(_locate(name, value) for name, value in sorted(code.globals.items()))
    base = getattr(type(module), "_binarize_base", type(module))
    module.__class__ = rewritten_class(base, code.src, names)


@functools.cache
def rewritten_class(base: type[nn.Module], source: str, names: Names) -> type[nn.Module]:
    """The subclass of `base` whose forward is `source`; one class per source, shared by equal blocks."""
    namespace = {name: _find(name, module, qualified) for name, module, qualified in names}
    filename = f"<binarize {base.__qualname__} {abs(hash((base, source))):x}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec"), namespace)
    attributes = {
        "forward": namespace["forward"],
        "__reduce_ex__": _reduce_ex,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "_binarize_base": base,
        "_binarize_source": (source, names),
    }
    return type(base.__name__, (base,), attributes)


def _restore(base: type[nn.Module], source: str, names: Names) -> nn.Module:
    cls = rewritten_class(base, source, names)
    return cls.__new__(cls)


def _reduce_ex(self: Any, protocol: int) -> tuple[Any, ...]:
    source, names = self._binarize_source
    return _restore, (self._binarize_base, source, names), self.__getstate__()


def _locate(name: str, value: Any) -> tuple[str, str, str]:
    if name in _CONSTANTS:
        return name, "", name
    if type(value) is type(builtins):
        return name, value.__name__, ""
    module = getattr(value, "__module__", None)
    qualified = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if module is None and qualified is not None:  # builtin functions of torch and operator have no module
        for candidate in ("torch", "torch.nn.functional", "torch._C._nn", "operator", "math", "builtins"):
            if getattr(importlib.import_module(candidate), qualified, None) is value:
                return name, candidate, qualified
    located = (name, str(module), str(qualified))
    if module is None or qualified is None or _find(*located) is not value:
        raise RewriteError(f"{value!r} is called in a forward to rewrite, but cannot be imported by name.")
    return located


def _find(name: str, module: str, qualified: str) -> Any:
    if not module:
        return _CONSTANTS[name]
    found: Any = importlib.import_module(module)
    for part in qualified.split(".") if qualified else ():
        found = getattr(found, part, None)
    return found
