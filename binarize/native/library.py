"""Finds, loads and describes the shared library of the kernels."""

from __future__ import annotations

import ctypes
import functools
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch  # first: its OpenMP runtime is the one that the library's threads belong to

from binarize import native
from binarize.errors import NativeError, unknown_name
from binarize.native.structs import ABI_VERSION, ISAS, SIGNATURES, STATUS

Isa = Literal["auto", "portable", "avx2", "avx512"]
FILE = "libbinarize.so"


@dataclass(frozen=True, kw_only=True)
class Features:
    """What the kernels can do here.

    Attributes:
        available: whether the library was found and loaded; if not, packed layers run on torch.
        why_not: the reason, if not available.
        path: the library's file.
        cpu: features of the processor that matter to the kernels.
        isas: the instruction sets that can run here, slowest first.
        isa: the one that `auto` stands for; None if the library is missing.
        build: compiler, flags, version, openmp.
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
    """Whether the library is there."""
    return load() is not None


def features() -> Features:
    """What is available here."""
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


def set_isa(isa: Isa) -> None:
    """Let `auto` mean this instruction set, in the whole process; "auto" for the best one again.

    Raises:
        NativeError: the library is missing, an unknown name, or an instruction set that cannot run here.
    """
    check(required().bz_set_isa(number_of(isa)), "set_isa")


def resolve(isa: Isa = "auto") -> str:
    """The name of the instruction set that will run: never "auto".

    Raises:
        NativeError: the library is missing, an unknown name, or an instruction set that cannot run here.
    """
    lib, number = required(), number_of(isa)
    if number and not lib.bz_isa_available(number):
        known = ", ".join(features().isas)
        raise NativeError(f"instruction set {isa!r} is not available here; expected one of {known}.")
    chosen = number or lib.bz_get_isa()  # once: another thread may change the default meanwhile
    return next(name for name, n in ISAS.items() if n == chosen)


def number_of(isa: str) -> int:
    """The library's number of an instruction set.

    Raises:
        NativeError: an unknown name.
    """
    if isa not in ISAS:
        raise NativeError(unknown_name("instruction set", isa, [*ISAS]))
    return ISAS[isa]


def required() -> ctypes.CDLL:
    """The library.

    Raises:
        NativeError: it is missing.
    """
    lib = load()
    if lib is None:
        raise NativeError(f"the native kernels are missing: {_load()[2]}.")
    return lib


def check(status: int, where: str) -> None:
    """Turn a status of the library into an error.

    Raises:
        NativeError: it is not 0.
    """
    if status:
        raise NativeError(f"{where}: {STATUS.get(status, f'status {status}')}.")


def threads_or_default(threads: int | None) -> int:
    """The number of threads of a call: as given, else torch's.

    Raises:
        NativeError: below 1.
    """
    number = torch.get_num_threads() if threads is None else threads
    if number < 1:
        raise NativeError(f"threads={threads}: expected at least 1.")
    return number


def peak(isa: Isa = "auto", rounds: int = 1 << 20) -> float:
    """Multiply-accumulates that one call of the register-only loop of `rounds` rounds performs: time it.

    Raises:
        NativeError: the library or the instruction set is missing.
    """
    macs = ctypes.c_double()
    check(required().bz_peak(number_of(isa), rounds, ctypes.byref(macs)), "peak")
    return macs.value


@functools.cache
def warn_missing() -> None:
    """Warn once that packed layers run on torch because the library is missing."""
    message = f"the native kernels are missing ({_load()[2]}): packed layers run on torch, exact but slower"
    warnings.warn(message, RuntimeWarning, stacklevel=3)


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, Path | None, str]:
    # An editable install has the package in two folders: the sources, and where the build put the library.
    files = [Path(folder) / "_lib" / FILE for folder in native.__path__]
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
