"""Safetensors files on disk: whole or not at all when written, a clear error or good tensors when read."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from binarize.errors import ConfigError, FormatError, near_paths


@dataclass(frozen=True)
class Container:
    """Tensors by name (on the CPU, in memory of their own) and the text entries of the file's header."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def check_target(path: str | os.PathLike[str]) -> Path:
    """`path` with links followed, if a file can be written there; nothing is written.

    Raises:
        ConfigError: if its folder is missing or closed to us, or something else than a file has that name.
    """
    given = Path(path)
    try:
        target = given.resolve()
        mode = target.stat().st_mode if target.exists() else None
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a NUL character
        raise ConfigError(f"cannot write {str(given)!r}: {_why(error)}. Choose another path.") from error
    if mode is not None and stat.S_ISDIR(mode):
        raise ConfigError(f"cannot write {str(given)!r}: it is a directory. Name a file in it.")
    if mode is not None and not stat.S_ISREG(mode):
        # The rename that ends the writing would replace a device or a pipe by a file.
        raise ConfigError(f"cannot write {str(given)!r}: it is not a regular file. Choose another path.")
    folder = target.parent
    if not folder.is_dir():
        raise ConfigError(
            f"cannot write {str(given)!r}: there is no directory {str(folder)!r}. Create it first."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write {str(given)!r}: no permission to write into {str(folder)!r}.")
    return target


def write(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write one safetensors file atomically; returns where it is, with links followed.

    Args:
        path: the file to write; an existing one is replaced.
        tensors: contiguous CPU tensors that share no memory.
        metadata: text entries for the header.

    Raises:
        ConfigError: if the path cannot be written or the disk is full.
    """
    check_target(path)  # before the work
    return write_bytes(path, *_parts(tensors, metadata))


def file_size(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Bytes of the file that `write` makes of these; the values of the tensors do not matter."""
    return sum(len(part) for part in _parts(tensors, metadata))


def write_bytes(path: str | os.PathLike[str], *parts: bytes | memoryview) -> Path:
    """Write one file atomically; returns where it is, with links followed.

    The bytes go to a temporary file in the same folder, reach the disk (fsync) and then take the name: a
    reader sees the old file or the new one. The temporary file is removed even if this is interrupted. A new
    file gets the permissions that the umask leaves; one that replaces another keeps those of the old one, and
    its owner where the system lets us.

    Args:
        path: the file to write; an existing one is replaced.
        *parts: its bytes, one part behind the other.

    Raises:
        ConfigError: if the path cannot be written or the disk is full.
    """
    target = check_target(path)
    temporary = target.parent / f".binarize-{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            if target.exists():
                _take_permissions(file.fileno(), target.stat())
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        count = sum(map(len, parts))
        raise ConfigError(
            f"cannot write {str(target)!r} ({count:,} bytes): {_why(error)}. Nothing was written."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)
    return target


def read(path: str | os.PathLike[str]) -> Container:
    """Read a safetensors file whole.

    Raises:
        ConfigError: if there is no such file or it may not be read.
        FormatError: if it is not a safetensors file, or a truncated or corrupted one.
    """
    with _opened(path) as file:
        # clone: tensors straight from the file are a memory map, and would change when the file does
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
        return Container(tensors, file.metadata() or {})


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The text entries of a safetensors file's header, without its tensors; raises as `read`."""
    with _opened(path) as file:
        return file.metadata() or {}


class _opened:  # noqa: N801 - used as a function
    """`safe_open` whose every failure, at opening or later, is one of our errors."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = check_readable(path)

    def __enter__(self) -> Any:
        try:
            self._file = safe_open(str(self._path), framework="pt", device="cpu")
            return self._file.__enter__()
        except Exception as error:
            raise self._translated(error) from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._file.__exit__(kind, error, trace)
        if isinstance(error, (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError)):
            raise self._translated(error) from error

    def _translated(self, error: BaseException) -> BaseException:
        if isinstance(error, PermissionError):
            return ConfigError(f"cannot read {str(self._path)!r}: {_why(error)}.")
        if isinstance(error, (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError)):
            return FormatError(_unreadable(self._path, error))
        return error


_TORCH = (".pth", ".pt", ".ckpt", ".bin", ".tar")
_OURS = "give a file that `binarize train`, `convert` or `deploy` wrote, or the folder of a run"


def _unreadable(path: Path, error: BaseException) -> str:
    """The message for another kind of file, with what to give in its place."""
    ending = path.suffix.lower()
    if ending == ".py":
        return f"{str(path)!r} is source code, without weights: {_OURS}."
    if ending in (".yaml", ".yml"):
        return f"{str(path)!r} has no weights; a recipe is for `binarize train`. Here {_OURS}."
    if ending in _TORCH:
        return (
            f"{str(path)!r} is not a safetensors file: {_OURS}, or start from such weights with "
            "`binarize convert MODEL --checkpoint FILE`."
        )
    text = f"{str(path)!r} is not a safetensors file, or it is truncated or corrupted: {error}."
    return text if ending == ".safetensors" else f"{text} {_OURS[0].upper()}{_OURS[1:]}."


def check_readable(path: str | os.PathLike[str]) -> Path:
    """`path`, if it is a file.

    Raises:
        ConfigError: if it is missing or something else than a file.
    """
    file = Path(path)
    try:
        if file.is_file():
            return file
        what = "it is a directory" if file.is_dir() else "it is not a regular file"
        reason = what if file.exists() else "there is no such file"
    except (OSError, ValueError) as error:
        reason = _why(error)
    raise ConfigError(f"cannot read {str(file)!r}: {reason}.{near_paths(file)}")


def detached(tensor: Tensor) -> Tensor:
    """A contiguous CPU copy-or-view of `tensor` without its gradient history."""
    return tensor.detach().to(torch.device("cpu")).contiguous()


def _parts(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Sequence[bytes | memoryview]:
    """The bytes of a safetensors file: length of the header, header, tensors.

    The library writes text entries in the order of a hash table, another one in each process; here they are
    in the order of their names, so that equal contents are equal bytes.
    """
    data = serialize(dict(tensors), dict(metadata))
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    if metadata:
        header = {"__metadata__": dict(sorted(metadata.items())), **_without_metadata(header)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little"), text, memoryview(data)[start:]


def _without_metadata(header: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in header.items() if name != "__metadata__"}


def _take_permissions(handle: int, old: os.stat_result) -> None:
    """Give a new file the mode of the one that it replaces, and its owner and group if that is allowed."""
    if not hasattr(os, "fchmod"):  # Windows: a file's rights come from its folder
        return
    new = os.fstat(handle)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        with contextlib.suppress(OSError):
            os.fchown(handle, old.st_uid, old.st_gid)
    with contextlib.suppress(OSError):  # of file systems without permissions
        os.fchmod(handle, stat.S_IMODE(old.st_mode))  # last: a new owner takes some bits away


def _why(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:]


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # some systems do not open folders; the file's bytes are safe either way
    try:
        os.fsync(handle)
    except OSError:
        pass  # some file systems do not sync folders
    finally:
        os.close(handle)
