"""Finds, loads and describes the shared library of the kernels."""

from __future__ import annotations

import ctypes
import functools
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch  # first: its OpenMP runtime is the one that the library's threads belong to

from binarize.errors import NativeError
from binarize.native.structs import ABI_VERSION, ISAS, SIGNATURES, STATUS

FILE = "libbinarize.so"


@dataclass(frozen=True, kw_only=True)
class Features:
    """Which kernels can run on this machine.

    Attributes:
        available: whether the library was found and loaded; if not, packed layers run on torch.
        why_not: the reason if not available.
        path: the library's file.
        cpu: features of the processor that the kernels can use.
        isas: the instruction sets that can run here, slowest first.
        isa: the one that `auto` stands for; None if the library is missing.
        build: how the library was built: compiler, flags, version, openmp.
    """

    available: bool
    why_not: str = ""
    path: Path | None = None
    cpu: tuple[str, ...] = ()
    isas: tuple[str, ...] = ()
    isa: str | None = None
    build: dict[str, str] = field(default_factory=dict)


def load() -> ctypes.CDLL | None:
    """The library with typed functions, or None where it is missing."""
    return _load()[0]


def available() -> bool:
    """Whether the library was found and loaded."""
    return load() is not None


def features() -> Features:
    """Which kernels can run on this machine."""
    lib, path, why_not = _load()
    if lib is None:
        return Features(available=False, why_not=why_not)
    names = {number: name for name, number in ISAS.items()}
    build = dict(part.partition("=")[::2] for part in lib.bz_build_info().decode().split(";"))
    return Features(
        available=True,
        path=path,
        cpu=tuple(lib.bz_cpu_features().decode().split()),
        isas=tuple(name for name, number in ISAS.items() if lib.bz_isa_available(number)),
        isa=names[lib.bz_get_isa()],
        build=build,
    )


def required() -> ctypes.CDLL:
    """The library with typed functions.

    Raises:
        NativeError: it is missing.
    """
    lib = load()
    if lib is None:
        raise NativeError(f"the native kernels are missing: {_load()[2]}.")
    return lib


def check(status: int, where: str) -> None:
    """Raise an error for a status of the library that is not 0.

    Raises:
        NativeError: that one.
    """
    if status:
        raise NativeError(f"{where}: {STATUS.get(status, f'status {status}')}.")


def threads_or_default(threads: int | None) -> int:
    """The number of threads of a call: `threads`, or torch's for None.

    Raises:
        NativeError: below 1.
    """
    number = torch.get_num_threads() if threads is None else threads
    if number < 1:
        raise NativeError(f"threads={threads}: expected at least 1.")
    return number


@functools.cache
def warn_missing() -> None:
    """Warn once that packed layers run on torch because the library is missing."""
    message = f"the native kernels are missing ({_load()[2]}): packed layers run on torch, exact but slower"
    warnings.warn(message, RuntimeWarning, stacklevel=3)


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, Path | None, str]:
    # An editable install has the package in two folders: the sources, and where the build put the library.
    # Looked up, not imported: nothing here depends on the package's `__init__`, which depends on this module.
    files = [Path(folder) / "_lib" / FILE for folder in sys.modules["binarize.native"].__path__]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        return None, None, f"{FILE} was not built at installation"
    try:
        lib = ctypes.CDLL(str(path))
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        return None, path, f"{path} cannot be loaded: {error}"
    if (version := lib.bz_abi_version()) != ABI_VERSION:
        return None, path, f"{path} has interface {version}, expected {ABI_VERSION}: reinstall"
    return lib, path, ""
