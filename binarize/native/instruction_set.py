"""Which instruction set the kernels run on: the fastest one, or the one that was asked for."""

from __future__ import annotations

import ctypes
from typing import Literal

from binarize.errors import NativeError, unknown_name
from binarize.native.library import check, features, required
from binarize.native.structs import ISAS

Isa = Literal["auto", "portable", "avx2", "avx512", "amx"]


def set_isa(isa: Isa) -> None:
    """Make this instruction set the default of the process, which `auto` stands for.

    Args:
        isa: "auto" goes back to the fastest one.

    Raises:
        NativeError: the library is missing, an unknown name, or an instruction set that cannot run here.
    """
    check(required().bz_set_isa(number_of(isa)), "set_isa")


def resolve(isa: Isa = "auto") -> str:
    """The name of the instruction set that `isa` stands for now: never "auto".

    Raises:
        NativeError: the library is missing, an unknown name, or an instruction set that cannot run here.
    """
    lib, number = required(), number_of(isa)
    if number and not lib.bz_isa_available(number):
        known = ", ".join(features().isas)
        raise NativeError(f"instruction set {isa!r} is not available here; expected one of {known}.")
    chosen = number or lib.bz_get_isa()  # read once: another thread may change the default
    return next(name for name, n in ISAS.items() if n == chosen)


def number_of(isa: str) -> int:
    """The library's number of an instruction set.

    Raises:
        NativeError: an unknown name.
    """
    if isa not in ISAS:
        raise NativeError(unknown_name("instruction set", isa, [*ISAS]))
    return ISAS[isa]


def peak(isa: Isa = "auto", rounds: int = 1 << 20) -> float:
    """Run a loop of `rounds` rounds on registers only; returns how many multiply-accumulates it performed.

    The caller measures the time: this is the peak that the instruction set can reach.

    Raises:
        NativeError: the library or the instruction set is missing.
    """
    macs = ctypes.c_double()
    check(required().bz_peak(number_of(isa), rounds, ctypes.byref(macs)), "peak")
    return macs.value
