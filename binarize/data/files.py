"""Finding the files of a data set: lists, folders, pairs."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from binarize.data.dataset import Pair
from binarize.errors import DataError, listed, near_paths

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def inside(root: Path, name: str) -> Path:
    """The folder `name` in `root`; `root` itself if it has that name or no such folder."""
    return root if root.name == name or not (root / name).is_dir() else root / name


def folder(path: Path, what: str) -> Path:
    """`path`, if it is a folder.

    Raises:
        DataError: it is not a folder.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; expected {what}.{near_paths(path)}")
    return path


def text(path: Path) -> str:
    """A text file: UTF-8, with a byte order mark or without, or UTF-16 with one, as Windows writes it.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read, or is not text.
    """
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    return content.decode(encoding)


def lines(path: Path) -> dict[int, str]:
    """Lines of a list file by their numbers, without empty ones.

    Raises:
        DataError: it is missing, not a text, or empty.
    """
    try:
        content = text(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such list file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable list file ({error}).") from error
    found = {n: line.strip() for n, line in enumerate(content.splitlines(), start=1) if line.strip()}
    if not found:
        raise DataError(f"{path}: the list is empty.")
    if "\0" in content:
        raise DataError(
            f"{path}: not a readable list file (zero bytes: UTF-16 without a mark?). Save it as UTF-8."
        )
    return found


def columns(path: Path, count: Sequence[int]) -> list[list[str]]:
    """Columns of a list file, with blanks between; names with spaces are recognized by their endings.

    Args:
        path: of the list.
        count: how many columns a line may have.

    Raises:
        DataError: as `lines`, and a line with another number of columns.
    """
    found = []
    for number, line in lines(path).items():
        parts = split_columns(line)
        if len(parts) not in count:
            expected = " or ".join(map(str, count))
            raise DataError(f"{path}, line {number}: {len(parts)} columns, expected {expected}: {line!r}.")
        found.append(parts)
    return found


def split_columns(line: str) -> list[str]:
    """Columns of a line, with blanks between; names with spaces are recognized by their endings."""
    parts: list[str] = []
    pending = ""
    for word in line.replace("\t", " ").split(" "):
        pending = f"{pending} {word}" if pending else word
        if not pending:
            continue
        name = Path(pending)
        if name.suffix.lower() in IMAGES or pending in ("None",) or _is_number(pending):
            parts.append(pending)
            pending = ""
    return [*parts, pending] if pending else parts


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def place(base: Path, name: str) -> Path:
    """The file in `base` that a list calls `name`; if there is none, the likeliest path, for the message.

    Lists of Windows have backslashes between folders, and those of macOS may spell accents in another form
    (NFD) than the file system.
    """
    names = [name, name.replace("\\", "/")]
    paths = [base / spelled.lstrip("/") for n in names for spelled in (n, _nfc(n), _nfd(n))]
    return next((p for p in paths if p.is_file()), paths[3])


def hidden(path: Path) -> bool:
    """Whether a file is hidden, or in a hidden folder: `._x.png` of macOS is not an image."""
    return any(part.startswith(".") for part in path.parts if part not in (".", ".."))


def pictures(path: Path) -> list[Path]:
    """Image files of a folder, sorted by name; without hidden ones (`._x.png` of macOS) and folders."""
    return sorted(
        p for p in path.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith(".") and p.is_file()
    )


def images(path: Path) -> list[Path]:
    """`pictures` of a folder.

    Raises:
        DataError: it is not a folder, or holds none.
    """
    found = pictures(folder(path, "images"))
    if not found:
        raise DataError(f"{path}: no image in this folder ({', '.join(IMAGES)}).")
    return found


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _nfd(name: str) -> str:
    return unicodedata.normalize("NFD", name)


def existing(pairs: Iterable[Pair], source: Path) -> list[Pair]:
    """The pairs, all of whose files exist.

    Raises:
        DataError: some do not, or there is no pair; the first ones are named.
    """
    found = list(pairs)
    if not found:
        raise DataError(f"{source}: no image with a truth.")
    missing = [p for pair in found for p in pair if p is not None and not p.is_file()]
    if missing:
        raise DataError(f"{source}: missing {listed(map(str, missing), 3)}.")
    return found
